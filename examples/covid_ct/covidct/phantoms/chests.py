"""Whole slices of phantom patients: normal chest, vessels, lesions, table and scanner put together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covidct.ct.volume import WINDOW
from covidct.phantoms.anatomy import Patient, lung_depth
from covidct.phantoms.lesions import Covid, Mask, Source
from covidct.phantoms.sections import AIR, Section, coverage, normal_section, place
from covidct.phantoms.texture import Array, Grid, Scanner
from covidct.phantoms.vessels import Tree, draw_tree, grow

KINDS = ("nodule", "mass", "effusion")


@dataclass(frozen=True)
class Chest:
    """A patient on a scanner, with the vessels near one axial level."""

    patient: Patient
    scanner: Scanner
    vessels: Tree
    bronchi: Tree

    @classmethod
    def draw(cls, rng: np.random.Generator, level: float) -> "Chest":
        """A random patient whose vessels are dense around `level` (0 apex, 1 base)."""
        patient = Patient.draw(rng)
        return cls._equip(rng, patient, grow(rng, patient, level))

    @classmethod
    def draw_whole(cls, rng: np.random.Generator) -> "Chest":
        """A random patient with vessels from apex to base."""
        patient = Patient.draw(rng)
        return cls._equip(rng, patient, grow(rng, patient, 0.5, tips=900, reach=patient.height / 2))

    @classmethod
    def _equip(cls, rng: np.random.Generator, patient: Patient, vessels: Tree) -> "Chest":
        # Bronchi run beside the larger arteries.
        large = vessels.only((vessels.last > 1.5) & (vessels.first < 4))
        turn = rng.uniform(-np.pi, np.pi)
        beside = (
            1.75
            * np.sqrt(large.first * large.last)[:, None]
            * np.array([[np.cos(turn), np.sin(turn), 0.0]], np.float32)
        )
        return cls(patient, Scanner.draw(rng), vessels, large.shifted(beside.astype(np.float32), 0.66))

    def paint_vessels(self, section: Section) -> None:
        """Add vessels; where something denser lies already they do not show."""
        hu = 30 + 0.7 * (self.patient.blood - 40)
        share = draw_tree(section, self.vessels) * section.lung
        np.maximum(section.hu, section.hu + share * (hu - section.hu), out=section.hu)

    def paint_bronchi(self, section: Section) -> None:
        """Add bronchi: dark tubes with a thin wall, which stay visible in consolidation."""
        wall = Tree(self.bronchi.start, self.bronchi.end, self.bronchi.first + 0.6, self.bronchi.last + 0.6)
        share = draw_tree(section, wall) * section.lung
        np.maximum(section.hu, section.hu + share * (-260 - section.hu), out=section.hu)
        section.blend(draw_tree(section, self.bronchi) * section.lung, -930.0)


def target_slice(seed: int, index: int) -> tuple[np.ndarray, Mask]:
    """One slice with COVID-like lesions, cropped to the lungs.

    Returns the 8-bit lung-window picture, (H, W) uint8 with the front of the body at the left and the patient's right
    at the top, and the mask of the infection, (H, W) bool. They depend on `seed` and `index` alone.
    """
    rng = np.random.default_rng([seed, 1, index])
    level = float(rng.beta(1.6, 1.6) * 0.66 + 0.19)
    chest = Chest.draw(rng, level)
    grid = _around_lungs(rng, chest.patient, level)
    section = normal_section(chest.patient, grid)
    lesions = Covid.draw(rng, chest.patient.lung)
    mask = lesions.paint(section, lesions.share * section.hu.size)
    chest.paint_bronchi(section)
    chest.paint_vessels(section)
    hu = chest.scanner.scan(rng, section.hu, grid)
    return windowed(hu), mask


def windowed(hu: Array) -> NDArray[np.uint8]:
    """HU clipped to the lung window and scaled to 0..255."""
    low, high = WINDOW
    return np.asarray(np.rint(np.clip((hu - low) / (high - low), 0, 1) * 255), dtype=np.uint8)


def source_case(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One to three neighbouring whole slices with a nodule, a mass or an effusion (by `index` in turn).

    Returns HU, (256, 256, S) int16; the mask, (256, 256, S) uint8; and the affine to RAS mm, (4, 4): the axes run to
    the patient's left, back and head.
    """
    rng = np.random.default_rng([seed, 2, index])
    kind = KINDS[index % len(KINDS)]
    level = float(rng.uniform(0.24, 0.74) if kind != "effusion" else rng.uniform(0.4, 0.82))
    chest = Chest.draw(rng, level)
    spacing, gap = float(rng.uniform(1.38, 1.5)), float(rng.choice([2.5, 3.0, 5.0]))
    axis = ((np.arange(256) - 127.5) * spacing).astype(np.float32)
    middle = level * chest.patient.height
    count = int(rng.choice([1, 1, 2, 3]))
    lesion = Source.draw(rng, kind, middle, lambda x, y: float(lung_depth(chest.patient, *_point(x, y), level)) > 9)
    circle = bool(rng.random() < 0.3)
    slices, masks = [], []
    for k in range(count):
        grid = Grid(axis, axis, middle - (k - (count - 1) / 2) * gap, spacing, min(gap, 3.0))
        hu, mask = _source_slice(rng, chest, lesion, grid, circle)
        slices.append(hu)
        masks.append(mask)
    affine = np.diag([-spacing, -spacing, gap, 1.0])
    affine[:3, 3] = [127.5 * spacing, 127.5 * spacing, -middle]
    return np.stack(slices, axis=2), np.stack(masks, axis=2).astype(np.uint8), affine


