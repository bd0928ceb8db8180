"""One axial slice of the normal chest of the phantom, in HU."""

from dataclasses import dataclass, replace

import numpy as np

from covidct.phantoms.anatomy import (
    CAVITY,
    FILLET,
    ORGANS,
    Patient,
    ellipse_depth,
    organ_rows,
    sheath,
    smooth_max,
    spine_depth,
    spine_shift,
)
from covidct.phantoms.texture import Array, Grid

AIR, FAT, MUSCLE = -1000.0, -105.0, 55.0
RIB_STEP = np.radians(25)


@dataclass
class Section:
    """A slice while it is painted; all arrays (H, W), lengths in mm.

    `hu`: the picture so far; `lung`: how much of a pixel is lung, 0 to 1; `depth`: signed depth below the chest wall;
    `theta`: direction from the axis of the chest (0 left, pi/2 back); `x`, `y`: place in the standard patient.
    """

    patient: Patient
    grid: Grid
    level: float
    pixel: float
    x: Array
    y: Array
    theta: Array
    radius: Array
    depth: Array
    lung: Array
    hu: Array

    def paint(self, depth: Array, hu: Array | float) -> None:
        """Fill the shape of signed `depth` with `hu`, partly where its edge crosses a pixel."""
        self.blend(coverage(depth, self.pixel), hu)

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """The part of the slice within `reach` mm of a place: small shapes need no more."""
        patient, reach = self.patient, reach + 2 * self.pixel
        cos, sin = np.cos(patient.rotation), np.sin(patient.rotation)
        width, depth = patient.width, patient.depth
        centres = (cos * x * width - sin * y * depth, sin * x * width + cos * y * depth)
        reaches = (reach * (cos * width + abs(sin) * depth), reach * (cos * depth + abs(sin) * width))
        rows, columns = (
            slice(*np.searchsorted(axis, (centre - half, centre + half)).tolist())
            for axis, centre, half in zip((self.grid.x, self.grid.y), centres, reaches, strict=True)
        )
        return rows, columns

    def part(self, window: tuple[slice, slice]) -> "Section":
        """A view of `window`: what is painted there is painted here."""
        arrays = ("x", "y", "theta", "radius", "depth", "lung", "hu")
        grid = replace(self.grid, x=self.grid.x[window[0]], y=self.grid.y[window[1]])
        return replace(self, grid=grid, **{name: getattr(self, name)[window] for name in arrays})

    def blend(self, alpha: Array, hu: Array | float) -> None:
        """Mix `hu` in with weight `alpha`."""
        self.hu += alpha * (hu - self.hu)


def coverage(depth: Array, pixel: float) -> Array:
    """How much of a pixel lies inside a shape, from the signed depth of its centre."""
    return np.asarray(np.clip(0.5 + depth / pixel, 0, 1))


def place(patient: Patient, grid: Grid) -> tuple[Array, Array]:
    """The pixels' places in the standard patient, in mm: two (H, W)."""
    cos, sin = np.float32(np.cos(patient.rotation)), np.float32(np.sin(patient.rotation))
    x, y = grid.x[:, None], grid.y[None, :]
    return (x * cos + y * sin) / np.float32(patient.width), (y * cos - x * sin) / np.float32(patient.depth)


