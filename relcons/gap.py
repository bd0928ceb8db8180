"""How far the relations of two data sets lie apart under one encoder, beside how far they lie apart within each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from relcons.checks import check_count
from relcons.functional import effective_rank
from relcons.relations import GramRelation, SampleRelation

__all__ = ["RelationGap", "RelationGaps", "relation_gap", "relation_gaps"]

Images = Tensor | Sequence[Any] | Mapping[str, Any]
Progress = Callable[[int], None]

# Of the bootstrap interval.
LOW, HIGH = 0.025, 0.975
# Of the relations of the bootstrap, at most so many numbers each.
SKETCH = 4096
# Relations of a set whose effective rank is taken: a decomposition costs more than the encoder's pass.
RANKED = 32


@dataclass(frozen=True)
class RelationGap:
    r"""Distances of relations, each a share of their root mean squared norm over both sets.

    ``within_a``, ``within_b``: between images of one set, $\sqrt{E \lVert R_i - R_j \rVert^2 / E \lVert R \rVert^2}$;
    ``between``: between those of both sets. ``gap``: what ``between`` exceeds them by, the distance of
    the sets' mean relations, $\sqrt{\max(0, between^2 - (within_a^2 + within_b^2) / 2)}$, with the
    bootstrap's 95 % ``interval``, None without a bootstrap. ``noise``: between the images of ``a`` and
    normally distributed ones, None where it was not asked for. ``rank_a``, ``rank_b``: mean effective
    rank of the first 32 relations. ``moved``: how far the encoder's weights are from where they started, as a
    share of their norm; None where that was not given.

    An encoder that has collapsed has small ``within`` and ``noise``, whatever the gap is: all images
    relate alike. One that ignores the loss has all of them, and the gap, as at its start.
    """

    between: float
    within_a: float
    within_b: float
    gap: float
    interval: tuple[float, float] | None
    noise: float | None
    rank_a: float
    rank_b: float
    moved: float | None


@dataclass(frozen=True)
class RelationGaps:
    """Gaps between several sets: ``gap[i][j]`` of sets ``i`` and ``j``, its ``interval``, and ``within`` each."""

    names: tuple[str, ...]
    gap: tuple[tuple[float, ...], ...]
    interval: tuple[tuple[tuple[float, float] | None, ...], ...]
    within: tuple[float, ...]


def relation_gap(
    encoder: nn.Module,
    a: Iterable[Images],
    b: Iterable[Images],
    *,
    relation: nn.Module | None = None,
    batches: int | None = None,
    bootstrap: int = 100,
    noise: bool = True,
    start: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> RelationGap:
    """Distance between the relations of two data sets under one encoder, beside the distance within each.

    One pass over each set, in the encoder's own mode: in training mode batch norm takes the batch's
    statistics, as in training; what it keeps of them is put back. Memory does not grow with the sets: kept
    are a sum of relations and one for each bootstrap sample, for which images are drawn with replacement
    (Poisson weights). Above 64 rows those of the bootstrap are sketched: 4,096 sums of entries with random
    signs, 3.3 MB for 100 samples at any C, which touches the interval alone, its width by about 2 %.

    Args:
        encoder: from images to a map ``(B, C, *spatial)``, or to a sequence of maps, whose last is taken.
        a: batches of images: tensors, sequences whose first entry is one, or mappings with ``image``.
        b: those of the other set.
        relation: module from maps to ``(B, C, C)``, one relation an image, or ``(C, C)``, one a batch, which
            then takes the image's place everywhere. None is ``GramRelation(batch="none")``;
            ``GramRelation()`` compares batches as the losses do.
        batches: of each set, at most; None: all.
        bootstrap: samples of the interval; 0 leaves it out.
        noise: also relate ``a`` to images of normally distributed noise, as many and as large.
        start: a ``state_dict`` of the encoder's start, to tell how far it has moved.
        seed: of the bootstrap and the noise.
        progress: called with the number of batches done.

    Raises:
        TypeError: a set is a tensor instead of batches, a batch holds no tensor of images, or ``relation`` is
            of samples, which two sets do not share.
        ValueError: a set has fewer than two images (or batches, with a relation of batches), the relations of
            both differ in size, or ``start`` is another network's.

    Examples:
        >>> encoder = torch.nn.Conv2d(1, 8, 3)
        >>> dark, bright = torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16) + 1
        >>> found = relation_gap(encoder, dark.split(4), bright.split(4), bootstrap=20)
        >>> found.gap <= found.between
        True
    """
    sets = _Sets(encoder, relation, batches, bootstrap, seed, progress)
    with _as_it_was(encoder):
        of_a = sets.summary("a", a, noise=noise)
        of_b = sets.summary("b", b)
    _check_same_size({"a": of_a, "b": of_b})
    scale = _scale(of_a, of_b)
    return RelationGap(
        between=_between(of_a, of_b),
        within_a=_within(of_a, scale),
        within_b=_within(of_b, scale),
        gap=_gap(of_a, of_b),
        interval=_interval(of_a, of_b),
        noise=None if of_a.noise is None else _between(of_a, of_a.noise),
        rank_a=of_a.rank,
        rank_b=of_b.rank,
        moved=None if start is None else _moved(encoder, start),
    )


def relation_gaps(
    encoder: nn.Module,
    sets: Mapping[str, Iterable[Images]],
    *,
    relation: nn.Module | None = None,
    batches: int | None = None,
    bootstrap: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> RelationGaps:
    """The gaps between every two of several data sets; [`plot.relation_gaps`][relcons.plot.relation_gaps] draws them.

    Arguments, memory and errors as of [`relation_gap`][relcons.relation_gap]; every set is passed over once.

    Args:
        sets: batches of images by the set's name; two sets at least.

    Examples:
        >>> encoder, images = torch.nn.Conv2d(1, 8, 3), torch.rand(3, 8, 1, 16, 16)
        >>> found = relation_gaps(encoder, {name: [each] for name, each in zip("abc", images)}, bootstrap=0)
        >>> len(found.gap)
        3
    """
    if len(sets) < 2:
        raise ValueError(f"sets must be two or more, got {len(sets)}")
    maker = _Sets(encoder, relation, batches, bootstrap, seed, progress)
    with _as_it_was(encoder):
        found = {name: maker.summary(name, images, ranked=0) for name, images in sets.items()}
    _check_same_size(found)
    each = list(found.values())
    return RelationGaps(
        names=tuple(found),
        gap=tuple(tuple(0.0 if a is b else _gap(a, b) for b in each) for a in each),
        interval=tuple(tuple(None if a is b else _interval(a, b) for b in each) for a in each),
        within=tuple(_within(summary, _scale(summary, summary)) for summary in each),
    )


@dataclass
class _Summary:
    """Sums over the relations R_i of a set, with the bootstrap's weights: row 0 has weight 1 for every image."""

    weights: Tensor  # (1 + bootstrap,): sums of the weights
    total: Tensor  # (rows * rows,): sum of R_i
    sketch: Tensor  # (1 + bootstrap, rows * rows or SKETCH): sums of the sketched R_i
    squares: Tensor  # (1 + bootstrap,): sums of ||R_i||^2
    count: int
    rank: float
    noise: "_Summary | None" = None

    def mean(self) -> Tensor:
        return self.total / self.count

    def sketched(self) -> Tensor:
        return self.sketch / self.weights[:, None]

    def square(self) -> Tensor:
        """Mean of ||R_i||^2."""
        return self.squares / self.weights

    def spread(self) -> Tensor:
        """Mean of ||R_i - R_j||^2 over pairs of different images."""
        inside = self.square() - _exact_at_0(self.sketched().square().sum(1), self.mean().square().sum())
        return (2 * self.count / (self.count - 1) * inside).clamp_min(0)


