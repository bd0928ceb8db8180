"""Branching vessels and bronchi of the lungs: a tree in space, of which a slice shows dots and tapering streaks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covidct.phantoms.anatomy import CAVITY, HILUM, Patient, lung_depth
from covidct.phantoms.sections import Section
from covidct.phantoms.texture import Array

# What lies further than this from the slice, in mm, is not drawn densely.
REACH = 32.0


@dataclass(frozen=True)
class Tree:
    """Straight pieces of vessel: `start`, `end` (N, 3) in the standard patient, `first`, `last` radius (N,), all mm."""

    start: Array
    end: Array
    first: Array
    last: Array

    def shifted(self, offset: Array, scale: float) -> "Tree":
        """The same pieces moved by `offset` (N, 3), with radii times `scale`."""
        return Tree(self.start + offset, self.end + offset, self.first * scale, self.last * scale)

    def only(self, keep: NDArray[np.bool_]) -> "Tree":
        """The pieces where `keep` (N,) is true."""
        return Tree(self.start[keep], self.end[keep], self.first[keep], self.last[keep])


def grow(rng: np.random.Generator, patient: Patient, level: float, tips: int = 540, reach: float = REACH) -> Tree:
    """Trees of both lungs with `tips` ends each, dense within `reach` mm of the axial `level`.

    Random points in the lung are joined to the hilum by a radial spanning tree: each point to the cheapest one that
    lies nearer to the hilum, where turning is dear. The radius follows Murray's law: radius^2.6 grows with the number
    of points behind a branch.
    """
    parts = [
        _grow_side(rng, patient, side, _points_in_lung(rng, patient, side, level, tips, reach)) for side in (-1, 1)
    ]
    return Tree(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("start", "end", "first", "last")))


def _grow_side(rng: np.random.Generator, patient: Patient, side: int, tips: Array) -> Tree:
    root = np.array([side * 42.0, 12.0, HILUM * patient.height], np.float32)
    points = np.concatenate([root[None], tips])
    arm = points - root
    reach = np.linalg.norm(arm, axis=1)
    order = np.argsort(reach, kind="stable")
    points, arm, reach = points[order], arm[order], reach[order]
    parents = _parents(points, arm, reach)
    leaves = np.ones(len(points))
    for child in range(len(points) - 1, 0, -1):
        leaves[parents[child]] += leaves[child]
    radius = np.minimum(0.42 * leaves ** (1 / 2.6), 5.5) * rng.uniform(0.85, 1.15, len(points))
    start, end = points[parents[1:]], points[1:]
    # A branch is no thicker at its root than its parent, and bends a little half-way.
    first = np.minimum(radius[1:] * 1.15, np.maximum(radius[parents[1:]], radius[1:]))
    length = np.linalg.norm(end - start, axis=1, keepdims=True)
    middle = (start + end) / 2 + 0.06 * length * rng.standard_normal(start.shape)
    half = (first + radius[1:]) / 2
    pieces = (start, middle), (middle, end), (first, half), (half, radius[1:])
    return Tree(*(np.concatenate(piece).astype(np.float32) for piece in pieces))


def _points_in_lung(
    rng: np.random.Generator, patient: Patient, side: int, level: float, count: int, reach: float
) -> Array:
    low, high = sorted((level * patient.height, HILUM * patient.height))
    drawn = 5 * count
    z = rng.uniform(level * patient.height - reach, level * patient.height + reach, drawn)
    # Some more between slice and hilum, for the way there.
    way = rng.random(drawn) < 0.2
    z = np.where(way, rng.uniform(low - 10, high + 10, drawn), z)
    box = CAVITY[-1]
    x, y = side * rng.uniform(15, box[1], drawn), rng.uniform(-box[2], box[2], drawn) + 4
    inside = lung_depth(patient, x, y, np.clip(z / patient.height, 0.02, 0.98)) > 3
    return np.stack([x, y, z], axis=1)[inside][:count].astype(np.float32)


def _parents(points: Array, arm: Array, reach: Array) -> NDArray[np.intp]:
    squares = (points * points).sum(1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * points @ points.T, 1e-6))
    # Cosine between the way from the hilum to a candidate and the way on from there.
    ahead = (arm @ arm.T - (reach**2)[None, :]) / (apart * np.maximum(reach, 1)[None, :])
    cost = apart * (1.35 - np.minimum(ahead, 1))
    cost[np.triu_indices(len(points))] = np.inf
    cost[0] = 0
    return np.asarray(np.argmin(cost, axis=1))


def draw_tree(section: Section, tree: Tree) -> Array:
    """How much of each pixel is vessel, (H, W): 0 to 1, less where a thin one fills part of the slice's thickness."""
    share = np.zeros(section.grid.shape, np.float32)
    centre = section.grid.z
    half = section.grid.thickness / 2
    low, high = np.minimum(tree.start[:, 2], tree.end[:, 2]), np.maximum(tree.start[:, 2], tree.end[:, 2])
    thick = np.maximum(tree.first, tree.last)
    crossing = (low - thick < centre + half) & (high + thick > centre - half)
    for piece in np.flatnonzero(crossing).tolist():
        _stamp(section, share, tree, piece, half)
    return share


def _stamp(section: Section, share: Array, tree: Tree, piece: int, half: float) -> None:
    start, end = tree.start[piece], tree.end[piece]
    way = end - start
    first, last = float(tree.first[piece]), float(tree.last[piece])
    # The part of the piece inside the slice, longer by its own radius.
    begin, stop = 0.0, 1.0
    if abs(way[2]) > 1e-3:
        slack = half + max(first, last)
        ends = sorted(float((section.grid.z + sign * slack - start[2]) / way[2]) for sign in (-1, 1))
        begin, stop = max(0.0, ends[0]), min(1.0, ends[1])
    p, q = start + begin * way, start + stop * way
    r0, r1 = first + begin * (last - first), first + stop * (last - first)
    centre, reach = (p + q) / 2, np.abs(p - q)[:2].max() / 2 + max(r0, r1) + section.pixel
    window = section.window(float(centre[0]), float(centre[1]), float(reach))
    x, y = section.x[window] - p[0], section.y[window] - p[1]
    if not x.size:
        return
    u, v = float(q[0] - p[0]), float(q[1] - p[1])
    along = np.clip((x * u + y * v) / max(u * u + v * v, 1e-6), 0, 1)
    radius = r0 + along * (r1 - r0)
    # Where the axis leaves the slice, only a part of the round cross-section is left in it.
    beyond = np.maximum(np.abs(p[2] + along * (q[2] - p[2]) - section.grid.z) - half, 0)
    radius = np.sqrt(np.maximum(radius * radius - beyond * beyond, 0))
    depth = radius - np.hypot(x - along * u, y - along * v)
    partial = np.minimum(1, (radius / half) ** 0.6) * np.minimum(1, 2 * radius / section.pixel)
    inside = np.clip(0.5 + depth / section.pixel, 0, 1) * partial
    np.maximum(share[window], inside, out=share[window])