def normal_section(patient: Patient, grid: Grid) -> Section:
    """Paint body, bones, mediastinum and lungs, without vessels in the lungs, lesions, table and noise."""
    x, y = place(patient, grid)
    level = grid.z / patient.height
    shift = float(np.interp(level, CAVITY[:, 0], CAVITY[:, 3]))
    theta = np.arctan2(y - np.float32(shift), x)
    table = np.linspace(-np.pi, np.pi, 721, dtype=np.float32)
    cavity = np.interp(theta, table, patient.cavity_radius(table, level)).astype(np.float32)
    skin = np.interp(theta, table, patient.body_radius(table, level)).astype(np.float32)
    radius = np.hypot(x, y - np.float32(shift))
    body_radius = np.hypot(x, y - np.float32(8))
    section = Section(
        patient=patient,
        grid=grid,
        level=level,
        pixel=grid.spacing / patient.scale,
        x=x,
        y=y,
        theta=theta,
        radius=radius,
        depth=cavity - radius + 1.4 * patient.outer_field(grid),
        lung=np.zeros(grid.shape, np.float32),
        hu=np.full(grid.shape, AIR, np.float32),
    )
    # The back is flatter than the front.
    back = np.float32(0.9 * patient.body_radius(table[540:541], level)[0] + 8) - y
    _paint_wall(section, -smooth_max(body_radius - skin, -back, 40))
    _paint_mediastinum(section)
    _paint_spine(section.part(section.window(0, 75, 60)))
    _paint_ribs(section)
    return section


def _paint_wall(section: Section, skin: Array) -> None:
    patient, grid = section.patient, section.grid
    wobble = patient.outer_field(grid)
    section.paint(skin, 20.0)
    section.paint(skin - 2, FAT + 6 * patient.organ_field(grid))
    front = np.maximum(0, -np.sin(section.theta))
    # Fat lies thicker over the breast and the flanks than over the back.
    muscle = skin - patient.fat * (0.8 + 0.5 * front) - 3 * wobble - 3
    section.paint(muscle, MUSCLE + 5 * patient.organ_field(grid))
    outside = -section.depth
    texture = patient.organ_field(grid)
    for distance, width, sign in ((15.5, 0.9, 1), (25, 1.0, -1), (37, 1.1, 1)):
        # Sheets of fat between the layers of muscle, here and there.
        sheet = np.minimum(width, 1.2 * sign * texture) - np.abs(outside - distance - 5 * wobble - 2.5 * texture)
        section.paint(np.minimum(sheet, muscle - 4), FAT)
    if section.level < 0.45:
        for side in (-1, 1):
            _paint_scapula(section, side, muscle)


def _paint_scapula(section: Section, side: int, muscle: Array) -> None:
    lower = section.level / 0.45
    section = section.part(window := section.window(side * 122, 78, 46))
    muscle = muscle[window]
    x, y = section.x, section.y
    blade = ellipse_depth(x, y, (side * (118 - 4 * lower), 74 + 6 * lower, 36 * (1.05 - lower), 3.4, side * -48))
    spine = ellipse_depth(x, y, (side * 130, 86, 24 * (0.75 - lower) + 1, 4, side * -12))
    bone = np.maximum(blade, spine) if lower < 0.7 else blade
    _paint_bone(section, np.minimum(bone, np.minimum(muscle - 3, -section.depth - 10)), 1.4)


def _paint_mediastinum(section: Section) -> None:
    patient = section.patient
    bumps, swell = patient.organ_field(section.grid), patient.outer_field(section.grid)
    section.paint(section.depth + 1.2, MUSCLE)
    section.paint(section.depth, FAT + 10 * bumps)
    solid = spine_depth(section.x, section.y, float(spine_shift(section.level)))
    for name, row in organ_rows(patient, section.level).items():
        window = section.window(float(row[0]), float(row[1]), float(max(row[2], row[3])) + 2 * FILLET)
        part = section.part(window)
        # Large organs are not quite ellipses.
        size = min(float(row[2]), float(row[3]), 45.0)
        depth = ellipse_depth(part.x, part.y, row) + size * (0.08 * swell[window] + 0.025 * bumps[window])
        solid[window] = smooth_max(solid[window], depth + sheath(name), FILLET)
        _paint_organ(part, ORGANS[name].tissue, depth, bumps[window])
    section.lung[:] = coverage(np.minimum(section.depth, -solid - 0.8 * bumps), section.pixel)
    dependent = section.y / 95
    lung = patient.lung + patient.gravity * 0.5 * (dependent + np.maximum(dependent, 0) ** 3)
    # Lung that rests on the back is less aerated, which is no lesion.
    below = np.maximum(section.depth - 2 * bumps, 0)
    lung += patient.haze * np.clip(dependent + 0.15 * swell, 0, 1) * np.exp(-below / 7)
    section.blend(section.lung, lung + 12 * bumps + 14 * patient.fine_field(section.grid))


