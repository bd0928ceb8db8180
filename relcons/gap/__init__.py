"""How far the relations of two data sets lie apart under one encoder, beside how far they lie apart within each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from relcons.checks import check_count
from relcons.gap.summaries import Summary, Sums, between, gap_of, interval_of, scale_of, within
from relcons.relations import GramRelation, SampleRelation

__all__ = ["RelationGap", "RelationGaps", "relation_gap", "relation_gaps"]

Images = Tensor | Sequence[Any] | Mapping[str, Any]
Progress = Callable[[int], None]

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
    scale = scale_of(of_a, of_b)
    return RelationGap(
        between=between(of_a, of_b),
        within_a=within(of_a, scale),
        within_b=within(of_b, scale),
        gap=gap_of(of_a, of_b),
        interval=interval_of(of_a, of_b),
        noise=None if of_a.noise is None else between(of_a, of_a.noise),
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
        gap=tuple(tuple(0.0 if a is b else gap_of(a, b) for b in each) for a in each),
        interval=tuple(tuple(None if a is b else interval_of(a, b) for b in each) for a in each),
        within=tuple(within(summary, scale_of(summary, summary)) for summary in each),
    )


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
    def summary(self, name: str, images: Iterable[Images], *, noise: bool = False, ranked: int = RANKED) -> Summary:
        if isinstance(images, Tensor):
            raise TypeError(f"{name} must be batches of images, got a tensor; give [{name}] or {name}.split(8)")
        own, beside = Sums(self.bootstrap, self.random, self.seed, ranked), Sums(0, self.random, self.seed, 0)
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


def _check_same_size(found: Mapping[str, Summary]) -> None:
    sizes = {name: round(len(summary.total) ** 0.5) for name, summary in found.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"relations must be of one size, got rows {sizes}; give batches of one size, or GramRelation")


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
