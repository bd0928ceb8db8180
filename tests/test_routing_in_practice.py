"""What training loops add keeps the routing exact: scaling, autocast, accumulation, checkpointing, averaged weights.

Each is held against Algorithm 1's three updates, by the model's single backward and by GradientRouter.
"""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.utils.checkpoint import checkpoint

from relcons import DualEncoderUNet, GradientRouter, RelationLoss
from tests.test_algorithm1 import CASES, SCHEDULE, WEIGHT, Step, algorithm_1, build, distance, segmentation_loss

Losses = dict[str, Tensor]
plain, three_d, smp, own = CASES[0], CASES[2], CASES[3], CASES[4]
every_case = pytest.mark.parametrize("case", [plain, three_d, smp], ids=str)


def losses(model: DualEncoderUNet, step: Step, weight: float = WEIGHT) -> Losses:
    out = model(step.x, source=step.source)
    terms = RelationLoss(weight=weight).terms(out)
    return {
        "segmentation": segmentation_loss(out.logits, step.labels),
        "general": terms.weight * terms.general,
        "target": terms.weight * terms.target,
    }


def by_one_backward(model: nn.Module, found: Losses, scale: Callable[[Tensor], Tensor] = lambda loss: loss) -> None:
    scale(sum(found.values())).backward()


def by_router(model: nn.Module, found: Losses, scale: Callable[[Tensor], Tensor] = lambda loss: loss) -> None:
    router = GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), model.routes(), model=model)
    router.backward({name: scale(loss) for name, loss in found.items()})


WAYS = {"one backward": by_one_backward, "router": by_router}
every_way = pytest.mark.parametrize("way", list(WAYS.values()), ids=list(WAYS))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def halves(step: Step) -> list[Step]:
    """Micro-batches: three target images and two source images as two and one, one and one."""
    parts = zip(step.x.split(2), zip(*(label.split(2) for label in step.labels), strict=True), strict=True)
    return [Step(x, list(labels), s) for (x, labels), s in zip(parts, step.source.split(1), strict=True)]


@every_case
@every_way
def test_scaling(case, way) -> None:
    model, step = build(case)
    expected = algorithm_1(copy.deepcopy(model), step, WEIGHT)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    way(model, losses(model, step), scaler.scale)
    assert distance({name: grad / 2**16 for name, grad in gradients(model).items()}, expected) < 1e-5
    scaler.unscale_(optimizer)
    assert distance(gradients(model), expected) < 1e-5
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scaler.step(optimizer)
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name), before[name] - 0.1 * gradient, rtol=1e-6, atol=1e-8)


@every_way
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [plain, smp], ids=str)
def test_autocast(case, dtype, way) -> None:
    """Each part's gradient is that of its own losses in the same precision, to the rounding of their sum."""
    model, step = build(case)
    exact = algorithm_1(copy.deepcopy(model), step, WEIGHT)
    model.float()
    step = Step(step.x.float(), [labels.float() for labels in step.labels], step.source.float())
    twin = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=dtype == torch.float16)
    with torch.autocast("cpu", dtype=dtype):
        found, apart = losses(model, step), losses(twin, step)
    way(model, found, scaler.scale)
    scaler.unscale_(torch.optim.SGD(model.parameters(), lr=0.1))
    routes = {"general_encoders": ("general",), "target_encoder": ("segmentation", "target")}
    for name, gradient in gradients(model).items():
        parameter = twin.get_parameter(name)
        reaching = routes.get(name.partition(".")[0], ("segmentation",))
        scaled = scaler.get_scale() * sum(apart[loss] for loss in reaching)
        (expected,) = torch.autograd.grad(scaled, parameter, retain_graph=True)
        assert gradient.isfinite().all()
        torch.testing.assert_close(
            gradient,
            expected / scaler.get_scale(),
            rtol=1e-2,
            atol=1e-2 * float(expected.abs().max() / scaler.get_scale()),
        )
    assert gradients(model).keys() == exact.keys()
    for part in ("general_encoders", "target_encoder", "decoder"):
        names = [name for name in exact if name.startswith(part)]
        joined = [torch.cat([grads[name].flatten().double() for name in names]) for grads in (gradients(model), exact)]
        # The precision's own error, eight times as large for the three bits that bfloat16 lacks.
        assert (joined[0] - joined[1]).norm() < {torch.float16: 0.08, torch.bfloat16: 0.64}[dtype] * joined[1].norm()