@dataclass
class _Sets:
    """Makes summaries of sets under one encoder."""

    encoder: nn.Module
    relation: nn.Module | None
    batches: int | None
    bootstrap: int
    seed: int
    progress: Progress | None

    def __post_init__(self) -> None:
        if self.batches is not None:
            check_count("batches", self.batches, 1)
        check_count("bootstrap", self.bootstrap, 0)
        self.relation = GramRelation(batch="none") if self.relation is None else self.relation
        parameter = next(self.encoder.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        if isinstance(self.relation, SampleRelation):
            raise TypeError("relation must be of what both sets share, got SampleRelation; give GramRelation")
        self.random = torch.Generator().manual_seed(self.seed)
        self.done = 0

    @torch.no_grad()
    def summary(self, name: str, images: Iterable[Images], *, noise: bool = False, ranked: int = RANKED) -> _Summary:
        if isinstance(images, Tensor):
            raise TypeError(f"{name} must be batches of images, got a tensor; give [{name}] or {name}.split(8)")
        own, beside = _Sums(self.bootstrap, self.random, self.seed, ranked), _Sums(0, self.random, self.seed, 0)
        for batch in islice(images, self.batches):
            tensor = _images(name, batch).to(self.device)
            own.add(self._relations(tensor))
            if noise:
                normal = torch.randn(tensor.shape, generator=self.random, dtype=tensor.dtype)
                beside.add(self._relations(normal.to(self.device)))
            self.done += 1
            if self.progress is not None:
                self.progress(self.done)
        found = own.summary(name)
        found.noise = beside.summary(f"noise of {name}") if noise else None
        return found

    def _relations(self, images: Tensor) -> Tensor:
        maps = self.encoder(images)
        features = maps if isinstance(maps, Tensor) else maps[-1]
        related: Tensor = self.relation(features)  # type: ignore[misc]
        return related if related.ndim == 3 else related[None]


class _Sums:
    def __init__(self, bootstrap: int, random: torch.Generator, seed: int, ranked: int) -> None:
        self.bootstrap, self.random, self.seed, self.to_rank = bootstrap, random, seed, ranked
        self.weights = torch.zeros(1 + bootstrap, dtype=torch.float64)
        self.total: Tensor | None = None
        self.sketch: Tensor | float = 0.0
        self.squares = torch.zeros(1 + bootstrap, dtype=torch.float64)
        self.count, self.ranked, self.ranks = 0, 0, 0.0

    def add(self, relations: Tensor) -> None:
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

    def summary(self, name: str) -> _Summary:
        if self.total is None or self.count < 2:
            raise ValueError(
                f"{name} has {self.count} relations, one an image (one a batch, where relation gives one matrix a "
                "batch); give two or more"
            )
        sketch = torch.as_tensor(self.sketch)
        return _Summary(self.weights, self.total, sketch, self.squares, self.count, self.ranks / max(1, self.ranked))


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


def _images(name: str, batch: Images) -> Tensor:
    if isinstance(batch, Mapping):
        batch = batch.get("image", batch)
    elif not isinstance(batch, Tensor) and isinstance(batch, Sequence) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor):
        raise TypeError(
            f"{name} must give batches of images: tensors, sequences whose first entry is one, or mappings with "
            f"'image'; got {type(batch).__name__}"
        )
    return batch


