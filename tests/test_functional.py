"""relcons.functional against the paper's formulas as loops, a peer, finite differences and degenerate input."""

import inspect
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import normalize

from relcons.functional import (
    general_consistency,
    gram_matrix,
    relation_distance,
    relation_matrix,
    target_consistency,
)
from tests import reference

SHAPES = [(2, 4, 7), (3, 4, 5, 2), (2, 4, 3, 2, 2)]
REDUCTIONS = ["sum", "row_mean", "mean"]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["1d", "2d", "3d"])
every_batch = pytest.mark.parametrize("batch", ["mean", "none"])
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
every_matrix = pytest.mark.parametrize("function", [gram_matrix, relation_matrix])
every_consistency = pytest.mark.parametrize("function", [general_consistency, target_consistency])


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two feature maps that share nothing but the shape."""
    return torch.randn(shape, dtype=dtype), torch.rand(shape, dtype=dtype) + 0.1


def close(actual: Tensor, expected: object, relative: float) -> None:
    """Equal up to ``relative`` times the largest expected magnitude."""
    expected = torch.as_tensor(expected, dtype=torch.float64).detach()
    torch.testing.assert_close(actual.detach().double(), expected, rtol=0, atol=relative * float(expected.abs().max()))


def fused(function: object) -> object:
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True)


def port(features: Tensor) -> Tensor:
    """Eq. 1 and 2 as they are usually written; the trap this library is there to avoid."""
    mean = features.mean(0).flatten(1)
    return normalize(mean @ mean.mT, dim=1, eps=1e-12)


@every_matrix
class TestMatrices:
    @every_shape
    def test_smoke(self, function, shape):
        matrix = function(torch.randn(shape))
        assert matrix.dtype == torch.float32
        assert torch.isfinite(matrix).all()
        assert matrix.abs().sum() > 0

    def test_exception(self, function):
        for features in (torch.ones(4), torch.ones(4, 5), torch.ones(1, 2, 3, 4, 5, 6)):
            with pytest.raises(ValueError, match=r"features must be \(B, C, \*spatial\) with one, two or three"):
                function(features)
        with pytest.raises(ValueError, match=r"got \(4, 5\); add a batch axis with \[None\]"):
            function(torch.ones(4, 5))
        for empty in ((0, 4, 5), (2, 0, 5), (2, 4, 0)):
            with pytest.raises(ValueError, match="features must not be empty, got"):
                function(torch.ones(empty))
        with pytest.raises(TypeError, match=r"features must be floating point, got torch.int64; .*\.float\(\)"):
            function(torch.ones(2, 3, 4, dtype=torch.int64))
        with pytest.raises(TypeError, match=r"features must be floating point, got torch\.complex64"):
            function(torch.ones(2, 3, 4, dtype=torch.complex64))
        with pytest.raises(TypeError, match="features must be a tensor, got list"):
            function([[[1.0]]])
        with pytest.raises(ValueError, match="batch must be one of 'mean', 'none', got 'sum'"):
            function(torch.ones(2, 3, 4), batch="sum")

    @every_shape
    def test_cardinality(self, function, shape):
        features = torch.randn(shape)
        assert function(features).shape == (4, 4)
        assert function(features, batch="none").shape == (shape[0], 4, 4)
        assert list(inspect.signature(function).parameters)[:2] == ["features", "batch"]

    @every_shape
    @pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
    def test_reference(self, function, shape, dtype, relative):
        loops = {gram_matrix: reference.gram, relation_matrix: reference.relation}[function]
        for features in pair(shape, dtype):
            close(function(features), loops(features.numpy()), relative)
            expected = [loops(sample) for sample in reference.per_sample(features.numpy())]
            close(function(features, batch="none"), expected, relative)

    @every_shape
    @every_batch
    def test_gradcheck(self, function, shape, batch):
        features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert gradcheck(partial(function, batch=batch), features)
        assert gradgradcheck(partial(function, batch=batch), features)

    @pytest.mark.parametrize(("shape", "batch"), [(SHAPES[0], "mean"), (SHAPES[1], "none"), (SHAPES[2], "mean")])
    def test_compile(self, function, shape, batch):
        features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        eager, compiled = function(features, batch=batch), fused(partial(function, batch=batch))(features)
        weights = torch.randn_like(eager)
        torch.testing.assert_close(compiled, eager)
        torch.testing.assert_close(
            torch.autograd.grad(compiled, features, weights), torch.autograd.grad(eager, features, weights)
        )

    @every_batch
    def test_func(self, function, batch):
        stack = torch.randn(3, 2, 4, 5, dtype=torch.float64)
        matrices = torch.func.vmap(partial(function, batch=batch))(stack)
        torch.testing.assert_close(matrices, torch.stack([function(item, batch=batch) for item in stack]))

        def energy(features: Tensor) -> Tensor:
            return function(features, batch=batch)[..., 0, 1].sum()

        gradients = torch.func.vmap(torch.func.grad(energy))(stack)
        leaf = stack.clone().requires_grad_()
        expected = torch.autograd.grad(sum(energy(item) for item in leaf), leaf)[0]
        torch.testing.assert_close(gradients, expected)
        jacobian = torch.func.jacrev(function)(stack[0])
        torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(function, stack[0]))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half(self, function, dtype):
        features = torch.randn(3, 4, 70000, dtype=dtype, requires_grad=True)
        exact = features.detach().double().requires_grad_()
        matrix, expected = function(features), function(exact)
        assert matrix.dtype == torch.float32
        close(matrix, expected, 1e-5)
        matrix[0].sum().backward()
        expected[0].sum().backward()
        assert features.grad.dtype == dtype
        close(features.grad, exact.grad, 2 * torch.finfo(dtype).eps)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @every_batch
    @pytest.mark.parametrize("backward_inside", [False, True])
    def test_autocast(self, function, dtype, batch, backward_inside):
        results = []
        for enabled in (False, True):
            features = torch.linspace(-3, 5, 120).sin().reshape(2, 6, 10).requires_grad_()
            with torch.autocast("cpu", dtype=dtype, enabled=enabled):
                matrix = function(features, batch=batch)
            with torch.autocast("cpu", dtype=dtype, enabled=enabled and backward_inside):
                matrix[..., 0, :].square().sum().backward()
            results.append((matrix, features.grad))
        (plain, gradient), (mixed, mixed_gradient) = results
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, plain, rtol=0, atol=0)
        close(mixed_gradient, gradient, 1e-6)

    def test_layout(self, function):
        features = torch.randn(2, 4, 6, 5)
        for strided in (
            features.contiguous(memory_format=torch.channels_last),
            features.mT.contiguous().mT,
            features.repeat_interleave(2, -1)[..., ::2],
        ):
            strided.requires_grad_()
            torch.testing.assert_close(function(strided), function(features))
            features.grad = None
            features.requires_grad_()
            function(strided)[0].sum().backward()
            function(features)[0].sum().backward()
            torch.testing.assert_close(strided.grad, features.grad)
            features = features.detach()

    def test_input_kept(self, function):
        features = torch.randn(2, 4, 5, requires_grad=True)
        before, version = features.detach().clone(), features._version
        function(features).sum().backward()
        assert features._version == version
        assert torch.equal(features, before)


class TestGramMatrix:
    def test_reference(self):
        features = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[3.0, 2.0], [0.0, -1.0]]])
        assert gram_matrix(features).tolist() == [[8.0, 2.0], [2.0, 1.0]]
        assert gram_matrix(features, batch="none")[1].tolist() == [[13.0, -2.0], [-2.0, 1.0]]

    def test_no_normalisation(self):
        features = torch.ones(2, 3, 10)
        assert gram_matrix(features).tolist() == [[10.0] * 3] * 3


class TestRelationMatrix:
    def test_exception(self):
        for eps in (-1e-9, 1.0, math.nan):
            with pytest.raises(ValueError, match=r"eps must be in \[0, 1\), got .*; the default is 1e-6"):
                relation_matrix(torch.ones(1, 2, 3), eps=eps)

    def test_reference(self):
        hand_worked = relation_matrix(torch.tensor([[[3.0, 0.0], [4.0, 0.0], [0.0, 2.0]]]))
        torch.testing.assert_close(hand_worked, torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]))

    @every_shape
    def test_rows(self, shape):
        torch.testing.assert_close(relation_matrix(torch.randn(shape)).norm(dim=1), torch.ones(4))
        torch.testing.assert_close(
            relation_matrix(torch.randn(shape), batch="none").norm(dim=2).mean(), torch.tensor(1.0)
        )

    def test_one_channel(self):
        assert relation_matrix(torch.randn(2, 1, 5)).tolist() == [[1.0]]

    def test_one_voxel_one_sample(self):
        a = torch.tensor([3.0, -4.0])
        expected = torch.tensor([[0.6, -0.8], [-0.6, 0.8]])
        for spatial in ((1,), (1, 1), (1, 1, 1)):
            torch.testing.assert_close(relation_matrix(a.reshape(1, 2, *spatial)), expected)

    @every_batch
    def test_zero(self, batch):
        features = torch.zeros(2, 3, 4, 5, requires_grad=True)
        matrix = relation_matrix(features, batch=batch)
        (matrix * torch.randn_like(matrix)).sum().backward()
        assert not matrix.any()
        assert not features.grad.any()

    def test_constant(self):
        features = torch.full((2, 4, 3, 3), -2.5, requires_grad=True)
        matrix = relation_matrix(features)
        torch.testing.assert_close(matrix, torch.full((4, 4), 0.5))
        matrix[0, 1].backward()
        assert features.grad.isfinite().all()

    def test_dead_channel(self):
        alive = torch.randn(2, 4, 30, dtype=torch.float64)
        alive[:, 2] = 0
        expected = reference.relation(alive.numpy(), eps=1e-6)
        assert expected[2] == [0.0] * 4
        close(relation_matrix(alive), expected, 1e-13)
        per_sample = alive.clone()
        per_sample[1, 0] = 0
        matrices = relation_matrix(per_sample, batch="none")
        assert matrices[1, 0].tolist() == [0.0] * 4
        assert matrices[0, 0].norm() > 0.99

    @pytest.mark.parametrize(("factor", "dead"), [(0.99, True), (1.01, False)])
    def test_eps(self, factor, dead):
        # Row norms of G are a^2 for the first channel and 2 for four equal ones beside it: eps is a share of
        # the largest row norm, not of amplitudes and not of the largest entry.
        features = torch.zeros(1, 5, 2, dtype=torch.float64)
        features[0, 0, 0] = math.sqrt(2e-3 * factor)
        features[0, 1:, 1] = 1
        matrix = relation_matrix(features, eps=1e-3)
        assert (matrix[0].norm() == 0) == dead
        assert relation_matrix(features)[0, 0] == pytest.approx(1)

    @pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-7])
    def test_dead_channel_gradient(self, scale):
        """The largest gradient stays below 1e4, which a straightforward port fails by eight orders."""
        largest = {}
        for name, function in (("relcons", relation_matrix), ("port", port)):
            features = torch.randn(2, 32, 16, 16, generator=torch.Generator().manual_seed(1))
            features[:, 3] *= scale
            features.requires_grad_()
            other = function(torch.rand(2, 32, 16, 16, generator=torch.Generator().manual_seed(2)))
            (function(features) - other).square().sum().backward()
            largest[name] = float(features.grad.abs().max())
        assert 0 < largest["relcons"] < 1e4
        if scale == 0:
            assert largest["port"] > 1e11
        elif scale == 1e-7:
            assert largest["port"] > 1e4

    def test_dead_column_gradient(self):
        """In the live rows a dead channel's column keeps its exact gradient."""
        features = torch.randn(1, 3, 6, dtype=torch.float64)
        features[:, 1] = 0

        def live(array: np.ndarray) -> float:
            rows = reference.relation(array)
            return rows[0][1] + 2 * rows[2][1] + 3 * rows[0][2]

        leaf = features.clone().requires_grad_()
        matrix = relation_matrix(leaf)
        (matrix[0, 1] + 2 * matrix[2, 1] + 3 * matrix[0, 2]).backward()
        assert leaf.grad[:, 1].abs().max() > 1e-3
        close(leaf.grad, reference.slopes(live, features.numpy(), 1e-6), 1e-7)
        leaf.grad = None
        relation_matrix(leaf)[1].sum().backward()
        assert not leaf.grad.any()

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_nan_is_seen(self, value, dtype):
        features = torch.randn(2, 3, 4).to(dtype)
        features[1, 2, 0] = value
        matrix = relation_matrix(features)
        assert matrix.isnan().any(-1).all()
        assert general_consistency(features, torch.randn(2, 3, 4)).isnan()
        assert relation_matrix(features, batch="none")[0].isfinite().all()
        dead = torch.zeros(1, 3, 4, dtype=dtype)
        dead[0, 1, 1] = value
        assert relation_matrix(dead).isnan().any()

    @pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
    @pytest.mark.parametrize("draw", [torch.randn, torch.rand])
    def test_half_of_large_maps(self, dtype, bound, draw):
        exact = 30 * draw(2, 8, 256, 256, dtype=torch.float64)
        a = exact.numpy().mean(0).reshape(8, -1)
        gram = a @ a.T
        expected = torch.from_numpy(gram / np.sqrt((gram**2).sum(1, keepdims=True)))
        half = exact.to(dtype)
        assert (relation_matrix(half) - expected).abs().max() < bound
        if dtype == torch.float16:
            assert not (port(half) - expected).abs().max() < bound


