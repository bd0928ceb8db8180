"""relcons.losses: wiring, weights, multipliers, levels, encoders and state."""

import copy
import inspect
import io
import math
import pickle
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck

from relcons import (
    DualEncoderOutput,
    GaussianRampUp,
    GeneralConsistencyLoss,
    GramRelation,
    LinearRampUp,
    MultiEncoderOutput,
    RelationConsistencyLoss,
    RelationLoss,
    SampleRelation,
    SpatialRelation,
    TargetConsistencyLoss,
)
from relcons.functional import (
    general_consistency,
    relation_consistency,
    relation_matrix,
    sample_relation,
    spatial_relation,
    target_consistency,
)
from tests import reference

SHAPES = [(2, 4, 7), (3, 4, 5, 2), (2, 4, 3, 2, 2)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["1d", "2d", "3d"])
every_reduction = pytest.mark.parametrize("reduction", ["sum", "row_mean", "mean"])
SINGLE = {
    RelationConsistencyLoss: relation_consistency,
    GeneralConsistencyLoss: general_consistency,
    TargetConsistencyLoss: target_consistency,
}
every_single = pytest.mark.parametrize("kind", list(SINGLE))
every_kind = pytest.mark.parametrize("kind", [*SINGLE, RelationLoss])


def maps(shape: tuple[int, ...], levels: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """One leaf per level; deeper levels have more channels, as encoders do."""
    return tuple(
        torch.randn(shape[0], shape[1] + level, *shape[2:], dtype=dtype).requires_grad_() for level in range(levels)
    )


def output(
    shape: tuple[int, ...] = (2, 4, 7), levels: int = 1, dtype: torch.dtype = torch.float64
) -> DualEncoderOutput:
    return DualEncoderOutput(None, maps(shape, levels, dtype), maps(shape, levels, dtype), maps(shape, levels, dtype))


def call(loss: nn.Module, out: DualEncoderOutput) -> Tensor:
    """Any of the three losses on one output."""
    if isinstance(loss, RelationLoss):
        return loss(out)
    return loss(
        *{
            RelationConsistencyLoss: (out.source[0], out.general[0]),
            GeneralConsistencyLoss: (out.source[0], out.general[0]),
            TargetConsistencyLoss: (out.general[0], out.target[0]),
        }[type(loss)]
    )


class Counting(nn.Module):
    """A relation that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, features: Tensor) -> Tensor:
        self.seen.append(features)
        return relation_matrix(features)


@every_single
class TestSingleLosses:
    @every_shape
    @every_reduction
    def test_smoke(self, kind, shape, reduction):
        a, b = maps(shape)[0], maps(shape)[0]
        expected = 0.25 * SINGLE[kind](a, b, reduction=reduction)
        torch.testing.assert_close(kind(weight=0.25, reduction=reduction)(a, b), expected)

    def test_contract(self, kind):
        assert list(inspect.signature(kind).parameters) == ["weight", "relation", "reduction"]
        names = {
            RelationConsistencyLoss: ["a", "b"],
            GeneralConsistencyLoss: ["source", "general"],
            TargetConsistencyLoss: ["general", "target"],
        }
        assert list(inspect.signature(kind.forward).parameters)[1:] == names[kind]
        a, b = maps((2, 4, 5), dtype=torch.float32)[0], maps((2, 4, 5), dtype=torch.float32)[0]
        torch.testing.assert_close(kind()(a, b), 0.1 * SINGLE[kind](a, b, reduction="sum"))

    def test_exception(self, kind):
        first, second = list(inspect.signature(kind.forward).parameters)[1:]
        good = torch.ones(2, 3, 4)
        with pytest.raises(ValueError, match=rf"{first} must be \(B, C, \*spatial\)"):
            kind()(good[0], good)
        what = "shape" if kind is RelationConsistencyLoss else "number of channels"
        with pytest.raises(ValueError, match=rf"{first} and {second} must have the same {what}, got"):
            kind()(good, good[:, :2])
        with pytest.raises(ValueError, match=r"same shape, got \(2, 3, 3\) and \(1, 3, 3\); .* batches of one size"):
            kind(relation=GramRelation(batch="none"))(good, good[:1])

    @every_shape
    def test_cardinality(self, kind, shape):
        other = torch.rand(1, 4, *(2 * size for size in shape[2:]), dtype=torch.float64)
        assert kind()(maps(shape)[0], other).shape == ()

    @every_shape
    @every_reduction
    def test_reference(self, kind, shape, reduction):
        name = "general_consistency" if kind is RelationConsistencyLoss else SINGLE[kind].__name__
        loops = getattr(reference, name)
        a, b = maps(shape)[0], maps(shape)[0]
        expected = 0.5 * loops(a.detach().numpy(), b.detach().numpy(), reduction)
        assert kind(weight=0.5, reduction=reduction)(a, b).item() == pytest.approx(expected, rel=1e-12)

    @every_shape
    def test_gradcheck(self, kind, shape):
        loss, fixed = kind(weight=0.5), maps(shape)[0].detach()
        assert gradcheck(partial(loss, fixed), maps(shape)[0])
        assert gradgradcheck(partial(loss, fixed), maps(shape)[0])

    @every_shape
    def test_compile(self, kind, shape):
        torch._dynamo.reset()
        loss, a, b = kind(), maps(shape)[0], maps(shape)[0]
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)(a, b)
        torch.testing.assert_close(compiled, loss(a, b))
        torch.testing.assert_close(torch.autograd.grad(compiled, b), torch.autograd.grad(loss(a, b), b))

    def test_who_gets_gradients(self, kind):
        a, b = maps((2, 4, 5))[0], maps((2, 4, 5))[0]
        kind()(a, b).backward()
        assert b.grad.abs().max() > 0
        assert (a.grad is None) == (kind is TargetConsistencyLoss)


class TestRelationConsistencyLoss:
    """What the paper's names do not cover: samples and positions, of maps that differ in the rest."""

    def test_src_mt(self):
        student, teacher = maps((4, 3, 5))[0], maps((4, 3, 5))[0]
        loss = RelationConsistencyLoss(weight=0.5, relation=SampleRelation(), reduction="row_mean")
        expected = 0.5 * reference.src_mt(student.detach().numpy(), teacher.detach().numpy())
        assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)

    def test_pairwise_distillation(self):
        student, teacher = maps((2, 3, 5, 4))[0], maps((2, 6, 5, 4))[0]
        loss = RelationConsistencyLoss(weight=0.5, relation=SpatialRelation(size=(3, 2)), reduction="mean")
        expected = 0.5 * reference.pairwise(student.detach().numpy(), teacher.detach().numpy(), (3, 2))
        assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)

    def test_a_detached_teacher_gets_no_gradient(self):
        student, teacher = maps((4, 3, 5))[0], maps((4, 7, 6, 6))[0]
        RelationConsistencyLoss(relation=SampleRelation())(student, teacher.detach()).backward()
        assert student.grad.abs().max() > 0
        assert teacher.grad is None

    def test_exception(self):
        with pytest.raises(ValueError, match=r"got \(2, 2\) and \(3, 3\); SampleRelation needs batches of one size"):
            RelationConsistencyLoss(relation=SampleRelation())(maps((2, 4, 5))[0], maps((3, 4, 5))[0])


