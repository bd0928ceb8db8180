"""Centred channels, samples, positions and the effective rank against loops, peers and degenerate input."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    cosine_similarity,
    normalize,
)

from relcons.functional import (
    effective_rank,
    gram_matrix,
    relation_consistency,
    relation_distance,
    relation_matrix,
    sample_relation,
    spatial_relation,
)
from tests import reference

SHAPES = [(2, 4, 7), (3, 4, 5, 2), (2, 4, 3, 2, 2)]
# No axis of a shape is a multiple of 2 but where it is 2: windows overlap.
RELATIONS = {
    "centred": partial(relation_matrix, center=True),
    "centred-each": partial(relation_matrix, batch="none", center=True),
    "samples": sample_relation,
    "positions": partial(spatial_relation, size=2),
}
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["1d", "2d", "3d"])
every_relation = pytest.mark.parametrize("relate", RELATIONS.values(), ids=RELATIONS)
every_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def loops(relate: object, features: Tensor) -> object:
    array = features.detach().double().numpy()
    if relate is sample_relation:
        return reference.samples(array)
    if relate is RELATIONS["positions"]:
        return [reference.positions(sample, (2,) * (array.ndim - 2)) for sample in array]
    if relate is RELATIONS["centred"]:
        return reference.relation(array, center=True)
    return [reference.relation(sample, center=True) for sample in reference.per_sample(array)]


def close(actual: Tensor, expected: object, relative: float) -> None:
    """Equal up to ``relative`` times the largest expected magnitude."""
    expected = torch.as_tensor(expected, dtype=torch.float64).detach()
    torch.testing.assert_close(actual.detach().double(), expected, rtol=0, atol=relative * float(expected.abs().max()))


def draw(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loss_of(matrix: Tensor) -> Tensor:
    """A number whose gradient differs from entry to entry."""
    return (matrix * torch.linspace(-1, 2, matrix.numel(), dtype=matrix.dtype).reshape(matrix.shape)).sum()


@every_relation
class TestRelations:
    @every_shape
    def test_smoke(self, relate, shape):
        matrix = relate(draw(shape, dtype=torch.float32))
        assert matrix.dtype == torch.float32
        assert matrix.isfinite().all()
        torch.testing.assert_close(matrix.diagonal(dim1=-2, dim2=-1).sign(), torch.ones(matrix.shape[:-1]))

    def test_exception(self, relate):
        with pytest.raises(ValueError, match=r"features must be \(B, C, \*spatial\) .* got \(4, 5\); add a batch axis"):
            relate(torch.ones(4, 5))
        with pytest.raises(ValueError, match="features must not be empty, got"):
            relate(torch.ones(2, 4, 0))
        with pytest.raises(TypeError, match=r"features must be floating point, got torch.int64; .*\.float\(\)"):
            relate(torch.ones(2, 3, 4, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"eps must be in \[0, 1\), got 1.0; the default is 1e-6"):
            relate(torch.ones(2, 3, 4), eps=1.0)

    @every_shape
    def test_cardinality(self, relate, shape):
        sizes = {"centred": (4, 4), "centred-each": (shape[0], 4, 4), "samples": (shape[0],) * 2}
        sizes["positions"] = (shape[0], *[2 ** (len(shape) - 2)] * 2)
        (name,) = (name for name, one in RELATIONS.items() if one is relate)
        assert relate(draw(shape)).shape == sizes[name]

    @every_shape
    @pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
    def test_reference(self, relate, shape, dtype, relative):
        features = draw(shape, dtype=dtype) + 0.5
        close(relate(features), loops(relate, features), relative)

    @every_shape
    def test_reference_gradient(self, relate, shape):
        features = draw(shape).requires_grad_()
        loss_of(relate(features)).backward()
        slopes = reference.slopes(
            lambda moved: float(loss_of(torch.tensor(loops(relate, torch.tensor(moved)), dtype=torch.float64))),
            features.detach().numpy(),
        )
        close(features.grad, slopes, 1e-6)

    @every_shape
    def test_gradcheck(self, relate, shape):
        features = draw(shape).requires_grad_()
        assert gradcheck(relate, features)
        assert gradgradcheck(relate, features)

    @every_shape
    def test_compile(self, relate, shape):
        torch._dynamo.reset()
        features = draw(shape).requires_grad_()
        compiled = torch.compile(relate, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(features), relate(features))
        for found, expected in zip(
            torch.autograd.grad(loss_of(compiled(features)), features),
            torch.autograd.grad(loss_of(relate(features)), features),
            strict=True,
        ):
            torch.testing.assert_close(found, expected)

    @pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
    def test_func(self, relate):
        stack = draw((3, 2, 4, 5))
        torch.testing.assert_close(torch.func.vmap(relate)(stack), torch.stack([relate(item) for item in stack]))
        gradients = torch.func.vmap(torch.func.grad(lambda x: loss_of(relate(x))))(stack)
        leaf = stack.clone().requires_grad_()
        (expected,) = torch.autograd.grad(sum(loss_of(relate(item)) for item in leaf), leaf)
        torch.testing.assert_close(gradients, expected)
        reverse = torch.func.jacrev(relate)(stack[0])
        torch.testing.assert_close(torch.func.jacfwd(relate)(stack[0]), reverse)
        forward_over_reverse = torch.func.jacfwd(torch.func.grad(lambda x: loss_of(relate(x))))(stack[0])
        twice = torch.func.jacrev(torch.func.grad(lambda x: loss_of(relate(x))))(stack[0])
        torch.testing.assert_close(forward_over_reverse, twice)

    @every_half
    def test_half(self, relate, dtype):
        features = draw((3, 4, 70000), dtype=dtype).requires_grad_()
        exact = features.detach().double().requires_grad_()
        matrix = relate(features)
        assert matrix.dtype == torch.float32
        # Means of so many numbers around 0 are small, and rounding is beside them.
        close(matrix, relate(exact), 2e-5)
        loss_of(matrix).backward()
        loss_of(relate(exact)).backward()
        assert features.grad.dtype == dtype
        close(features.grad, exact.grad, 2 * torch.finfo(dtype).eps)

    @every_half
    def test_range_of_half(self, relate, dtype):
        """Sums and squares of half features leave that type's range."""
        large = (1000 * draw((2, 4, 64, 64)) + 20000).to(dtype)
        close(relate(large), relate(large.double()), 1e-4)

    @every_half
    @pytest.mark.parametrize("backward_inside", [False, True])
    def test_autocast(self, relate, dtype, backward_inside):
        results = []
        for enabled in (False, True):
            features = torch.linspace(-3, 5, 120).sin().reshape(2, 6, 10).requires_grad_()
            with torch.autocast("cpu", dtype=dtype, enabled=enabled):
                matrix = relate(features)
            with torch.autocast("cpu", dtype=dtype, enabled=enabled and backward_inside):
                loss_of(matrix).backward()
            results.append((matrix, features.grad))
        (plain, gradient), (mixed, mixed_gradient) = results
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, plain, rtol=0, atol=0)
        close(mixed_gradient, gradient, 1e-6)

    def test_layout(self, relate):
        features = draw((2, 4, 6, 5))
        for strided in (
            features.contiguous(memory_format=torch.channels_last),
            features.mT.contiguous().mT,
            features.repeat_interleave(2, -1)[..., ::2],
        ):
            leaf, plain = strided.requires_grad_(), features.clone().requires_grad_()
            torch.testing.assert_close(relate(leaf), relate(plain))
            loss_of(relate(leaf)).backward()
            loss_of(relate(plain)).backward()
            torch.testing.assert_close(leaf.grad, plain.grad)

    def test_input_kept(self, relate):
        features = draw((2, 4, 5)).requires_grad_()
        before, version = features.detach().clone(), features._version
        loss_of(relate(features)).backward()
        assert features._version == version
        assert torch.equal(features, before)

    @pytest.mark.parametrize("value", [0.0, -2.5, 1e4])
    def test_constant(self, relate, value):
        """Nothing that varies: centred channels are 0 and give no gradient, samples and positions are all alike."""
        features = torch.full((2, 4, 37, 3), value, requires_grad=True)
        matrix = relate(features)
        loss_of(matrix).backward()
        if value == 0 or relate not in (sample_relation, RELATIONS["positions"]):
            assert not matrix.any()
            assert not features.grad.any()
        else:
            torch.testing.assert_close(matrix, matrix[..., :1, :1].expand(matrix.shape))
            assert matrix.flatten()[0] > 0.7
            assert features.grad.abs().max() < 1

    def test_one_voxel_one_sample(self, relate):
        for spatial in ((1,), (1, 1), (1, 1, 1)):
            features = torch.tensor([3.0, -4.0]).reshape(1, 2, *spatial).requires_grad_()
            matrix = relate(features)
            loss_of(matrix).backward()
            assert features.grad.abs().max() < 1e-6
            if relate in (sample_relation, RELATIONS["positions"]):
                torch.testing.assert_close(matrix, torch.ones(matrix.shape))
                assert matrix.numel() == 1
            else:  # of a single position nothing is left
                assert not matrix.any()

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_nan_is_seen(self, relate, value, dtype):
        features = draw((2, 3, 4), dtype=dtype)
        features[1, 2, 0] = value
        assert relate(features).isnan().any()
        assert relation_consistency(features, draw((2, 3, 4)), relation=relate).isnan()
        features = torch.zeros(2, 3, 4, dtype=dtype)
        features[1, 2, 0] = value
        assert relate(features).isnan().any()

    @pytest.mark.parametrize(
        ("dtype", "scales"),
        [
            (torch.float32, (1e-15, 1e-16, 1e-19, 1e-21, 1e-23, 1e-30, 1e-32, 1e-37)),
            (torch.float64, (1e-145, 1e-155, 1e-162, 1e-290, 1e-300)),
        ],
    )
    def test_smallest_features(self, relate, dtype, scales):
        """Features so small that inverses leave the type's range count as zeros: value and gradient stay finite."""
        features, expected = draw((2, 4, 7, 6), dtype=dtype), relate(draw((2, 4, 7, 6), dtype=dtype))
        for scale in scales:
            small = (features * scale).requires_grad_()
            matrix = relate(small)
            loss_of(matrix).backward()
            assert small.grad.isfinite().all(), scale
            if matrix.any():
                torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-3)
            else:
                assert not small.grad.any(), scale
        assert not matrix.any()


