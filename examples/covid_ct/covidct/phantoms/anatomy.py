"""The normal chest of the phantom: every shape is a function of (x, y) and of the axial level.

Lengths are mm in the frame of a standard patient: origin in the middle of the chest, x to the patient's left, y to the
back, level 0 at the apices of the lungs, 1 at the lowest diaphragm. Shapes are given by their signed depth: how far
inside a point lies, negative outside.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from covidct.phantoms.texture import Array, Field

HILUM = 0.47

# Neighbouring organs share a smooth surface: notches are filled over this many mm.
FILLET = 7.0

# level, half-width, half-depth and backward shift of the chest cavity
CAVITY = np.array(
    [
        (0.00, 40, 30, 22),
        (0.08, 78, 52, 18),
        (0.18, 106, 70, 10),
        (0.30, 122, 84, 4),
        (0.45, 131, 93, 0),
        (0.65, 137, 99, 0),
        (1.00, 140, 101, 2),
    ]
)


@dataclass(frozen=True)
class Organ:
    """An ellipse that changes with the level.

    `rows`, (N, 6): level, x, y, half-axis, other half-axis, angle of the first axis in degrees; linear in between.
    """

    tissue: str
    rows: np.ndarray


def _read_organs() -> dict[str, Organ]:
    tissues: dict[str, str] = {}
    rows: dict[str, list[list[float]]] = {}
    with (Path(__file__).parent / "organs.csv").open(encoding="utf-8", newline="") as stream:
        for name, tissue, *numbers in islice(csv.reader(stream), 1, None):
            tissues[name] = tissue
            rows.setdefault(name, []).append([float(number) for number in numbers])
    return {name: Organ(tissues[name], np.array(rows[name])) for name in rows}


# In the order of painting: later ones lie on earlier ones.
ORGANS = _read_organs()


@dataclass(frozen=True)
class Patient:
    """What differs between patients; lengths relative to the standard patient, angles in radians."""

    width: float
    depth: float
    height: float
    rotation: float
    muscle: float
    fat: float
    heart: float
    diaphragm: float
    blood: float
    lung: float
    gravity: float
    haze: float
    rib_phase: float
    outline: np.ndarray
    outer_field: Field
    organ_field: Field
    fine_field: Field

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Patient":
        """Adults from slight to stout, most scanned without contrast, some with."""
        size = rng.normal(1, 0.05)
        enhanced = rng.random() < 0.4
        return cls(
            width=float(size * rng.normal(0.94, 0.03)),
            depth=float(size * rng.normal(1.13, 0.05)),
            height=float(size * rng.uniform(195, 240)),
            rotation=float(rng.normal(0, 0.05)),
            muscle=float(rng.uniform(0.75, 1.3)),
            fat=float(rng.gamma(4, 3.2) + 3),
            heart=float(rng.normal(1, 0.06)),
            diaphragm=float(rng.normal(0, 0.03)),
            blood=float(rng.uniform(110, 260)) if enhanced else float(rng.uniform(35, 50)),
            lung=float(np.clip(rng.normal(-874, 42), -945, -775)),
            gravity=float(rng.uniform(30, 120)),
            haze=float(260 * rng.beta(1, 2.2)),
            rib_phase=float(rng.random()),
            outline=rng.normal(0, [[0.010, 0.020, 0.007, 0.006], [0.004, 0.006, 0.004, 0.003]]),
            outer_field=Field(rng, 70),
            organ_field=Field(rng, 34),
            fine_field=Field(rng, 9),
        )

    @property
    def scale(self) -> float:
        return float(np.sqrt(self.width * self.depth))

    def cavity_radius(self, theta: Array, level: Array | float) -> Array:
        """Distance in mm from the axis of the chest to its inner wall in direction `theta` (0 left, pi/2 back)."""
        half_width, half_depth = (np.interp(level, CAVITY[:, 0], CAVITY[:, k]) for k in (1, 2))
        radius = _superellipse(theta, half_width, half_depth, 2.25)
        # Counted from the back: cosines are the same on both sides.
        angles = (theta[..., None] - np.pi / 2) * np.arange(2, 6)
        return np.asarray(radius * (1 + np.cos(angles) @ self.outline[0] + np.sin(angles) @ self.outline[1]))

    def body_radius(self, theta: Array, level: float) -> Array:
        """Distance in mm from the axis of the chest to the skin."""
        shoulders = np.interp(level, [0, 0.15, 0.4], [22, 18, 0])
        wide = 156 + 16 * self.muscle + shoulders + self.fat
        deep = 112 + 9 * self.muscle + 0.8 * self.fat
        return _superellipse(theta, wide, deep, 2.25 + 0.1 * self.muscle)


def smooth_max(a: Array, b: Array, width: float) -> Array:
    """The larger of two depths with the notch between the shapes filled over `width` mm."""
    overlap = np.maximum(width - np.abs(a - b), 0)
    return np.maximum(a, b) + overlap * overlap / (4 * width)


def organ_rows(patient: Patient, level: Array | float) -> dict[str, list[Array]]:
    """For each organ that occurs at `level`: x, y, two half-axes (0.5 where it is absent) and the angle."""
    found = {}
    for name, organ in ORGANS.items():
        rows = organ.rows
        at = level + patient.diaphragm if name.endswith("dome") else level
        row = [np.asarray(np.interp(at, rows[:, 0], rows[:, k]), np.float32) for k in range(1, 6)]
        if not np.any((row[2] > 1) & (row[3] > 1)):
            continue
        if organ.tissue == "heart" or name == "pericardial fat":
            row[2], row[3] = row[2] * np.float32(patient.heart), row[3] * np.float32(patient.heart)
        row[2], row[3] = np.maximum(row[2], np.float32(0.5)), np.maximum(row[3], np.float32(0.5))
        found[name] = row
    return found


def sheath(name: str) -> float:
    """Thickness in mm of what lies between an organ and the lung beside it."""
    return 3.0 if ORGANS[name].tissue == "air" else 0.6


def spine_depth(x: Array, y: Array, shift: Array | float) -> Array:
    """Signed depth inside the spine with the muscles at its sides."""
    body = ellipse_depth(x, y, (0, 60 + shift, 25, 24, 0))
    return smooth_max(body, ellipse_depth(x, y, (0, 98 + shift, 46, 26, 0)), 12)


def spine_shift(level: Array | float) -> Array | float:
    """How far the spine lies behind its place at mid-chest: the cavity is less deep at its top."""
    return np.interp(level, [0, 0.1, 0.25, 0.45, 1.0], [-14, -12, -6, 0, 4])


def lung_depth(patient: Patient, x: Array, y: Array, level: Array | float) -> Array:
    """Signed depth in mm inside the lungs: the chest cavity less mediastinum, spine and diaphragm; all broadcast."""
    shift = np.interp(level, CAVITY[:, 0], CAVITY[:, 3])
    theta = np.arctan2(y - shift, x)
    cavity = patient.cavity_radius(theta, level) - np.hypot(x, y - shift)
    solid = spine_depth(x, y, spine_shift(level))
    for name, row in organ_rows(patient, level).items():
        solid = smooth_max(solid, ellipse_depth(x, y, row) + sheath(name), FILLET)
    return np.asarray(np.minimum(cavity, -solid))


def _superellipse(theta: Array, a: Array | float, b: Array | float, power: float) -> Array:
    return (np.abs(np.cos(theta) / a) ** power + np.abs(np.sin(theta) / b) ** power) ** (-1 / power)


def ellipse_depth(x: Array, y: Array, row: Sequence[Array | float]) -> Array:
    """Signed depth in mm inside an ellipse (x, y, half-axis, half-axis, angle in degrees), to first order."""
    cx, cy, a, b, angle = row
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u, v = ((x - cx) * cos + (y - cy) * sin) / a, ((y - cy) * cos - (x - cx) * sin) / b
    q = np.sqrt(u * u + v * v) + 1e-6
    return q * (1 - q) / np.sqrt((u / a) ** 2 + (v / b) ** 2 + 1e-12)