RELATIONS = {
    "(C, C)": (GramRelation(center=True), partial(relation_matrix, center=True)),
    "(B, C, C)": (GramRelation(batch="none"), partial(relation_matrix, batch="none")),
    "(B, B)": (SampleRelation(), sample_relation),
    "(B, P, P)": (SpatialRelation(size=2), partial(spatial_relation, size=2)),
}


@pytest.mark.parametrize(("relation", "function"), RELATIONS.values(), ids=RELATIONS)
class TestRelationLossOfEveryShape:
    @every_shape
    @every_reduction
    def test_terms(self, shape, reduction, relation, function):
        out = output(shape, levels=2)
        terms = RelationLoss(0.5, general=2.0, target=0.25, relation=relation, reduction=reduction).terms(out)
        expected = [
            sum(consistency(a, b, relation=function, reduction=reduction) for a, b in zip(*pair, strict=True)) / 2
            for consistency, pair in (
                (general_consistency, (out.source, out.general)),
                (target_consistency, (out.general, out.target)),
            )
        ]
        torch.testing.assert_close(terms.general, expected[0])
        torch.testing.assert_close(terms.target, expected[1])
        torch.testing.assert_close(terms.total, 0.5 * (2.0 * expected[0] + 0.25 * expected[1]))

    def test_routes(self, relation, function):
        out = output((2, 4, 3, 2))
        RelationLoss(1.0, general=False, relation=relation)(out).backward()
        assert out.target[0].grad.abs().max() > 0
        assert out.general[0].grad is None

    def test_unequal_batches(self, relation, function):
        """One matrix of a whole batch takes any two; sample against sample is refused, and the error names the fix."""
        out = output((3, 4, 3, 2))._replace(source=maps((2, 4, 3, 2)))
        assert RelationLoss(general=False, relation=relation)(out).isfinite()
        if relation(out.target[0]).shape == (4, 4):
            assert RelationLoss(relation=relation)(out).isfinite()
            return
        with pytest.raises(
            ValueError,
            match=r"relations of output\.source and output\.general must have the same shape, .* batches of one size",
        ):
            RelationLoss(relation=relation)(out)