@pytest.mark.parametrize("relate", [gram_matrix, partial(gram_matrix, batch="none"), sample_relation])
def test_sums_of_millions_are_exact(relate):
    """A matrix product of two rows may add up their million columns one by one, and lose a 1000th on the way."""
    features = torch.randn(2, 2, 800, 800, generator=torch.Generator().manual_seed(0))
    features[1] *= 1e-3
    close(relate(features), relate(features.double()), 2e-6)


@pytest.mark.parametrize("columns", [131071, 131072, 131075])
def test_long_rows_are_added_up_by_parts_to_the_last_column(columns):
    features = torch.zeros(2, 1, columns)
    features[0, 0, 0] = features[:, 0, -1] = 1.0
    shares = [2 / math.sqrt(5), 1 / math.sqrt(5)], [1 / math.sqrt(2), 1 / math.sqrt(2)]
    torch.testing.assert_close(sample_relation(features), torch.tensor(shares))


class TestCentredChannels:
    def test_reference(self):
        # The mean over the batch is [[1, 3], [0, 4]], less its row means [[-1, 1], [-2, 2]].
        features = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[1.0, 4.0], [0.0, 5.0]]])
        assert gram_matrix(features, center=True).tolist() == [[2.0, 4.0], [4.0, 8.0]]
        assert gram_matrix(features, batch="none", center=True)[0].tolist() == [[0.5, 1.5], [1.5, 4.5]]
        rows = [[1 / math.sqrt(5), 2 / math.sqrt(5)]] * 2
        torch.testing.assert_close(relation_matrix(features, center=True), torch.tensor(rows))

    @every_shape
    def test_peer(self, shape):
        """N - 1 times torch's covariance matrix of the mean map, as Deep CORAL takes it; and ICKD of centred maps."""
        from torchdistill.losses.mid_level import ChSimLoss

        a, b = draw(shape) + 3, draw(shape, seed=1) - 1
        mean = a.mean(0).flatten(1)
        close(gram_matrix(a, center=True), (mean.shape[1] - 1) * torch.cov(mean), 1e-12)
        maps = [x[:1].flatten(2) - x[:1].flatten(2).mean(-1, keepdim=True) for x in (a, b)]
        value = relation_consistency(a[:1], b[:1], relation=RELATIONS["centred"], reduction="row_mean")
        close(value, ChSimLoss.batch_loss(*maps), 1e-12)

    def test_a_constant_channel_is_dead(self):
        """Rounding of a large mean is not taken for a channel, and the others' gradient stays what it is."""
        features = draw((2, 4, 50, 3), dtype=torch.float32)
        features[:, 1] = 12345.678
        for batch in ("mean", "none"):
            leaf = features.clone().requires_grad_()
            matrix = relation_matrix(leaf, batch=batch, center=True)
            assert not matrix[..., 1, :].any()
            assert not matrix[..., :, 1].any()
            matrix.square()[..., 0, 2].sum().backward()
            assert leaf.grad.abs().max() < 1
            others = features[:, [0, 2, 3]].requires_grad_()
            relation_matrix(others, batch=batch, center=True).square()[..., 0, 1].sum().backward()
            torch.testing.assert_close(leaf.grad[:, [0, 2, 3]], others.grad)

    def test_a_weak_channel_on_a_large_mean_is_live(self):
        features = draw((2, 3, 400))
        shifted = (features + torch.tensor([0.0, 300.0, -50.0])[:, None]).float()
        close(relation_matrix(shifted, center=True), relation_matrix(features, center=True), 1e-3)


