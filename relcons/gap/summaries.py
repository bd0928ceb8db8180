"""Sums over the relations of a set, in one pass and constant memory, and what two such sets tell."""

from dataclasses import dataclass

import torch
from torch import Tensor

from relcons.functional import effective_rank

__all__ = ["Summary", "Sums", "between", "gap_of", "interval_of", "scale_of", "within"]

# Of the bootstrap interval.
LOW, HIGH = 0.025, 0.975
# Of the relations of the bootstrap, at most so many numbers each.
SKETCH = 4096


@dataclass
class Summary:
    """Sums over the relations R_i of a set, with the bootstrap's weights: row 0 has weight 1 for every image."""

    weights: Tensor  # (1 + bootstrap,): sums of the weights
    total: Tensor  # (rows * rows,): sum of R_i
    sketch: Tensor  # (1 + bootstrap, rows * rows or SKETCH): sums of the sketched R_i
    squares: Tensor  # (1 + bootstrap,): sums of ||R_i||^2
    count: int
    rank: float
    noise: "Summary | None" = None

    def mean(self) -> Tensor:
        """Mean of R_i."""
        return self.total / self.count

    def sketched(self) -> Tensor:
        """Means of the sketched R_i, by the weights of each row."""
        return self.sketch / self.weights[:, None]

    def square(self) -> Tensor:
        """Mean of ||R_i||^2."""
        return self.squares / self.weights

    def spread(self) -> Tensor:
        """Mean of ||R_i - R_j||^2 over pairs of different images."""
        inside = self.square() - _exact_at_0(self.sketched().square().sum(1), self.mean().square().sum())
        return (2 * self.count / (self.count - 1) * inside).clamp_min(0)


class Sums:
    """What a pass over a set adds up; ``summary`` closes it."""

    def __init__(self, bootstrap: int, random: torch.Generator, seed: int, ranked: int) -> None:
        self.bootstrap, self.random, self.seed, self.to_rank = bootstrap, random, seed, ranked
        self.weights = torch.zeros(1 + bootstrap, dtype=torch.float64)
        self.total: Tensor | None = None
        self.sketch: Tensor | float = 0.0
        self.squares = torch.zeros(1 + bootstrap, dtype=torch.float64)
        self.count, self.ranked, self.ranks = 0, 0, 0.0

    def add(self, relations: Tensor) -> None:
        """Count the relations of a batch, (B, rows, rows)."""
        rows = relations.detach().double().cpu()
        flat = rows.flatten(1)
        drawn = torch.poisson(torch.ones(self.bootstrap, len(flat), dtype=torch.float64), generator=self.random)
        weights = torch.cat([torch.ones(1, len(flat), dtype=torch.float64), drawn])
        added = flat.sum(0)
        if self.total is not None and added.shape != self.total.shape:
            raise ValueError(
                f"the relations of a set have {len(rows[0])} rows and others {round(len(self.total) ** 0.5)}; "
                "give an encoder and a relation whose matrices are of one size"
            )
        self.sketch = self.sketch + weights @ _sketched(flat, self.seed)
        self.total = added if self.total is None else self.total + added
        self.weights += weights.sum(1)
        self.squares += weights @ flat.square().sum(1)
        self.count += len(flat)
        ranked = rows[: self.to_rank - self.ranked]
        self.ranks += float(effective_rank(ranked).sum()) if len(ranked) else 0.0
        self.ranked += len(ranked)

    def summary(self, name: str) -> Summary:
        """Of the set called ``name``; ValueError where it has less than two relations."""
        if self.total is None or self.count < 2:
            raise ValueError(
                f"{name} has {self.count} relations, one an image (one a batch, where relation gives one matrix a "
                "batch); give two or more"
            )
        sketch = torch.as_tensor(self.sketch)
        return Summary(self.weights, self.total, sketch, self.squares, self.count, self.ranks / max(1, self.ranked))


def _sketched(flat: Tensor, seed: int) -> Tensor:
    """Count sketch (Charikar, Chen & Farach-Colton 2002): every entry goes, with a random sign, to one of few sums."""
    entries = flat.shape[1]
    if entries <= SKETCH:
        return flat
    random = torch.Generator().manual_seed(seed)
    places = torch.randint(SKETCH, (entries,), generator=random)
    signs = torch.randint(2, (entries,), generator=random) * 2 - 1
    return flat.new_zeros(len(flat), SKETCH).index_add_(1, places, flat * signs)


def _exact_at_0(sketched: Tensor, exact: Tensor) -> Tensor:
    """Squared norms of sketches, moved so that the first, of all images once, is the exact one."""
    return sketched - sketched[0] + exact


def scale_of(a: Summary, b: Summary) -> Tensor:
    """Mean of ||R||^2 over both sets, never 0."""
    return ((a.square() + b.square()) / 2).clamp_min(torch.finfo(torch.float64).tiny)


def within(of: Summary, scale: Tensor) -> float:
    """Distance of two relations of one set, over ``scale``."""
    return float((of.spread()[0] / scale[0]).sqrt())


def between(a: Summary, b: Summary) -> float:
    """Distance of a relation of ``a`` and one of ``b``."""
    squared = a.square()[0] + b.square()[0] - 2 * (a.mean() * b.mean()).sum()
    return float((squared.clamp_min(0) / scale_of(a, b)[0]).sqrt())


def _excess(a: Summary, b: Summary) -> Tensor:
    """Squared distance of the mean relations without what the images' spread adds to it, over the norm; signed."""
    apart = _exact_at_0((a.sketched() - b.sketched()).square().sum(1), (a.mean() - b.mean()).square().sum())
    return (apart - (a.spread() / a.count + b.spread() / b.count) / 2) / scale_of(a, b)


def gap_of(a: Summary, b: Summary) -> float:
    """Distance of the mean relations, without what the spread of the images adds."""
    return float(_excess(a, b)[0].clamp_min(0).sqrt())


def interval_of(a: Summary, b: Summary) -> tuple[float, float] | None:
    """Bootstrap interval of ``gap_of``; None without a bootstrap."""
    found = _excess(a, b)
    if len(found) < 3:
        return None
    # Of a few images a sample can be empty.
    drawn = found[1:][found[1:].isfinite()]
    if len(drawn) < 2:
        return float("nan"), float("nan")
    # A sample with replacement has images twice, which moves all of its estimates alike: that is taken off.
    drawn = drawn - drawn.mean() + found[0]
    low, high = torch.quantile(drawn, torch.tensor([LOW, HIGH], dtype=torch.float64)).clamp_min(0).sqrt().tolist()
    return low, high