class TestRelationLoss:
    @every_shape
    @every_reduction
    def test_smoke(self, shape, reduction):
        out = output(shape)
        loss = RelationLoss(reduction=reduction)
        terms = loss.terms(out)
        torch.testing.assert_close(
            terms.general, general_consistency(out.source[0], out.general[0], reduction=reduction)
        )
        torch.testing.assert_close(terms.target, target_consistency(out.general[0], out.target[0], reduction=reduction))
        torch.testing.assert_close(terms.total, 0.1 * (terms.general + terms.target))
        assert torch.equal(loss(out), terms.total)

    def test_contract(self):
        parameters = inspect.signature(RelationLoss).parameters
        assert {name: value.default for name, value in parameters.items()} == {
            "weight": 0.1, "general": True, "target": True, "relation": None, "reduction": "sum",
            "anchor": None,
        }  # fmt: skip
        assert RelationLoss().terms(output())._fields == ("total", "general", "target", "weight")

    def test_exception(self):
        with pytest.raises(ValueError, match="general and target are both False, so nothing is left"):
            RelationLoss(general=False, target=False)
        sourceless = output()._replace(source=None)
        for loss in (RelationLoss(), RelationLoss(general=0.0), RelationLoss(target=False)):
            with pytest.raises(
                ValueError, match=r"needs source features .* source=, or use RelationLoss\(general=False\)"
            ):
                loss(sourceless)
        wider = output()._replace(target=maps((2, 5, 7)))
        with pytest.raises(ValueError, match=r"output.general and output.target must have the same number of channels"):
            RelationLoss()(wider)
        with pytest.raises(ValueError, match=r"output.source and output.general must have the same number of channels"):
            RelationLoss()(output()._replace(source=maps((2, 5, 7))))

    @pytest.mark.parametrize("name", ["general", "target"])
    def test_exception_multiplier(self, name):
        for value in (math.nan, math.inf):
            with pytest.raises(ValueError, match=f"{name} must be a finite number, got {value}"):
                RelationLoss(**{name: value})

    @pytest.mark.parametrize("field", ["target", "source"])
    @pytest.mark.parametrize("levels", [1, 3])
    def test_exception_levels(self, field, levels):
        """A level too many must not go unseen, and one too few must say so."""
        with pytest.raises(ValueError, match=f"output.{field}"):
            RelationLoss()(output(levels=2)._replace(**{field: maps((2, 4, 7), levels)}))

    def test_exception_encoders(self):
        out = MultiEncoderOutput(None, maps((2, 4, 7)), (maps((2, 4, 7)), maps((2, 4, 7))), (maps((2, 4, 7)),))
        with pytest.raises(ValueError, match=r"output\.source"):
            RelationLoss()(out)

    @pytest.mark.parametrize("fields", [["target"], ["general"], ["source"], ["target", "general", "source"]])
    def test_exception_bare_tensor(self, fields):
        """A map in place of a tuple of maps would be read sample by sample."""
        out = output((4, 4, 4, 4))
        with pytest.raises((TypeError, ValueError), match=r"output\.(target|general|source)"):
            RelationLoss()(out._replace(**{field: getattr(out, field)[0] for field in fields}))

    @every_shape
    def test_cardinality(self, shape):
        terms = RelationLoss().terms(output(shape, levels=3))
        assert [value.shape for value in terms] == [()] * 4

    @every_shape
    @every_reduction
    def test_reference(self, shape, reduction):
        """Different weights on both terms, so that swapped ones fail."""
        out = output(shape, levels=2)
        target, general, source = (
            [m.detach().numpy() for m in field] for field in (out.target, out.general, out.source)
        )
        expected_general = sum(reference.general_consistency(source[i], general[i], reduction) for i in (0, 1)) / 2
        expected_target = sum(reference.target_consistency(general[i], target[i], reduction) for i in (0, 1)) / 2
        loss = RelationLoss(weight=0.5, general=2.0, target=0.25, reduction=reduction)
        terms = loss.terms(out)
        assert terms.general.item() == pytest.approx(expected_general, rel=1e-12)
        assert terms.target.item() == pytest.approx(expected_target, rel=1e-12)
        expected = 0.5 * (2.0 * expected_general + 0.25 * expected_target)
        assert terms.total.item() == pytest.approx(expected, rel=1e-12)
        assert expected != pytest.approx(0.5 * (0.25 * expected_general + 2.0 * expected_target), rel=0.1)

    @every_shape
    def test_routes(self, shape):
        """Source and general get L_G's gradient alone, target L_T's alone: a mix-up of fields fails here."""
        out = output(shape)
        RelationLoss(weight=0.5, general=2.0, target=0.25)(out).backward()
        target, general, source = (copy.deepcopy(field[0].detach()).requires_grad_() for field in out[1:])
        (0.5 * 2.0 * general_consistency(source, general)).backward()
        (0.5 * 0.25 * target_consistency(general.detach(), target)).backward()
        for actual, expected in zip(out[1:], (target, general, source), strict=True):
            torch.testing.assert_close(actual[0].grad, expected.grad)

    @every_shape
    def test_gradcheck(self, shape):
        out = output(shape)

        def general(source: Tensor, features: Tensor) -> Tensor:
            return RelationLoss(target=False)(out._replace(source=(source,), general=(features,)))

        def target(features: Tensor) -> Tensor:
            return RelationLoss(general=False)(out._replace(target=(features,)))

        for function, inputs in ((general, (out.source[0], out.general[0])), (target, (out.target[0],))):
            assert gradcheck(function, inputs)
            assert gradgradcheck(function, inputs)

    @every_shape
    def test_compile(self, shape):
        """One compilation for a whole ramp-up, with the right weight at every step."""
        torch._dynamo.reset()
        loss = RelationLoss(weight=GaussianRampUp(6, peak=1.0), general=2.0)
        twin = copy.deepcopy(loss)
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(
            lambda *fields: loss(DualEncoderOutput(None, *fields)), backend=counter, fullgraph=True
        )
        values = []
        for _ in range(8):
            out = output(shape)
            total = compiled(*out[1:])
            torch.testing.assert_close(total, twin(out))
            torch.testing.assert_close(
                torch.autograd.grad(total, [field[0] for field in out[1:]]),
                torch.autograd.grad(twin(out), [field[0] for field in out[1:]]),
            )
            values.append(loss.current_weight.item())
            loss.step()
            twin.step()
        assert counter.frame_count == 1
        assert len(set(values)) == 7

    def test_off_or_zero(self):
        out = output()
        sourceless = RelationLoss(general=False).terms(out._replace(source=None))
        assert sourceless.general is None
        torch.testing.assert_close(sourceless.total, 0.1 * sourceless.target)
        targetless = RelationLoss(target=False).terms(out._replace(target=()))
        assert targetless.target is None
        torch.testing.assert_close(targetless.total, 0.1 * targetless.general)
        silent = RelationLoss(general=0.0, target=0.0).terms(out)
        assert silent.total == 0
        assert silent.general > 0
        assert silent.target < 0
        silent.total.backward()
        assert not any(field[0].grad.any() for field in out[1:])

    @pytest.mark.parametrize(
        ("off", "seen"), [("general", "general target"), ("target", "source general"), ("", "all")]
    )
    def test_work(self, off, seen):
        """The shared matrix is computed once; what is off is not computed."""
        out, counting = output(), Counting()
        RelationLoss(relation=counting, **({off: False} if off else {}))(out)
        fields = {"all": "source general target"}.get(seen, seen).split()
        assert {id(m) for m in counting.seen} == {id(getattr(out, field)[0]) for field in fields}
        assert len(counting.seen) == len(fields)

    def test_batch_none(self):
        out = output((3, 4, 5))
        terms = RelationLoss(relation=GramRelation(batch="none")).terms(out)
        single = [RelationLoss().terms(out._replace(**{
            field: (getattr(out, field)[0][i : i + 1],) for field in ("target", "general", "source")
        })) for i in range(3)]  # fmt: skip
        torch.testing.assert_close(terms.general, torch.stack([term.general for term in single]).mean())
        torch.testing.assert_close(terms.target, torch.stack([term.target for term in single]).mean())
        with pytest.raises(ValueError, match=r"same shape, got \(2, 4, 4\) and \(3, 4, 4\); .* batches of one size"):
            RelationLoss(relation=GramRelation(batch="none"))(out._replace(source=maps((2, 4, 5))))

    def test_levels(self):
        """Means over levels: lambda keeps its meaning whatever their number."""
        out = output(levels=3)
        one_by_one = [
            RelationLoss().terms(DualEncoderOutput(None, *((field[i],) for field in out[1:]))) for i in range(3)
        ]
        terms = RelationLoss().terms(out)
        for name in ("total", "general", "target"):
            expected = torch.stack([getattr(term, name) for term in one_by_one]).mean()
            torch.testing.assert_close(getattr(terms, name), expected)

    def test_encoders(self):
        """Means over general encoders; one without a source has a target term alone."""
        first, second = output(levels=2), output(levels=2)._replace(source=None)
        out = MultiEncoderOutput(None, first.target, (first.general, second.general), (first.source, None))
        terms = RelationLoss().terms(out)
        torch.testing.assert_close(terms.general, RelationLoss(target=False).terms(first).general)
        targets = [RelationLoss(general=False).terms(first._replace(general=g)).target for g in out.general]
        torch.testing.assert_close(terms.target, torch.stack(targets).mean())
        third = output(levels=2)
        both = RelationLoss().terms(out._replace(source=(first.source, third.source))).general
        pairs = ((first.source, first.general), (third.source, second.general))
        singles = [RelationLoss().terms(first._replace(source=s, general=g)).general for s, g in pairs]
        torch.testing.assert_close(both, torch.stack(singles).mean())
        reordered = RelationLoss().terms(out._replace(source=(None, first.source)))
        torch.testing.assert_close(reordered.general, general_mean(first.source, second.general))
        for empty in (None, (None, None)):
            with pytest.raises(ValueError, match="the general term needs source features"):
                RelationLoss()(out._replace(source=empty))
            assert RelationLoss(general=False).terms(out._replace(source=empty)).general is None

    def test_own_relation(self):
        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.tensor(2.0))

            def forward(self, features: Tensor) -> Tensor:
                return self.scale * relation_matrix(features)

        out, loss = output(), RelationLoss(relation=Scaled())
        torch.testing.assert_close(loss(out), 4 * RelationLoss()(out))
        loss(out).backward()
        assert loss.relation.scale.grad != 0
        assert set(loss.state_dict()) == {"_extra_state", "relation.scale"}

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_autocast(self, dtype):
        out = output((2, 8, 30), dtype=torch.float32)
        plain = RelationLoss()(out)
        with torch.autocast("cpu", dtype=dtype):
            mixed = RelationLoss()(out)
            assert mixed.dtype == torch.float32
            assert torch.equal(mixed, plain)
        half = DualEncoderOutput(None, *((field[0].detach().to(dtype).requires_grad_(),) for field in out[1:]))
        total = RelationLoss()(half)
        total.backward()
        assert total.item() == pytest.approx(plain.item(), rel=0.05)
        assert all(field[0].grad.isfinite().all() for field in half[1:])

    def test_degenerate(self):
        """Nothing to relate gives a differentiable 0; NaN is seen."""
        out = DualEncoderOutput(None, *((torch.zeros(1, 1, 1).requires_grad_(),) for _ in range(3)))
        total = RelationLoss()(out)
        total.backward()
        assert total == 0
        assert not any(field[0].grad.any() for field in out[1:])
        for field in ("target", "general", "source"):
            broken = output()
            getattr(broken, field)[0].data[0, 0, 0] = math.nan
            assert RelationLoss()(broken).isnan()