class TestSampleRelation:
    def test_reference(self):
        # Inner products of the three samples: [[5, 0, 5], [0, 9, 0], [5, 0, 10]].
        features = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]], [[1.0, 2.0], [0.0, math.sqrt(5)]]])
        half, fifth = math.sqrt(0.5), math.sqrt(0.2)
        hand_worked = torch.tensor([[half, 0, half], [0, 1, 0], [fifth, 0, 2 * fifth]])
        torch.testing.assert_close(sample_relation(features), hand_worked)

    @every_shape
    def test_src_mt(self, shape):
        a, b = draw(shape), draw(shape, seed=1)
        value = relation_consistency(a, b, relation=sample_relation, reduction="row_mean")
        close(value, reference.src_mt(a.numpy(), b.numpy()), 1e-12)

    @every_shape
    def test_peer(self, shape):
        """Similarity-preserving distillation; torchdistill 1.1 divides its rows by their L1 norm, not by L2."""
        from torchdistill.losses.mid_level import SPKDLoss

        peer, a, b = SPKDLoss("", "", "batchmean"), draw(shape), draw(shape, seed=1)
        rows = [normalize(peer.matmul_and_normalize(x)) for x in (a, b)]
        close(sample_relation(a), rows[0], 1e-12)
        value = relation_consistency(a, b, relation=sample_relation, reduction="mean")
        close(value, (rows[0] - rows[1]).square().sum() / shape[0] ** 2, 1e-12)

    @pytest.mark.parametrize(("factor", "dead"), [(0.99, True), (1.01, False)])
    def test_eps(self, factor, dead):
        # Row norms of G are a^2 and 1: eps is a share of the largest row norm.
        features = torch.diag(torch.tensor([1.0, math.sqrt(1e-3 * factor)], dtype=torch.float64))[:, None]
        matrix = sample_relation(features, eps=1e-3)
        assert matrix.tolist() == [[1, 0], [0, 0 if dead else pytest.approx(1)]]

    def test_a_black_sample_is_dead(self):
        features = draw((3, 4, 5), dtype=torch.float32)
        features[1] = 0
        features.requires_grad_()
        matrix = sample_relation(features)
        assert not matrix[1].any()
        assert matrix[2].norm() > 0.99
        loss_of(matrix).backward()
        assert features.grad.abs().max() < 10