class TestRelationDistance:
    @every_reduction
    def test_smoke(self, reduction):
        assert relation_distance(torch.rand(3, 3), torch.rand(3, 3), reduction=reduction) > 0
        same = torch.rand(3, 3)
        assert relation_distance(same, same, reduction=reduction) == 0

    def test_exception(self):
        square = torch.ones(3, 3)
        for wrong in (torch.ones(3, 4), torch.ones(3), torch.ones(1, 1, 3, 3)):
            with pytest.raises(
                ValueError, match=r"b must be relation matrices of shape \(C, C\) or \(B, C, C\), got \("
            ):
                relation_distance(square, wrong)
            with pytest.raises(ValueError, match="a must be relation matrices"):
                relation_distance(wrong, square)
        with pytest.raises(ValueError, match=r"same shape, got \(3, 3\) and \(2, 2\)"):
            relation_distance(square, torch.ones(2, 2))
        with pytest.raises(
            ValueError,
            match=r"same shape, got \(2, 3, 3\) and \(1, 3, 3\); with a matrix per sample, sample i is .*give",
        ):
            relation_distance(torch.ones(2, 3, 3), torch.ones(1, 3, 3))
        with pytest.raises(TypeError, match="b must be a tensor, got float"):
            relation_distance(square, 1.0)
        with pytest.raises(TypeError, match=r"a must be floating point, got torch\.int64"):
            relation_distance(square.long(), square)
        with pytest.raises(ValueError, match="reduction must be one of 'sum', 'row_mean', 'mean', got 'none'"):
            relation_distance(square, square, reduction="none")

    @every_reduction
    def test_cardinality(self, reduction):
        assert relation_distance(torch.rand(3, 3), torch.rand(3, 3), reduction=reduction).shape == ()
        assert relation_distance(torch.rand(2, 3, 3), torch.rand(2, 3, 3), reduction=reduction).shape == ()

    @every_reduction
    def test_reference(self, reduction):
        a, b = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        loops = [reference.distance(x, y, reduction) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        for x, y, expected in zip(a, b, loops, strict=True):
            close(relation_distance(x, y, reduction=reduction), expected, 1e-13)
        close(relation_distance(a, b, reduction=reduction), sum(loops) / 4, 1e-13)
        hand_worked = relation_distance(torch.eye(2), torch.tensor([[1.0, 2.0], [0.0, 0.0]]), reduction=reduction)
        assert hand_worked == {"sum": 5, "row_mean": 2.5, "mean": 1.25}[reduction]

    def test_default_is_the_printed_sum(self):
        assert relation_distance(torch.ones(3, 3), torch.zeros(3, 3)) == 9

    @every_reduction
    def test_gradcheck(self, reduction):
        a, b = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
        assert gradcheck(partial(relation_distance, reduction=reduction), (a, b))
        assert gradgradcheck(partial(relation_distance, reduction=reduction), (a, b))

    def test_compile(self):
        a, b = torch.randn(2, 3, 3)
        torch.testing.assert_close(fused(relation_distance)(a, b), relation_distance(a, b))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half(self, dtype):
        a, b = torch.rand(300, 300).to(dtype), torch.rand(300, 300).to(dtype)
        exact = relation_distance(a.double(), b.double())
        with torch.autocast("cpu", dtype=dtype):
            close(relation_distance(a, b), exact, 1e-6)
        close(relation_distance(a, b.float()), exact, 1e-6)


@every_consistency
class TestConsistencies:
    @every_shape
    @every_reduction
    def test_smoke(self, function, shape, reduction):
        value = function(*pair(shape, torch.float32), reduction=reduction)
        assert value.isfinite()
        assert value > 0 if function is general_consistency else value < 0

    def test_exception(self, function):
        first, second = list(inspect.signature(function).parameters)[:2]
        good = torch.ones(2, 3, 4)
        with pytest.raises(ValueError, match=rf"{first} must be \(B, C, \*spatial\).*got \(3, 4\)"):
            function(good[0], good)
        with pytest.raises(ValueError, match=rf"{second} must be \(B, C, \*spatial\).*got \(3, 4\)"):
            function(good, good[0])
        with pytest.raises(TypeError, match=f"{second} must be floating point"):
            function(good, good.long())
        with pytest.raises(
            ValueError,
            match=rf"{first} and {second} must have the same number of channels, got \(2, 3, 4\) and \(2, 2, 4\)",
        ):
            function(good, good[:, :2])
        with pytest.raises(ValueError, match="reduction must be one of"):
            function(good, good, reduction="max")

    @every_shape
    def test_cardinality(self, function, shape):
        a, _ = pair(shape)
        other = torch.rand(1, 4, *(2 * size for size in shape[2:]), dtype=torch.float64)
        assert function(a, other).shape == ()

    @every_shape
    @every_reduction
    def test_relation(self, function, shape, reduction):
        """A relation of one's own: with one matrix per sample, the mean of the samples' losses."""
        a, b = pair(shape)
        samples = [function(a[[i]], b[[i]], reduction=reduction) for i in range(len(a))]
        each = function(a, b, relation=partial(relation_matrix, batch="none"), reduction=reduction)
        close(each, torch.stack(samples).mean(), 1e-12)

    @every_shape
    @every_reduction
    @pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
    def test_reference(self, function, shape, reduction, dtype, relative):
        loops = getattr(reference, function.__name__)
        a, b = pair(shape, dtype)
        close(function(a, b, reduction=reduction), loops(a.numpy(), b.numpy(), reduction), relative)

    def test_reference_gradient(self, function):
        """The gradient of the loops by central differences, where a gradient may flow."""
        loops = getattr(reference, function.__name__)
        a, b = pair((2, 3, 4))
        first, second = a.clone().requires_grad_(), b.clone().requires_grad_()
        function(first, second).backward()
        close(second.grad, reference.slopes(lambda moved: loops(a.numpy(), moved), b.numpy()), 1e-6)
        if function is general_consistency:
            close(first.grad, reference.slopes(lambda moved: loops(moved, b.numpy()), a.numpy()), 1e-6)
        else:
            assert first.grad is None

    @every_shape
    def test_peer(self, function, shape):
        """One sample and row_mean: Inter-Channel Correlation (Liu et al. 2021) as torchdistill has it."""
        from torchdistill.losses.mid_level import ChSimLoss

        a, b = (features[:1] for features in pair(shape))
        sign = 1 if function is general_consistency else -1
        close(function(a, b, reduction="row_mean"), sign * ChSimLoss.batch_loss(a, b), 1e-12)

    @every_shape
    def test_gradcheck(self, function, shape):
        a, b = (features[:1].clone() for features in pair(shape))
        b.requires_grad_()
        assert gradcheck(partial(function, a), b)
        assert gradgradcheck(partial(function, a), b)

    @every_shape
    def test_compile(self, function, shape):
        a, b = (features.requires_grad_() for features in pair(shape))
        eager, compiled = function(a, b), fused(function)(a, b)
        torch.testing.assert_close(compiled, eager)
        torch.testing.assert_close(torch.autograd.grad(compiled, b), torch.autograd.grad(eager, b))

    def test_zero(self, function):
        zero = torch.zeros(2, 3, 4, requires_grad=True)
        function(zero, zero).backward()
        assert not zero.grad.any()
        other = torch.randn(2, 3, 4, requires_grad=True)
        assert function(zero, other).abs().item() == pytest.approx(3)

    def test_identical(self, function):
        same = torch.randn(2, 3, 4, requires_grad=True)
        value = function(same, same.detach().clone().requires_grad_())
        assert value == 0
        value.backward()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_autocast(self, function, dtype):
        a, b = pair((2, 16, 30), torch.float32)
        plain = function(a, b)
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(function(a, b), plain)
        close(function(a.to(dtype), b), plain.double(), 0.05)


def test_who_gets_gradients():
    """general_consistency moves both sides, target_consistency its target alone; names and order are the contract."""
    assert list(inspect.signature(general_consistency).parameters) == ["source", "general", "relation", "reduction"]
    assert list(inspect.signature(target_consistency).parameters) == ["general", "target", "relation", "reduction"]
    source, general, target = (torch.randn(2, 4, 5).requires_grad_() for _ in range(3))
    general_consistency(source=source, general=general).backward()
    assert source.grad.abs().max() > 0
    assert general.grad.abs().max() > 0
    general.grad = None
    for relation in (None, gram_matrix):
        target.grad = None
        target_consistency(general=general, target=target, relation=relation).backward()
        assert general.grad is None
        assert target.grad.abs().max() > 0


def test_sign_and_bounds():
    """Descending L_G brings relations together, descending L_T drives them apart; both are bounded."""
    for function, sign in ((general_consistency, -1), (target_consistency, 1)):
        a, b = torch.rand(2, 8, 20), torch.rand(2, 8, 20).requires_grad_()
        before = relation_distance(relation_matrix(a), relation_matrix(b))
        function(a, b).backward()
        after = relation_distance(relation_matrix(a), relation_matrix(b - 0.1 * b.grad))
        assert sign * (after - before) > 0
    opposite = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert general_consistency(*opposite, reduction="row_mean") <= 2


# Sizes down to one sample, one channel and one voxel, in one to three dimensions.
shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=3)).map(
    lambda sizes: (sizes[0], sizes[1], *sizes[2])
)
seeds = st.integers(0, 2**31)
quick = hypothesis_settings(max_examples=40)


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class TestInvariance:
    @quick
    @given(shape=shapes, seed=seeds, exponent=st.floats(-12, 12), dtype=st.sampled_from([torch.float32, torch.float64]))
    def test_scale(self, shape, seed, exponent, dtype):
        features = draw(shape, seed, dtype)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-10
        for batch in ("mean", "none"):
            matrix = relation_matrix(features, batch=batch)
            scaled = relation_matrix(features * 10**exponent, batch=batch)
            torch.testing.assert_close(scaled, matrix, rtol=0, atol=tolerance)

    @quick
    @given(shape=shapes, seed=seeds)
    def test_positions(self, shape, seed):
        features = draw(shape, seed).flatten(2)
        order = torch.randperm(features.shape[2], generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(relation_matrix(features[..., order]), relation_matrix(features))
        torch.testing.assert_close(gram_matrix(draw(shape, seed)), gram_matrix(features))

    @quick
    @given(shape=shapes, seed=seeds)
    def test_channels(self, shape, seed):
        a, b = draw(shape, seed), draw(shape, seed + 1)
        order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(relation_matrix(a[:, order]), relation_matrix(a)[order][:, order])
        torch.testing.assert_close(general_consistency(a[:, order], b[:, order]), general_consistency(a, b))

    @quick
    @given(shape=shapes, seed=seeds, times=st.integers(2, 4))
    def test_repeated_batch(self, shape, seed, times):
        a, b = draw(shape, seed), draw(shape, seed + 1)
        repeated = a.repeat(times, *[1] * (a.ndim - 1))
        torch.testing.assert_close(relation_matrix(repeated), relation_matrix(a))
        torch.testing.assert_close(general_consistency(repeated, b), general_consistency(a, b))

    @quick
    @given(shape=shapes, seed=seeds)
    def test_distance(self, shape, seed):
        a, b = relation_matrix(draw(shape, seed)), relation_matrix(draw(shape, seed + 1))
        assert relation_distance(a, a) == 0
        torch.testing.assert_close(relation_distance(a, b), relation_distance(b, a))
        assert 0 <= relation_distance(a, b, reduction="row_mean") <= 4


class TestSmallestFeatures:
    """Features so small that the inverse of their Gram matrix leaves the type's range count as zeros."""

    @pytest.mark.parametrize(
        ("dtype", "scales"),
        [
            (torch.float32, (1e-15, 1e-16, 1e-19, 3e-20, 1e-20, 1e-21, 1e-22, 1e-23, 1e-30)),
            (torch.float64, (1e-145, 1e-147, 1e-155, 1e-160, 1e-162)),
        ],
    )
    def test_value_and_gradient_are_finite(self, dtype, scales):
        generator = torch.Generator().manual_seed(0)
        features = torch.rand(2, 8, 7, 6, generator=generator, dtype=dtype)
        other = torch.rand(2, 8, 7, 6, generator=generator, dtype=dtype)
        expected = general_consistency(features, other)
        nothing = general_consistency(torch.zeros_like(features), other)
        for scale in scales:
            small = (features * scale).requires_grad_()
            value = general_consistency(small, other)
            value.backward()
            assert small.grad.isfinite().all(), scale
            if value.item() == pytest.approx(nothing.item(), rel=1e-4):
                assert not small.grad.any(), scale
            else:
                assert value.item() == pytest.approx(expected.item(), rel=1e-4), scale
        assert value.item() == pytest.approx(nothing.item())


# torch itself compiles some derivatives by what it has announced the end of.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
class TestForwardMode:
    """Forward-mode derivatives of the Gram matrix, alone and over reverse-mode ones."""

    @pytest.mark.parametrize("batch", ["mean", "none"])
    @pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 2), (1, 3, 2, 2, 3)])
    def test_jvp_is_the_directional_derivative(self, batch, shape):
        generator = torch.Generator().manual_seed(0)
        features, tangent = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        for function in (gram_matrix, relation_matrix):
            _, found = torch.func.jvp(lambda x, f=function: f(x, batch=batch), (features,), (tangent,))
            step = 1e-6
            above, below = (function(features + sign * step * tangent, batch=batch) for sign in (1, -1))
            torch.testing.assert_close(found, (above - below) / (2 * step), rtol=1e-6, atol=1e-7)

    def test_forward_over_reverse_is_reverse_over_reverse(self):
        features = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        other = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

        def loss(x):
            return general_consistency(x, other)

        forward = torch.func.jacfwd(torch.func.grad(loss))(features)
        reverse = torch.func.jacrev(torch.func.grad(loss))(features)
        torch.testing.assert_close(forward, reverse)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_are_refused(dtype):
    with pytest.raises(
        TypeError, match=r"features must be floating point, got torch\.float8_\w+; convert it with \.float\(\)"
    ):
        relation_matrix(torch.rand(2, 3, 4).to(dtype))


def test_the_meta_device_is_refused():
    with pytest.raises(ValueError, match="features is on the meta device, which holds no numbers"):
        relation_matrix(torch.rand(2, 3, 4, device="meta"))
