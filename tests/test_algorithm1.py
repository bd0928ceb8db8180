"""The model's single backward against Algorithm 1 as three separate updates.

The reference below is written from the paper's Eq. 1, 2, 4, 5 and Algorithm 1 alone: it stops no
gradient anywhere, computes nothing in float32 by itself, uses neither RelationLoss nor the model's
forward, and asks autograd for each update on its own.
"""

import copy
from dataclasses import dataclass

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import Tensor, nn

from relcons import DualEncoderUNet, GaussianRampUp, MultiEncoderUNet, RelationLoss
from tests.models.networks import Case, dna_net, own_case, smp_case

CASES = [
    Case("plain-2D", lambda: dna_net(axes=2, conv_bias=True), (1, 16, 16)),
    Case("plain-3D", lambda: dna_net(axes=3, conv_bias=True, strides=[1, (1, 2, 2), 2]), (1, 4, 8, 8)),
    Case("residual-3D", lambda: dna_net(ResidualEncoderUNet, 3), (1, 8, 8, 8)),
    smp_case("Unet", encoder_depth=2, decoder_channels=(8, 8)),
    own_case(1),
    own_case(3),
]
WEIGHT = 0.3
SCHEDULE = GaussianRampUp(total_steps=10, peak=WEIGHT)


@dataclass
class Step:
    """What Algorithm 1 reads in one step."""

    x: Tensor
    labels: list[Tensor]
    source: Tensor


def relation(features: Tensor) -> Tensor:
    """R of a batch, channel by channel (Eq. 1 and 2)."""
    mean = sum(features[b] for b in range(features.shape[0])) / features.shape[0]
    a = [mean[m].reshape(-1) for m in range(mean.shape[0])]
    rows = []
    for m in range(len(a)):
        row = torch.stack([(a[m] * a[n]).sum() for n in range(len(a))])
        rows.append(row / (row * row).sum().sqrt())
    return torch.stack(rows)


def squared_norm(difference: Tensor) -> Tensor:
    return sum(entry * entry for entry in difference.reshape(-1))


def segmentation_loss(logits: Tensor | list[Tensor], labels: list[Tensor]) -> Tensor:
    outputs = logits if isinstance(logits, list) else [logits]
    losses = [
        nn.functional.binary_cross_entropy_with_logits(o, y) / 2**i
        for i, (o, y) in enumerate(zip(outputs, labels, strict=True))
    ]
    return sum(losses)