class TestSpatialRelation:
    def test_reference(self):
        # Pooled to two positions: (4, 0) and (3, 4).
        features = torch.tensor([[[5.0, 3.0, 2.0, 4.0], [-1.0, 1.0, 6.0, 2.0]]])
        matrix = spatial_relation(features, size=2)
        torch.testing.assert_close(matrix, torch.tensor([[[1.0, 0.6], [0.6, 1.0]]]))

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
    def test_peer(self, size):
        """torch's own pooling and cosine similarity."""
        pools = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)
        for pool, spatial in zip(pools, ((9,), (5, 4), (4, 3, 2)), strict=True):
            features = draw((2, 3, *spatial))
            points = pool(features, tuple(min(size, n) for n in spatial)).flatten(2)
            expected = cosine_similarity(points[..., :, None], points[..., None, :], dim=1)
            close(spatial_relation(features, size=size), expected, 1e-12)

    @pytest.mark.parametrize(
        ("shape", "sizes"), [((2, 4, 7), (3,)), ((2, 3, 5, 6), (4, 3)), ((1, 3, 3, 2, 4), (2, 1, 3))]
    )
    def test_pairwise_distillation(self, shape, sizes):
        a, b = draw(shape), draw(shape, seed=1)
        value = relation_consistency(a, b, relation=partial(spatial_relation, size=sizes), reduction="mean")
        close(value, reference.pairwise(a.numpy(), b.numpy(), sizes), 1e-12)

    def test_exception(self):
        features = torch.ones(2, 3, 4, 5)
        for size in (0, -1, (2, 0)):
            with pytest.raises(ValueError, match="size must be 1 or more, got"):
                spatial_relation(features, size=size)
        for size in (1.5, True, "4", None, (2, 2.0)):
            with pytest.raises(TypeError, match="size must be a whole number of positions, or one per axis, got"):
                spatial_relation(features, size=size)
        for size in ((2,), (2, 2, 2)):
            with pytest.raises(ValueError, match=r"one for each of the 2 spatial axes of features, got \("):
                spatial_relation(features, size=size)

    def test_default_size(self):
        assert spatial_relation(torch.rand(1, 2, 40, 33)).shape == (1, 256, 256)
        assert spatial_relation(torch.rand(1, 2, 7, 6)).shape == (1, 42, 42)

    @pytest.mark.parametrize(("factor", "dead"), [(0.99, True), (1.01, False)])
    def test_eps(self, factor, dead):
        features = torch.tensor([[[2.0, 2e-3 * factor], [0.0, 2e-3 * factor]]], dtype=torch.float64)
        features[0, :, 1] /= math.sqrt(2)
        matrix = spatial_relation(features, eps=1e-3)
        assert (matrix[0, 1, 1] == 0) == dead
        assert (matrix[0, 0, 1] == 0) == dead

    def test_dead_position(self):
        """Its row and column are 0 and it gets no gradient; that of the others is as if it were not there."""
        features = draw((2, 3, 5), dtype=torch.float32)
        features[:, :, 2] = 0
        features.requires_grad_()
        matrix = spatial_relation(features, size=5)
        assert not matrix[:, 2].any()
        assert not matrix[:, :, 2].any()
        matrix.square().sum().backward()
        assert not features.grad[:, :, 2].any()
        others = features.detach()[:, :, [0, 1, 3, 4]].requires_grad_()
        spatial_relation(others, size=4).square().sum().backward()
        torch.testing.assert_close(features.grad[:, :, [0, 1, 3, 4]], others.grad)