def _source_slice(
    rng: np.random.Generator, chest: Chest, lesion: Source, grid: Grid, circle: bool
) -> tuple[np.ndarray, Mask]:
    section = normal_section(chest.patient, grid)
    chest.paint_bronchi(section)
    chest.paint_vessels(section)
    mask = lesion.paint(section)
    paint_table(section)
    hu = np.clip(np.rint(chest.scanner.scan(rng, section.hu, grid)), -1024, 3071).astype(np.int16)
    if circle:
        # Some scanners fill what lies outside the scanned circle with a value below air.
        hu[np.hypot(grid.x[:, None], grid.y[None, :]) > grid.x[-1]] = -2048
    return hu, mask


def paint_table(section: Section, back: float | None = None) -> None:
    """Add the scanner's table below `back`, by default the back of the body in this slice, in mm."""
    grid = section.grid
    top = (back_of(section) if back is None else back) + 4 - 0.0012 * grid.x[:, None] ** 2
    below = grid.y[None, :] - top
    for depth in (0.0, 26.0):
        shell = coverage(1.4 - np.abs(below - depth), grid.spacing) * (section.hu < -500)
        section.blend(shell, -250.0)
    foam = ((below > 1.4) & (below < 24.6)).astype(np.float32) * (section.hu < -950)
    section.blend(foam, AIR + 60)


def back_of(section: Section) -> float:
    """Where the body ends at the back, in mm."""
    return float(section.grid.y[np.flatnonzero((section.hu > -500).any(axis=0))[-1]])


def _around_lungs(rng: np.random.Generator, patient: Patient, level: float) -> Grid:
    axis = np.arange(-190, 190, 2.5, dtype=np.float32)
    z = level * patient.height
    x, y = place(patient, Grid(axis, axis, z, 2.5, 1.0))
    inside = lung_depth(patient, x, y, level) > 0
    rows, columns = axis[inside.any(axis=1)], axis[inside.any(axis=0)]
    margin = rng.uniform(1, 6, 4)
    left, right = rows[0] - margin[0], rows[-1] + margin[1]
    front, back = columns[0] - margin[2], columns[-1] + margin[3]
    spacing = float((right - left) / rng.uniform(185, 390))
    return Grid(
        x=np.arange(left, right, spacing, dtype=np.float32),
        y=np.arange(front, back, spacing, dtype=np.float32),
        z=z,
        spacing=spacing,
        thickness=float(rng.choice([1.0, 1.5, 2.0, 3.0, 5.0])),
    )


def _point(x: float, y: float) -> tuple[Array, Array]:
    return np.asarray(x, np.float32), np.asarray(y, np.float32)