def _paint_organ(part: Section, tissue: str, depth: Array, bumps: Array) -> None:
    blood = part.patient.blood
    inside = np.minimum(depth, part.depth - 1)
    if tissue == "air":
        part.paint(inside + 1.5, MUSCLE - 30)
        part.paint(inside, AIR + 15)
    elif tissue == "heart":
        part.paint(inside, MUSCLE + 0.3 * (blood - 40))
        part.paint(inside - 8 - 3 * bumps, blood)
    elif tissue != "fat":
        perfused = {"soft": 0.1, "blood": 1.0, "liver": 0.3, "spleen": 0.35}[tissue]
        part.paint(inside, 45 + perfused * (blood - 45) + 4 * bumps)


def _paint_bone(section: Section, depth: Array, cortex: float) -> None:
    section.paint(depth, 780.0)
    section.paint(depth - cortex, 170.0 + 60 * section.patient.fine_field(section.grid))


def _paint_spine(section: Section) -> None:
    x, y = section.x, section.y - np.float32(spine_shift(section.level))
    # Discs and bodies alternate along the spine: one pair every 25 mm or so.
    disc = np.sin(section.level * 9 * 2 * np.pi + 6 * section.patient.rib_phase) > 0.75
    body = smooth_max(ellipse_depth(x, y, (0, 56, 18, 15, 0)), ellipse_depth(x, y, (0, 64, 17, 8, 0)), 4)
    arch = ellipse_depth(x, y, (0, 80, 15, 12.5, 0))
    for side in (-1, 1):
        arch = smooth_max(arch, ellipse_depth(x, y, (side * 22, 86, 16, 4.5, side * 20)), 4)
    arch = smooth_max(arch, ellipse_depth(x, y, (0, 102, 3.2, 14, 0)), 5)
    _paint_bone(section, arch, 2.2)
    if disc:
        section.paint(body, 85.0)
    else:
        _paint_bone(section, body, 1.6)
    canal = ellipse_depth(x, y, (0, 80, 9.5, 8, 0))
    section.paint(canal, -20.0)
    section.paint(canal - 2.5, 35.0)


def _paint_ribs(section: Section) -> None:
    patient = section.patient
    # Angle from the back round either side; ribs slope down to the front, so the row moves with the level.
    turn = np.pi / 2 - np.arctan2(np.sin(section.theta), np.abs(np.cos(section.theta)))
    offset = (patient.rib_phase + 4.4 * section.level) * RIB_STEP
    number = np.floor((turn - offset) / RIB_STEP)
    centre = (number + 0.5) * RIB_STEP + offset
    along = (turn - centre) * section.radius
    outside = -section.depth
    tilt = 0.16
    half = 15 + 6 * np.cos(2.2 * number + 9 * patient.rib_phase)
    rib = ellipse_depth(along, outside - tilt * along, (0, 6.5, half, 3.6, 0))
    inside_row = (centre > np.radians(24)) & (centre < np.radians(150))
    rib = np.where(inside_row, rib, -50)
    bony = np.where(inside_row & (centre < np.radians(132)), rib, -50)
    # Towards the sternum ribs are cartilage.
    section.paint(rib, 115.0)
    _paint_bone(section, bony, 1.5)
    if section.level < 0.78:
        front = float(patient.cavity_radius(np.array([-np.pi / 2]), section.level)[0])
        shift = float(np.interp(section.level, CAVITY[:, 0], CAVITY[:, 3]))
        width = 24 if section.level < 0.25 else 15
        part = section.part(section.window(0, shift - front - 7, 30))
        _paint_bone(part, ellipse_depth(part.x, part.y, (0, shift - front - 7, width, 6, 0)), 1.4)