class TestEffectiveRank:
    def test_smoke(self):
        rank = effective_rank(relation_matrix(draw((2, 6, 40))))
        assert 1 < rank < 6
        assert rank.shape == ()

    def test_exception(self):
        with pytest.raises(ValueError, match=r"relation must be relation matrices of shape .* got \(3, 4\)"):
            effective_rank(torch.ones(3, 4))
        with pytest.raises(TypeError, match=r"relation must be floating point, got torch\.int64"):
            effective_rank(torch.eye(3).long())

    def test_cardinality(self):
        assert effective_rank(spatial_relation(draw((3, 4, 5)))).shape == (3,)

    def test_reference(self):
        # Singular values 3 and 1: shares 3/4 and 1/4.
        expected = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
        for matrix in (torch.diag(torch.tensor([3.0, 1.0])), torch.tensor([[0.0, -3.0], [1.0, 0.0]])):
            assert effective_rank(matrix).item() == pytest.approx(expected)
        for size in (1, 3, 6):
            assert effective_rank(torch.eye(size)).item() == pytest.approx(size)
            assert effective_rank(torch.ones(size, size)).item() == pytest.approx(1, abs=1e-5)

    def test_peer(self):
        stack = relation_matrix(draw((3, 7, 20)), batch="none")
        values = np.linalg.svd(stack.numpy(), compute_uv=False)
        close(effective_rank(stack), np.exp(scipy.stats.entropy(values, axis=-1)), 1e-12)

    def test_degenerate(self):
        stack = torch.stack(
            [torch.zeros(3, 3), torch.full((3, 3), math.nan), torch.eye(3), torch.full((3, 3), math.inf)]
        )
        torch.testing.assert_close(effective_rank(stack), torch.tensor([0.0, math.nan, 3.0, math.nan]), equal_nan=True)

    def test_no_gradient(self):
        assert not effective_rank(torch.eye(3).requires_grad_()).requires_grad

    def test_compile(self):
        torch._dynamo.reset()
        matrix = relation_matrix(draw((2, 5, 9)))
        compiled = torch.compile(effective_rank, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(matrix), effective_rank(matrix))

    @every_half
    def test_half(self, dtype):
        matrix = relation_matrix(draw((2, 5, 9))).to(dtype)
        with torch.autocast("cpu", dtype=dtype):
            rank = effective_rank(matrix)
        assert rank.dtype == torch.float32
        close(rank, effective_rank(matrix.double()), 1e-5)


