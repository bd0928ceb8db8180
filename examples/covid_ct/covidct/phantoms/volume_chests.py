"""Whole chests of phantom patients: the sections of one patient stacked along z, with lesions and scanner noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covidct.phantoms.anatomy import ellipse_depth
from covidct.phantoms.chests import Chest, back_of, paint_table
from covidct.phantoms.lesions import Mask
from covidct.phantoms.sections import FAT, MUSCLE, Section, coverage, normal_section
from covidct.phantoms.texture import Array, Grid
from covidct.phantoms.volume_lesions import CovidVolume, SourceVolume

# A scan reaches from above the apices of the lungs to below the lowest recess.
TOP, BOTTOM = -0.06, 1.1
METAL = 3071.0


@dataclass(frozen=True)
class Frame:
    """The grid of a scan: `width` x `depth` pixels of `spacing` mm, slices `gap` mm apart."""

    width: int
    depth: int
    spacing: float
    gap: float

    def grids(self, height: float) -> list[Grid]:
        """The slices over lungs of `height` mm, from the feet to the head."""
        x, y = (
            ((np.arange(size) - (size - 1) / 2) * self.spacing).astype(np.float32) for size in (self.width, self.depth)
        )
        count = int(np.ceil((BOTTOM - TOP) * height / self.gap)) + 1
        return [
            Grid(x, y, float(BOTTOM * height - k * self.gap), self.spacing, min(self.gap, 5.0)) for k in range(count)
        ]

    def affine(self, height: float) -> NDArray[np.float64]:
        """From voxels to RAS mm, (4, 4): the axes run to the patient's left, back and head."""
        affine = np.diag([-self.spacing, -self.spacing, self.gap, 1.0])
        affine[:3, 3] = [(self.width - 1) / 2 * self.spacing, (self.depth - 1) / 2 * self.spacing, -BOTTOM * height]
        return affine


@dataclass(frozen=True)
class PhantomVolume:
    """One scan; arrays (X, Y, Z) along `affine`.

    `hu`: float32; `lesion`: bool; `lungs`: uint8, 1 the left lung, 2 the right, lesions in them included.
    """

    hu: Array
    lesion: Mask
    lungs: NDArray[np.uint8]
    affine: NDArray[np.float64]


def target_volume(seed: int, patient: int, scan: int, frame: Frame, share: float) -> PhantomVolume:
    """Scan number `scan` of patient number `patient`, with COVID-like lesions in about `share` of the lungs.

    It depends on the arguments alone; two scans of one patient differ in lesions, grid and noise.
    """
    chest = Chest.draw_whole(np.random.default_rng([seed, 3, patient]))
    rng = np.random.default_rng([seed, 4, scan])
    return _scan(rng, chest, frame, CovidVolume.draw(rng, chest.patient, share), metal=bool(rng.random() < 0.5))


def source_volume(seed: int, patient: int, frame: Frame, kind: str) -> PhantomVolume:
    """A scan of patient number `patient` with a lesion of another disease: a nodule, a mass or an effusion."""
    rng = np.random.default_rng([seed, 5, patient])
    chest = Chest.draw_whole(rng)
    return _scan(rng, chest, frame, SourceVolume.draw(rng, chest.patient, kind), metal=False)


def _scan(
    rng: np.random.Generator, chest: Chest, frame: Frame, lesions: CovidVolume | SourceVolume, *, metal: bool
) -> PhantomVolume:
    height = chest.patient.height
    sections = [normal_section(chest.patient, grid) for grid in frame.grids(height)]
    for section in sections:
        _close(section)
    # Before a lesion is painted over them: masses and effusions do not make a lung smaller.
    lungs = np.stack([np.where(s.lung > 0.5, np.where(s.x > 0, 1, 2), 0) for s in sections])
    if isinstance(lesions, CovidVolume):
        mask = lesions.paint(sections)
        _paint_tubes(chest, sections)
    else:
        _paint_tubes(chest, sections)
        mask = lesions.paint(sections)
    noise = _noise(rng, chest, sections)
    back = max(back_of(section) for section in sections)
    for section, level in zip(sections, noise, strict=True):
        paint_table(section, back)
        section.hu = chest.scanner.reconstruct(section.hu, section.grid) + level
    if metal:
        _paint_electrodes(rng, sections)
    hu = np.stack([section.hu for section in sections]).astype(np.float32)
    return PhantomVolume(
        hu=np.clip(np.moveaxis(hu, 0, 2), -1024, METAL),
        lesion=np.moveaxis(mask, 0, 2),
        lungs=np.moveaxis(lungs, 0, 2).astype(np.uint8),
        affine=frame.affine(height),
    )


def _paint_tubes(chest: Chest, sections: list[Section]) -> None:
    for section in sections:
        chest.paint_bronchi(section)
        chest.paint_vessels(section)


def _close(section: Section) -> None:
    """End the lungs above the apices and below the diaphragm, where single slices never lie."""
    level = section.level
    closed = np.full(section.grid.shape, -50, np.float32)
    # The recess between wall and diaphragm narrows from outside.
    narrowed = 520 * max(-level, 0) + 330 * max(level - 0.97, 0)
    if narrowed:
        closed = np.maximum(closed, narrowed - section.depth)
    grown = (level - 0.84) * 150
    if grown > 1:
        crura = (8.0, 6.0, min(12 + grown, 32.0), min(30 + 1.5 * grown, 60.0), 0.0)
        closed = np.maximum(closed, np.minimum(ellipse_depth(section.x, section.y, crura), grown))
    share = coverage(closed, section.pixel) * section.lung
    section.blend(share, MUSCLE - 15 if level < 0 else FAT + 40)
    section.lung -= share


def _noise(rng: np.random.Generator, chest: Chest, sections: list[Section]) -> Array:
    """Noise of neighbouring slices, (S, H, W), correlated by .4: their profiles overlap."""
    # Voxels are large: a part of the noise averages out.
    planes = 0.6 * np.stack([chest.scanner.noise_of(rng, section.grid) for section in sections])
    padded = np.concatenate([planes[:1], planes, planes[-1:]])
    return np.asarray((padded[1:-1] + 0.22 * (padded[:-2] + padded[2:])) / np.sqrt(1 + 2 * 0.22**2))


def _paint_electrodes(rng: np.random.Generator, sections: list[Section]) -> None:
    """Two electrodes on the skin of the chest: HU far above bone."""
    for level in rng.uniform(0.2, 0.7, 2).tolist():
        nearest = min(sections, key=lambda section: abs(section.level - level))
        column = int(rng.uniform(0.38, 0.62) * len(nearest.grid.x))
        skin = int(np.argmax(nearest.hu[column] > -300))
        nearest.hu[column : column + 2, max(skin - 1, 0) : skin + 1] = METAL