def general_mean(source: tuple[Tensor, ...], general: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([general_consistency(s, g) for s, g in zip(source, general, strict=True)]).mean()


@every_kind
class TestWeight:
    def test_exception(self, kind):
        for weight in (math.nan, math.inf, "0.1", True):
            with pytest.raises(ValueError, match="weight must be a finite number, got"):
                kind(weight=weight)
        with pytest.raises(TypeError, match="weight must be a number or a schedule, got the class LinearRampUp; make"):
            kind(weight=LinearRampUp)
        with pytest.raises(TypeError, match=r"relation must be a module from features to \(C, C\), got function"):
            kind(relation=relation_matrix)
        with pytest.raises(ValueError, match="reduction must be one of 'sum', 'row_mean', 'mean', got 'max'"):
            kind(reduction="max")
        loss = kind(weight=LinearRampUp(4, peak=2.0))
        loss.step(1)
        with pytest.raises(ValueError, match="step must be 0 or more, got -1"):
            loss.step(-1)
        assert loss.current_weight == 0.5
        loss.step()
        assert loss.current_weight == 1.0

    def test_current_weight(self, kind):
        """schedule(0) before the first step, schedule(n) after n, the peak after the end."""
        schedule = GaussianRampUp(3, peak=2.0)
        loss, out = kind(weight=schedule), output()
        unweighted = call(kind(weight=1.0), out)
        for step in (0, 1, 2, 3, 3, 3):
            assert loss.current_weight.item() == pytest.approx(schedule(step))
            torch.testing.assert_close(call(loss, out), schedule(step) * unweighted, rtol=1e-6, atol=0)
            loss.step()
        loss.step(1)
        assert loss.current_weight.item() == pytest.approx(schedule(1))
        loss.step()
        assert loss.current_weight.item() == pytest.approx(schedule(2))
        loss.step(0)
        assert loss.current_weight.item() == pytest.approx(schedule(0))

    def test_forward_keeps_step(self, kind):
        loss = kind(weight=LinearRampUp(4))
        for _ in range(3):
            call(loss, output())
        assert loss.current_weight == 0

    def test_constant(self, kind):
        loss = kind(weight=0.25)
        loss.step()
        loss.step(1000)
        assert loss.current_weight == 0.25

    def test_step_before_backward(self, kind):
        """A step between loss and backward belongs to the next loss, not to this one."""
        loss, out = kind(weight=LinearRampUp(4, peak=2.0)), output()
        loss.step(1)
        value = call(loss, out)
        expected = torch.autograd.grad(call(loss, out), out.target if kind is TargetConsistencyLoss else out.general)
        loss.step(4)
        actual = torch.autograd.grad(value, out.target if kind is TargetConsistencyLoss else out.general)
        torch.testing.assert_close(actual, expected)

    def test_state_dict(self, kind):
        loss = kind(weight=LinearRampUp(10, peak=1.0))
        loss.step(6)
        assert set(loss.state_dict()) == {"_extra_state"}
        file = io.BytesIO()
        torch.save(nn.ModuleDict({"relation": loss}).state_dict(), file)
        file.seek(0)
        fresh = kind(weight=LinearRampUp(10, peak=1.0))
        nn.ModuleDict({"relation": fresh}).load_state_dict(torch.load(file, weights_only=True))
        assert fresh.current_weight.item() == pytest.approx(0.6)
        fresh.step()
        assert fresh.current_weight.item() == pytest.approx(0.7)
        assert loss.current_weight.item() == pytest.approx(0.6)

    def test_copies(self, kind):
        loss, out = kind(weight=LinearRampUp(10, peak=1.0), reduction="row_mean"), output()
        loss.step(3)
        for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
            assert torch.equal(call(twin, out), call(loss, out))
            twin.step()
            assert twin.current_weight.item() == pytest.approx(0.4)
            assert loss.current_weight.item() == pytest.approx(0.3)

    def test_to(self, kind):
        loss = kind(weight=LinearRampUp(10, peak=1.0)).to("meta")
        assert loss.current_weight.device.type == "meta"
        loss = kind(weight=LinearRampUp(10, peak=1.0)).to(torch.float64)
        loss.step(3)
        assert loss.current_weight.dtype == torch.float64
        assert loss.current_weight.item() == 0.3
        assert not loss.current_weight.requires_grad

    def test_repr(self, kind):
        assert "schedule=LinearRampUp(total_steps=10, peak=0.1), reduction='sum'" in repr(kind(weight=LinearRampUp(10)))


def test_terms_keep_their_weight():
    """Logged terms tell the weight they were made with, also after the next step."""
    loss = RelationLoss(weight=LinearRampUp(4, peak=2.0))
    loss.step(1)
    terms = loss.terms(output())
    loss.step()
    assert terms.weight.item() == 0.5


class TestWeights:
    """What a weight and its step may be, and how they start again."""

    def test_reset_goes_back_to_the_start(self):
        loss = RelationLoss(LinearRampUp(10, peak=1.0))
        loss.step(6)
        loss.reset_parameters()
        assert (loss.current_weight.item(), int(loss.get_extra_state())) == (0, 0)
        loss.step()
        assert loss.current_weight.item() == pytest.approx(0.1)

    def test_made_on_the_meta_device(self):
        with torch.device("meta"):
            loss = RelationLoss(LinearRampUp(10, peak=1.0))
        loss.to_empty(device="cpu")
        loss.current_weight.fill_(-1e12)
        loss.reset_parameters()
        assert loss.current_weight.item() == 0

    @pytest.mark.parametrize("step", [1.7, True, "2"])
    def test_a_step_is_a_whole_number(self, step):
        loss = RelationLoss(LinearRampUp(10))
        with pytest.raises(TypeError, match=f"to must be a whole number of optimiser steps, got {step!r}"):
            loss.step(step)
        assert int(loss.get_extra_state()) == 0

    @pytest.mark.parametrize("weight", [1e39, -1e39, lambda step: 1e39, lambda step: float("nan")])
    def test_a_weight_fits_float32(self, weight):
        with pytest.raises(ValueError, match=r"weight must be finite in float32, the schedule .* gives"):
            RelationLoss(weight)

    def test_the_largest_weight_is_kept(self):
        assert RelationLoss(3e38).current_weight.isfinite()

    @pytest.mark.parametrize("name", ["target", "general"])
    def test_an_output_without_maps_is_refused(self, name):
        maps = (torch.rand(2, 4, 3, 3),)
        given = {"target": maps, "general": maps, "source": maps} | {name: ()}
        with pytest.raises(ValueError, match=f"output.{name} holds no map"):
            RelationLoss()(DualEncoderOutput(logits=None, **given))

    def test_a_schedule_gets_and_gives_plain_numbers(self):
        steps = []

        def schedule(step):
            steps.append(type(step))
            return torch.tensor(0.25)

        loss = RelationLoss(schedule)
        loss.step(np.int64(3))
        assert steps == [int, int]
        assert loss.current_weight.item() == 0.25
        assert type(loss._step) is int

    @pytest.mark.parametrize("name", ["target", "general", "source"])
    def test_what_is_no_output_is_refused(self, name):
        fields = {"target": (torch.rand(2, 4, 3),), "general": (torch.rand(2, 4, 3),), "source": None}
        del fields[name]
        message = rf"output must be what a model returns .*, got SimpleNamespace without {name}"
        with pytest.raises(TypeError, match=message):
            RelationLoss(general=False)(SimpleNamespace(**fields))