@every_relation
class TestRelationConsistency:
    @pytest.mark.parametrize("reduction", ["sum", "row_mean", "mean"])
    @every_shape
    def test_reference(self, relate, shape, reduction):
        a, b = draw(shape), draw(shape, seed=1)
        matrices = [np.array(loops(relate, x), ndmin=3) for x in (a, b)]
        pairs = [reference.distance(p.tolist(), q.tolist(), reduction) for p, q in zip(*matrices, strict=True)]
        close(relation_consistency(a, b, relation=relate, reduction=reduction), sum(pairs) / len(pairs), 1e-12)

    def test_gradients_reach_both(self, relate):
        a, b = draw((2, 4, 5)).requires_grad_(), draw((2, 4, 5), seed=1).requires_grad_()
        relation_consistency(a, b, relation=relate).backward()
        swapped = [x.detach().clone().requires_grad_() for x in (b, a)]
        relation_consistency(*swapped, relation=relate).backward()
        for x, twin in ((a, swapped[1]), (b, swapped[0])):
            assert x.grad.abs().max() > 0
            torch.testing.assert_close(x.grad, twin.grad)

    def test_identical(self, relate):
        a = draw((2, 4, 5)).requires_grad_()
        value = relation_consistency(a, 3 * a.detach(), relation=relate)
        value.backward()
        assert value < 1e-25
        assert a.grad.isfinite().all()


class TestRelationConsistencyOfUnlikeMaps:
    def test_what_may_differ(self):
        """Channels of unlike batches and sizes, samples of unlike channels and sizes, positions of unlike channels."""
        a = draw((2, 4, 6, 6))
        assert relation_consistency(a, draw((3, 4, 8, 5))).shape == ()
        assert relation_consistency(a, draw((2, 7, 5)), relation=sample_relation).shape == ()
        assert relation_consistency(a, draw((2, 7, 9, 3)), relation=partial(spatial_relation, size=3)).shape == ()

    def test_exception(self):
        a = draw((2, 4, 6))
        with pytest.raises(
            ValueError, match=r"relations of a and b .* got \(2, 2\) and \(3, 3\); SampleRelation needs batches of one"
        ):
            relation_consistency(a, draw((3, 4, 6)), relation=sample_relation)
        with pytest.raises(ValueError, match=r"\(2, 6, 6\) and \(2, 5, 5\); .*as many positions \(or a size that both"):
            relation_consistency(a, draw((2, 4, 5)), relation=spatial_relation)
        with pytest.raises(ValueError, match=r"\(2, 6, 6\) and \(3, 6, 6\); with a matrix per sample, .* of one size"):
            relation_consistency(a, draw((3, 4, 6)), relation=spatial_relation)
        with pytest.raises(ValueError, match=r"got \(4, 4\) and \(3, 3\); .* GramRelation as many channels in both"):
            relation_consistency(a, draw((2, 3, 6)))
        with pytest.raises(ValueError, match=r"got \(4, 4\) and \(2, 4, 4\); take one relation for both"):
            relation_distance(relation_matrix(a), relation_matrix(a, batch="none"))
        with pytest.raises(ValueError, match=r"b must be \(B, C, \*spatial\)"):
            relation_consistency(a, a[0])
        with pytest.raises(TypeError, match="a must be floating point"):
            relation_consistency(a.long(), a)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=3)).map(
    lambda sizes: (sizes[0], sizes[1], *sizes[2])
)
seeds = st.integers(0, 2**31)
quick = hypothesis_settings(max_examples=40, deadline=None)