def _check_same_size(found: Mapping[str, _Summary]) -> None:
    sizes = {name: round(len(summary.total) ** 0.5) for name, summary in found.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"relations must be of one size, got rows {sizes}; give batches of one size, or GramRelation")


def _scale(a: _Summary, b: _Summary) -> Tensor:
    """Mean of ||R||^2 over both sets, never 0."""
    return ((a.square() + b.square()) / 2).clamp_min(torch.finfo(torch.float64).tiny)


def _within(of: _Summary, scale: Tensor) -> float:
    return float((of.spread()[0] / scale[0]).sqrt())


def _between(a: _Summary, b: _Summary) -> float:
    squared = a.square()[0] + b.square()[0] - 2 * (a.mean() * b.mean()).sum()
    return float((squared.clamp_min(0) / _scale(a, b)[0]).sqrt())


def _excess(a: _Summary, b: _Summary) -> Tensor:
    """Squared distance of the mean relations without what the images' spread adds to it, over the norm; signed."""
    apart = _exact_at_0((a.sketched() - b.sketched()).square().sum(1), (a.mean() - b.mean()).square().sum())
    return (apart - (a.spread() / a.count + b.spread() / b.count) / 2) / _scale(a, b)


def _gap(a: _Summary, b: _Summary) -> float:
    return float(_excess(a, b)[0].clamp_min(0).sqrt())


def _interval(a: _Summary, b: _Summary) -> tuple[float, float] | None:
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


def _moved(encoder: nn.Module, start: Mapping[str, Tensor]) -> float:
    now = dict(encoder.named_parameters())
    wrong = [name for name, value in now.items() if name not in start or start[name].shape != value.shape]
    if wrong:
        raise ValueError(f"start is of another network: {wrong[0]} is missing in it or of another shape")
    with torch.no_grad():
        before = {name: start[name].to(value.device).double() for name, value in now.items()}
        apart = sum(float((value.double() - before[name]).square().sum()) for name, value in now.items())
        norm = sum(float(value.square().sum()) for value in before.values())
    return (apart / norm) ** 0.5 if norm else 0.0


@contextmanager
def _as_it_was(encoder: nn.Module) -> Iterator[None]:
    """What batch norm keeps of the batches that it sees is put back."""
    kept = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in encoder.named_buffers():
                buffer.copy_(kept[name])
