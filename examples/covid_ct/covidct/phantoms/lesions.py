"""Lesions of the phantom: COVID-like ones as the target, nodules, masses and effusions as the source."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from covidct.phantoms.sections import Section
from covidct.phantoms.texture import Array, Field

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Covid:
    """Ground glass, consolidation and crazy paving of one patient, coherent along z."""

    share: float
    foci: np.ndarray
    glass: float
    edge: float
    consolidated: float
    solid: float
    paving: float
    coarse: Field
    ragged: Field
    grain: Field
    clumps: Field
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, lung: float) -> "Covid":
        """Infection covers 1 to 40 % of the cropped slice, median 11 %, most often at the back, on both sides.

        lung: HU of the healthy lung; ground glass is a step denser.
        """
        share = float(np.clip(np.exp(rng.normal(np.log(0.112), 0.85)), 0.008, 0.42))
        return cls(
            share=share,
            foci=draw_foci(rng, share),
            glass=float(min(lung + rng.uniform(110, 400), -430)),
            edge=float(rng.uniform(0.08, 0.5)),
            consolidated=float(rng.beta(1.2, 2.5)) if rng.random() < 0.6 else 0.0,
            solid=float(rng.uniform(-90, 45)),
            paving=float(rng.uniform(70, 200)) if rng.random() < 0.3 else 0.0,
            coarse=Field(rng, 46),
            ragged=Field(rng, 17),
            grain=Field(rng, 6),
            clumps=Field(rng, 24),
            seed=int(rng.integers(2**31)),
        )

    def paint(self, section: Section, area: float) -> Mask:
        """Paint the lesions over about `area` pixels and return their mask, (H, W)."""
        inside = section.lung > 0.5
        near = self.closeness(section, nearness(section, self.foci))
        count = int(np.clip(area, 12, 0.86 * inside.sum()))
        candidates = near[inside]
        level = np.partition(candidates, len(candidates) - count)[len(candidates) - count]
        mask = _tidy((near - level > 0) & inside)
        excess = self.border(section, near - level)
        start = np.quantile(self.density(section, excess)[mask], self.aerated) if self.consolidated else np.inf
        self.blend(section, excess, float(start))
        return mask

    @property
    def aerated(self) -> float:
        """The share of the lesions that is not consolidated."""
        return 1 - 0.8 * self.consolidated

    def closeness(self, section: Section, nearest: Array) -> Array:
        """How near a pixel is to the middle of a lesion, (H, W), from `nearness`: irregular as lesions are."""
        return np.asarray(nearest + 0.38 * self.coarse(section.grid) + 0.26 * self.ragged(section.grid))

    def border(self, section: Section, excess: Array) -> Array:
        """`excess`, (H, W), with the finer border that the lesion has and readers draw smoother."""
        return np.asarray(excess + 0.09 * self.grain(section.grid))

    def density(self, section: Section, excess: Array) -> Array:
        """What decides where a lesion is consolidated, (H, W): its core first."""
        grid = section.grid
        return np.asarray(excess + 0.45 * self.clumps(grid) + 0.3 * self.ragged(grid) + 0.07 * self.grain(grid))

    def blend(self, section: Section, excess: Array, start: float) -> None:
        """Paint ground glass where `excess`, (H, W), is above 0, consolidation where the density is above `start`."""
        grid = section.grid
        alpha = section.lung / (1 + np.exp(-np.clip(excess / self.edge * 2.5, -30, 30)))
        alpha = alpha * np.clip(0.85 + 0.22 * self.clumps(grid), 0.35, 1)
        glass = self.glass + 38 * self.grain(grid) + 40 * self.ragged(grid) + 130 * np.clip(excess, 0, 1)
        if self.paving:
            patchy = np.clip(0.55 + 0.6 * self.clumps(grid), 0, 1)
            glass = glass + self.paving * patchy * _septa(self.seed, section)
        section.blend(alpha, np.maximum(section.hu, glass))
        if self.consolidated:
            dense = self.density(section, excess) - start
            share = alpha / (1 + np.exp(-np.clip(dense / 0.17, -30, 30))) * np.clip(excess / 0.1 + 0.5, 0, 1)
            section.blend(share, self.solid + 30 * self.grain(grid))


def draw_foci(rng: np.random.Generator, share: float) -> np.ndarray:
    """Rows of (direction, depth below the chest wall, half-length along it, half-depth, strength) in radians and mm."""
    count = 1 + rng.poisson(1.2 + 9 * np.sqrt(share))
    first = rng.choice([-1, 1])
    side = np.where(rng.random(count) < 0.72, first * (-1) ** np.arange(count), first)
    # From the back (pi/2) round either side; the back is the most common place.
    turn = np.abs(rng.normal(np.radians(54), np.radians(38), count))
    size = 0.55 + 1.5 * np.sqrt(share) * rng.uniform(0.6, 1.4, count)
    central = rng.random(count) < 0.22
    return np.stack(
        [
            np.pi / 2 - side * np.clip(turn, np.radians(20), np.radians(165)),
            np.where(central, rng.uniform(25, 55, count), rng.uniform(0, 9, count)),
            size * rng.uniform(14, 34, count) * np.where(central, 0.7, 1),
            size * rng.uniform(9, 22, count),
            rng.uniform(0.75, 1.1, count),
        ],
        axis=1,
    )


def nearness(section: Section, foci: np.ndarray, lift: Array | None = None) -> Array:
    """1 at the middle of a focus, falling by 1 per half-axis, (H, W): a crescent that follows the chest wall.

    foci: rows of `draw_foci`. lift: how many half-heights above or below each focus the slice lies, by default 0.
    """
    best = np.full(section.grid.shape, -9, np.float32)
    lifts = np.zeros(len(foci)) if lift is None else lift
    for (direction, depth, length, thickness, strength), off in zip(
        foci.astype(np.float32), lifts.astype(np.float32), strict=True
    ):
        turn = np.mod(section.theta - direction + np.float32(np.pi), np.float32(2 * np.pi)) - np.float32(np.pi)
        along, below = turn * section.radius / length, (section.depth - depth) / thickness
        np.maximum(best, strength - np.sqrt(along * along + below * below + off * off), out=best)
    return best


def _tidy(mask: Mask) -> Mask:
    """Without holes and specks that no reader would draw."""
    mask = ndimage.binary_closing(mask, iterations=1) | mask
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= min(14, sizes[1:].max())
    keep[0] = False
    return np.asarray(keep[labels])


def _septa(seed: int, section: Section) -> Array:
    """Thickened septa: the borders of a Voronoi diagram with cells of 4 to 6 mm, 0 to about 1."""
    rng = np.random.default_rng([seed, int(section.grid.z // 8)])
    step = rng.uniform(3.8, 6.5) / section.pixel
    height, width = section.grid.shape
    rows, columns = np.meshgrid(np.arange(0, height, step), np.arange(0, width, step), indexing="ij")
    jitter = rng.uniform(-0.5, 0.5, (2, *rows.shape)) * step * 0.95
    empty = np.ones((height, width), bool)
    at = (np.clip(rows + jitter[0], 0, height - 1).astype(int), np.clip(columns + jitter[1], 0, width - 1).astype(int))
    empty[at] = False
    nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    cell = nearest[0] * width + nearest[1]
    border = np.zeros((height, width), np.float32)
    border[:-1] = cell[:-1] != cell[1:]
    border[:, :-1] += cell[:, :-1] != cell[:, 1:]
    return np.asarray(1.6 * ndimage.gaussian_filter(np.minimum(border, 1), 0.45 / section.pixel))


@dataclass(frozen=True)
class Source:
    """A lesion of another disease: `kind` is nodule, mass or effusion; `centre` (x, y, z) in the standard patient."""

    kind: str
    centre: tuple[float, float, float]
    size: float
    direction: float
    hu: float
    spikes: np.ndarray
    lobes: Field
    grain: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, kind: str, z: float, accept: Callable[[float, float], bool]) -> "Source":
        """A lesion of `kind` with its middle near `z` mm; `accept(x, y)` says whether a place lies well in the lung."""
        side = float(rng.choice([-1, 1]))
        x, y = side * 70.0, 20.0
        for _ in range(200):
            tried = side * rng.uniform(25, 125), rng.uniform(-80, 85)
            if accept(*tried):
                x, y = float(tried[0]), float(tried[1])
                break
        sizes = {"nodule": rng.uniform(4.5, 13), "mass": rng.uniform(15, 33), "effusion": rng.uniform(12, 48)}
        hu = {"nodule": rng.uniform(-40, 60), "mass": rng.uniform(15, 60), "effusion": rng.uniform(0, 20)}
        count = int(rng.integers(9, 18)) if kind == "mass" else int(rng.integers(0, 7))
        angles = rng.uniform(-np.pi, np.pi, count)
        spikes = np.stack([angles, rng.uniform(0.35, 0.9, count), rng.uniform(0.7, 1.7, count)], axis=1)
        return cls(
            kind=kind,
            centre=(x, y, z + float(rng.normal(0, 1.5))),
            size=float(sizes[kind]),
            direction=float(np.pi / 2 - side * rng.uniform(0.55, 0.85)),
            hu=float(hu[kind]),
            spikes=spikes,
            lobes=Field(rng, 22),
            grain=Field(rng, 8),
        )

    def paint(self, section: Section) -> Mask:
        """Paint the lesion and return its mask, (H, W)."""
        if self.kind == "effusion":
            return self._paint_effusion(section)
        x, y = section.x - np.float32(self.centre[0]), section.y - np.float32(self.centre[1])
        lift = section.grid.z - self.centre[2]
        wobble = (0.16 if self.kind == "mass" else 0.1) * self.size * self.lobes(section.grid)
        distance = np.hypot(x, y)
        body = self.size + wobble - np.sqrt(distance**2 + lift**2)
        angle = np.arctan2(y, x)
        spiky = np.full(section.grid.shape, -9, np.float32)
        for direction, length, width in self.spikes.astype(np.float32):
            off = np.abs(np.sin(angle - direction)) * distance + 9 * (np.cos(angle - direction) < 0)
            tip = self.size * (1 + length)
            np.maximum(spiky, width * (1 - distance / tip) * 1.6 - off, out=spiky)
        solid = self.hu + 12 * self.grain(section.grid)
        # A rim of hazier lung, then spicules, then the body.
        section.blend(0.35 * section.lung * np.clip(1 + body / 5, 0, 1), -500.0)
        section.blend(0.8 * section.lung * np.clip(0.5 + spiky / section.pixel, 0, 1), solid)
        section.blend(section.lung * np.clip(0.5 + body / max(1.6, section.pixel), 0, 1), solid)
        return _tidy_or_empty((body > 0) & (section.lung > 0.5))

    def _paint_effusion(self, section: Section) -> Mask:
        turn = np.mod(
            section.theta - np.float32(self.direction) + np.float32(np.pi), np.float32(2 * np.pi)
        ) - np.float32(np.pi)
        side = np.sign(self.centre[0])
        # Water settles at the back; its surface climbs along the chest wall.
        height = self.size * np.exp(-((turn / 0.75) ** 2)) + 1.5 * self.lobes(section.grid) - 4
        crescent = np.minimum(height - section.depth, side * section.x + 4)
        collapsed = np.clip(0.5 + (crescent + 0.2 * height - 1) / 4, 0, 1)
        section.blend(section.lung * collapsed, 30 - 500 * np.clip(-crescent / 9, 0, 1))
        section.blend(section.lung * np.clip(0.5 + crescent / section.pixel, 0, 1), self.hu)
        return _tidy_or_empty((crescent > 0) & (section.lung > 0.5))


def _tidy_or_empty(mask: Mask) -> Mask:
    return _tidy(mask) if mask.any() else mask