class TestInvariance:
    @quick
    @given(shape=shapes, seed=seeds, exponent=st.floats(-12, 12), dtype=st.sampled_from([torch.float32, torch.float64]))
    def test_scale(self, shape, seed, exponent, dtype):
        features = draw(shape, seed, dtype)
        for relate in RELATIONS.values():
            matrix, scaled = relate(features), relate(features * 10**exponent)
            torch.testing.assert_close(scaled, matrix, rtol=0, atol=2e-5 if dtype == torch.float32 else 1e-10)

    @quick
    @given(shape=shapes, seed=seeds)
    def test_positions(self, shape, seed):
        """Channels and samples do not change, rows and columns of positions change places."""
        features = draw(shape, seed).flatten(2)
        order = torch.randperm(features.shape[2], generator=torch.Generator().manual_seed(seed))
        for relate in (RELATIONS["centred"], RELATIONS["centred-each"], sample_relation):
            torch.testing.assert_close(relate(features[..., order]), relate(features))
        matrix = spatial_relation(features, size=64)
        torch.testing.assert_close(spatial_relation(features[..., order], size=64), matrix[:, order][:, :, order])

    @quick
    @given(shape=shapes, seed=seeds)
    def test_channels(self, shape, seed):
        features = draw(shape, seed)
        order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(seed))
        for relate in (sample_relation, RELATIONS["positions"]):
            torch.testing.assert_close(relate(features[:, order]), relate(features))
        for relate in (RELATIONS["centred"], RELATIONS["centred-each"]):
            matrix = relate(features)
            torch.testing.assert_close(relate(features[:, order]), matrix[..., order, :][..., order])

    @quick
    @given(shape=shapes, seed=seeds)
    def test_samples(self, shape, seed):
        features = draw(shape, seed)
        order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
        matrix = sample_relation(features)
        torch.testing.assert_close(sample_relation(features[order]), matrix[order][:, order])
        for relate in (RELATIONS["positions"], RELATIONS["centred-each"]):
            torch.testing.assert_close(relate(features[order]), relate(features)[order])

    @quick
    @given(shape=shapes, seed=seeds, times=st.integers(2, 4))
    def test_repeated_batch(self, shape, seed, times):
        """The mean squared distance of rows stays, of samples, too, though they are more."""
        a, b = draw(shape, seed), draw(shape, seed + 1)
        repeated = [x.repeat(times, *[1] * (x.ndim - 1)) for x in (a, b)]
        for relate in RELATIONS.values():
            value = relation_consistency(a, b, relation=relate, reduction="row_mean")
            torch.testing.assert_close(relation_consistency(*repeated, relation=relate, reduction="row_mean"), value)

    @quick
    @given(shape=shapes, seed=seeds, shift=st.floats(-10, 10))
    def test_shift(self, shape, seed, shift):
        """Centred channels do not change when a number is added to them."""
        features = draw(shape, seed)
        offsets = shift * draw((shape[1], *[1] * (len(shape) - 2)), seed + 1)
        for name in ("centred", "centred-each"):
            moved, matrix = RELATIONS[name](features + offsets), RELATIONS[name](features)
            torch.testing.assert_close(moved, matrix, rtol=0, atol=1e-6)

    @quick
    @given(shape=shapes, seed=seeds)
    def test_effective_rank(self, shape, seed):
        """Between 1 and the number of rows, and the same of a multiple and of the transpose."""
        matrix = relation_matrix(draw(shape, seed))
        rank = effective_rank(matrix)
        assert 1 - 1e-9 <= rank <= shape[1] + 1e-9
        torch.testing.assert_close(effective_rank(7e-9 * matrix), rank)
        torch.testing.assert_close(effective_rank(matrix.mT), rank)