def algorithm_1(model: DualEncoderUNet, step: Step, weight: float, joint: bool = False) -> dict[str, Tensor]:
    """Gradients of lines 9 to 11, by parameter name; ``joint`` adds L_seg to line 9."""
    general_c = model.general_encoder(step.x)[-1]
    target_maps = model.target_encoder(step.x)
    general_n = model.general_encoder(step.source)[-1]
    r_general_c, r_target_c, r_general_n = relation(general_c), relation(target_maps[-1]), relation(general_n)
    logits = model.head(model.decoder([*target_maps[:-1], torch.cat([target_maps[-1], general_c], dim=1)]))
    l_seg = segmentation_loss(logits, step.labels)
    l_general = weight * squared_norm(r_general_n - r_general_c)
    l_target = -weight * squared_norm(r_general_c - r_target_c)
    updates = (
        (model.general_encoder, l_general + l_seg if joint else l_general),
        (model.target_encoder, l_seg + l_target),
        (nn.ModuleList([model.decoder, model.head]), l_seg),
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    gradients = {}
    for module, loss in updates:
        parameters = [p for p in module.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, parameters, retain_graph=True)
        gradients |= {names[p]: g for p, g in zip(parameters, found, strict=True)}
    return gradients


def build(case: Case, **options: str) -> tuple[DualEncoderUNet, Step]:
    """The paper's model in float64, trained a little so that no two encoders are alike, and a batch."""
    model = DualEncoderUNet(case.build(), general="reset", fusion="concat", **options).double().train()
    x, source = case.batch(3).double(), case.batch(2).double() + 0.3
    logits = copy.deepcopy(model)(x)
    outputs = logits if isinstance(logits, list) else [logits]
    return model, Step(x, [(torch.rand_like(output) > 0.5).double() for output in outputs], source)


def single_backward(model: DualEncoderUNet, step: Step, relation_loss: RelationLoss) -> dict[str, Tensor]:
    out = model(step.x, source=step.source)
    (segmentation_loss(out.logits, step.labels) + relation_loss(out)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def distance(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference over all parameters, relative to each parameter's largest gradient."""
    assert actual.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    return max(
        ((actual[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-7 * largest)).item()
        for name, gradient in expected.items()
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_single_backward_is_algorithm_1(case: Case) -> None:
    model, step = build(case)
    expected = algorithm_1(copy.deepcopy(model), step, WEIGHT)
    assert distance(single_backward(model, step, RelationLoss(weight=WEIGHT)), expected) < 1e-5


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_float32(case: Case) -> None:
    model, step = build(case)
    expected = algorithm_1(copy.deepcopy(model), step, WEIGHT)
    model.float()
    step = Step(step.x.float(), [labels.float() for labels in step.labels], step.source.float())
    found = single_backward(model, step, RelationLoss(weight=WEIGHT))
    joined = torch.cat([(found[name] - gradient).flatten() for name, gradient in expected.items()])
    assert joined.norm() < 1e-5 * torch.cat([gradient.flatten() for gradient in expected.values()]).norm()


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_joint_route_differs_by_that_detach_alone(case: Case) -> None:
    model, step = build(case, route="joint")
    paper = algorithm_1(copy.deepcopy(model), step, WEIGHT)
    joint = algorithm_1(copy.deepcopy(model), step, WEIGHT, joint=True)
    found = single_backward(model, step, RelationLoss(weight=WEIGHT))
    assert distance(found, joint) < 1e-5
    general = {name for name in found if name.startswith("general_encoders")}
    assert (
        distance({n: g for n, g in found.items() if n not in general}, {n: paper[n] for n in paper.keys() - general})
        < 1e-5
    )
    assert distance({n: found[n] for n in general}, {n: paper[n] for n in general}) > 1e-2


def test_updates_of_several_steps() -> None:
    """Three steps of SGD with the ramp-up of line 12, by the model and by the reference."""
    model, step = build(CASES[0])
    twin = copy.deepcopy(model)
    loss = RelationLoss(weight=SCHEDULE)
    optimizer = torch.optim.SGD(model.parameter_groups(), lr=0.05)
    for t in range(3):
        optimizer.zero_grad()
        single_backward(model, step, loss)
        optimizer.step()
        loss.step()
        for name, gradient in algorithm_1(twin, step, SCHEDULE(t)).items():
            with torch.no_grad():
                twin.get_parameter(name).sub_(0.05 * gradient)
    moved = dict(model.named_parameters())
    for name, parameter in twin.named_parameters():
        assert torch.allclose(moved[name], parameter, rtol=1e-5, atol=1e-8), name


def test_unlabelled_images_join_the_relations_of_the_batch() -> None:
    """Section III-D: L_seg for labelled images, the relation losses for all."""
    model, step = build(CASES[0])
    extra = torch.randn_like(step.x[:2])
    twin = copy.deepcopy(model)
    every = torch.cat([step.x, extra])
    general = relation(twin.general_encoder(every)[-1])
    l_general = squared_norm(relation(twin.general_encoder(step.source)[-1]) - general)
    l_target = -squared_norm(general - relation(twin.target_encoder(every)[-1]))
    terms = RelationLoss(weight=WEIGHT).terms(model(step.x, source=step.source, unlabelled=extra))
    assert torch.allclose(terms.general, l_general, rtol=1e-6)
    assert torch.allclose(terms.target, l_target, rtol=1e-6)


def test_several_general_encoders_and_levels_are_averaged() -> None:
    model = MultiEncoderUNet(dna_net(), generals=2, general="reset", levels=(1, -1)).double()
    x, sources = CASES[0].batch().double(), [CASES[0].batch().double() for _ in range(2)]
    terms = RelationLoss(weight=WEIGHT).terms(model(x, source=sources))
    l_general, l_target = [], []
    for encoder, source in zip(model.general_encoders, sources, strict=True):
        for level in (1, 2):
            general, target = relation(encoder(x)[level]), relation(model.target_encoder(x)[level])
            l_general.append(squared_norm(relation(encoder(source)[level]) - general))
            l_target.append(-squared_norm(general - target))
    assert torch.allclose(terms.general, sum(l_general) / 4, rtol=1e-6)
    assert torch.allclose(terms.target, sum(l_target) / 4, rtol=1e-6)
    assert torch.allclose(terms.total, WEIGHT * (sum(l_general) + sum(l_target)) / 4, rtol=1e-6)
