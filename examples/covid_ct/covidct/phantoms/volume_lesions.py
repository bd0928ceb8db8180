"""Lesions of whole phantom chests, coherent along z: COVID-like ones (target), masses and effusions (source)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from covidct.phantoms.anatomy import Patient, lung_depth
from covidct.phantoms.lesions import Covid, Mask, Source, draw_foci, nearness
from covidct.phantoms.sections import Section
from covidct.phantoms.texture import Array

# Specks of fewer voxels no reader would draw.
SPECK = 6


@dataclass(frozen=True)
class CovidVolume:
    """COVID-like lesions of one patient: foci with a place and a half-height along z, in mm; `share` of the lungs."""

    covid: Covid
    middle: np.ndarray
    half_height: np.ndarray
    share: float

    @classmethod
    def draw(cls, rng: np.random.Generator, patient: Patient, share: float) -> "CovidVolume":
        """Foci on both sides, more of them and larger ones where the `share` of the lungs is larger, most low down."""
        foci = np.concatenate([draw_foci(rng, min(share, 0.3)) for _ in range(2)])
        count = len(foci)
        # Septa of 5 mm are finer than the voxels of a volume.
        covid = replace(Covid.draw(rng, patient.lung), foci=foci, share=share, paving=0.0)
        return cls(
            covid=covid,
            middle=patient.height * (0.14 + 0.72 * rng.beta(2.2, 1.5, count)),
            half_height=np.sqrt(foci[:, 2] * foci[:, 3]) * rng.uniform(0.8, 1.5, count),
            share=share,
        )

    def paint(self, sections: Sequence[Section]) -> Mask:
        """Paint the lesions over neighbouring slices and return their mask, (S, H, W).

        One threshold on one field in space gives the share of the lungs: what lies on neighbouring slices agrees.
        """
        covid = self.covid
        inside = np.stack([section.lung > 0.5 for section in sections])
        near = np.stack([self._closeness(section) for section in sections])
        candidates = near[inside]
        count = int(np.clip(self.share * len(candidates), SPECK, 0.8 * len(candidates)))
        level = np.partition(candidates, len(candidates) - count)[len(candidates) - count]
        mask = _without_specks(_filled(near > level) & inside)
        excesses = [covid.border(section, plane - level) for section, plane in zip(sections, near, strict=True)]
        start = np.inf
        if covid.consolidated:
            pairs = zip(sections, excesses, strict=True)
            density = np.stack([covid.density(section, excess) for section, excess in pairs])
            start = float(np.quantile(density[mask], covid.aerated))
        for section, excess in zip(sections, excesses, strict=True):
            if excess.max() > -4 * covid.edge:
                covid.blend(section, excess, start)
        return mask

    def _closeness(self, section: Section) -> Array:
        lift = (section.grid.z - self.middle) / self.half_height
        return self.covid.closeness(section, nearness(section, self.covid.foci, lift))


def _filled(mask: Mask) -> Mask:
    return np.asarray(mask | ndimage.binary_closing(mask, np.ones((1, 3, 3), bool)))


def _without_specks(mask: Mask) -> Mask:
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= min(SPECK, sizes[1:].max())
    keep[0] = False
    return np.asarray(keep[labels])


@dataclass(frozen=True)
class SourceVolume:
    """A lesion of another disease in a whole chest: `source`, where its spicules lie along z, where effusion begins."""

    source: Source
    spicule: np.ndarray
    top: float

    @classmethod
    def draw(cls, rng: np.random.Generator, patient: Patient, kind: str) -> "SourceVolume":
        """A lesion of `kind` (nodule, mass or effusion), well in a lung, of a size that coarse voxels show."""
        level = float(rng.uniform(0.22, 0.74))

        def accept(x: float, y: float) -> bool:
            return float(lung_depth(patient, np.asarray(x), np.asarray(y), level)) > 9

        source = Source.draw(rng, kind, level * patient.height, accept)
        low, high = {"nodule": (7.0, 13.0), "mass": (15.0, 34.0), "effusion": (22.0, 55.0)}[kind]
        source = replace(source, size=float(rng.uniform(low, high)))
        return cls(source, rng.uniform(-0.9, 0.9, len(source.spikes)), float(rng.uniform(0.1, 0.45)))

    def paint(self, sections: Sequence[Section]) -> Mask:
        """Paint the lesion over neighbouring slices and return its mask, (S, H, W)."""
        planes = []
        for section in sections:
            reached = self.source.kind != "effusion" or section.level > self.top
            planes.append(self._at(section).paint(section) if reached else np.zeros(section.grid.shape, bool))
        return _without_specks(np.stack(planes) & np.stack([section.lung > 0.5 for section in sections]))

    def _at(self, section: Section) -> Source:
        source = self.source
        if source.kind == "effusion":
            # Water reaches up the back and is deepest above the diaphragm.
            rise = min((section.level - self.top) / (0.85 - self.top), 1.0)
            return replace(source, size=source.size * rise**0.7)
        lift = section.grid.z - source.centre[2]
        crossing = np.abs(self.spicule * source.size - lift) < 1 + section.grid.thickness / 2
        return replace(source, spikes=source.spikes[crossing])