@every_case
@every_way
def test_accumulation(case, way) -> None:
    """Gradients are the mean over micro-batches; lambda stays until the optimiser has stepped."""
    model, step = build(case)
    twin = copy.deepcopy(model)
    relation = RelationLoss(weight=SCHEDULE)
    relation.step(4)
    expected: dict[str, Tensor] = {}
    for part in halves(step):
        for name, gradient in algorithm_1(twin, part, SCHEDULE(4)).items():
            expected[name] = expected.get(name, 0) + gradient / 2
        way(model, {name: loss / 2 for name, loss in losses(model, part, relation.current_weight.item()).items()})
    assert distance(gradients(model), expected) < 1e-5


def checkpoint_stages(model: DualEncoderUNet, reentrant: bool) -> list[nn.Module]:
    """Recompute the encoders' stages in backward; returns the stages that run, in the order they do.

    The reentrant way gives no gradient to a stage whose input needs none: it leaves the first out.
    """
    runs: list[nn.Module] = []

    def run(stage: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        runs.append(stage)
        return forward(x)

    for encoder in (model.target_encoder, model.general_encoder):
        for stage in list(encoder.stages)[1 if reentrant else 0 :]:
            again = functools.partial(run, stage, stage.forward)
            stage.forward = functools.partial(checkpoint, again, use_reentrant=reentrant)
    return runs


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("case", [plain, three_d], ids=str)
def test_checkpointing(case, reentrant: bool) -> None:
    model, step = build(case)
    expected = algorithm_1(copy.deepcopy(model), step, WEIGHT)
    runs = checkpoint_stages(model, reentrant)
    found = losses(model, step)
    forward = len(runs)
    assert forward == 3 * (2 if reentrant else 3)  # the target encoder once, the general one twice
    by_one_backward(model, found)
    assert len(runs) == 2 * forward
    assert distance(gradients(model), expected) < 1e-5


@pytest.mark.parametrize("case", [plain, three_d], ids=str)
def test_checkpointing_with_the_router(case) -> None:
    model, step = build(case)
    expected = algorithm_1(copy.deepcopy(model), step, WEIGHT)
    checkpoint_stages(model, reentrant=False)
    by_router(model, losses(model, step))
    assert distance(gradients(model), expected) < 1e-5


def test_the_router_needs_checkpoints_that_are_not_reentrant() -> None:
    model, step = build(plain)
    checkpoint_stages(model, reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=True"):
        by_router(model, losses(model, step))


@every_case
def test_averaged_weights(case) -> None:
    """An EMA changes nothing in training, is independent of it, and routes as the model itself."""
    model, step = build(case)
    twin = copy.deepcopy(model)
    averaged = AveragedModel(model, avg_fn=get_ema_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    mean = {name: p.detach().clone() for name, p in model.named_parameters()}
    for number in range(3):
        optimizer.zero_grad()
        by_one_backward(model, losses(model, step))
        expected = algorithm_1(twin, step, WEIGHT)
        assert distance(gradients(model), expected) < 1e-5
        optimizer.step()
        averaged.update_parameters(model)
        for name, gradient in expected.items():
            with torch.no_grad():
                twin.get_parameter(name).sub_(0.05 * gradient)
        for name, p in model.named_parameters():
            mean[name] = p.detach().clone() if number == 0 else 0.9 * mean[name] + 0.1 * p.detach()
    shadow = averaged.module
    for name, p in shadow.named_parameters():
        torch.testing.assert_close(p.detach(), mean[name], rtol=1e-10, atol=0)
        assert p.grad is None
    by_one_backward(shadow, losses(shadow, step))
    assert distance(gradients(shadow), algorithm_1(copy.deepcopy(shadow), step, WEIGHT)) < 1e-5
    assert shadow.eval()(step.x).shape == averaged(step.x).shape


def test_averaged_weights_of_a_frozen_general_encoder() -> None:
    model, step = build(smp)
    model.freeze_general()
    averaged = AveragedModel(model)
    averaged.train()
    assert not averaged.module.general_encoder.training
    out = averaged(step.x, features=True)
    (segmentation_loss(out.logits, step.labels) + RelationLoss(general=False)(out)).backward()
    assert {name.partition(".")[0] for name in gradients(averaged.module)} == {"target_encoder", "decoder", "head"}


def test_the_optimiser_can_count_the_steps_of_the_ramp_up() -> None:
    """One step per step of the optimiser, and none for a step that GradScaler skips."""
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    relation = RelationLoss(weight=SCHEDULE)
    optimizer.register_step_post_hook(lambda *_: relation.step())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for factor in (1.0, float("inf"), 1.0):
        scaler.scale(factor * parameter.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert int(relation.get_extra_state()) == 2
    assert relation.current_weight.item() == pytest.approx(SCHEDULE(2))
