"""The one tester of models: every function here holds for every network, and ``CHECKS`` lists them all."""

import copy
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from relcons import DualEncoderUNet, GradientRouter, RelationLoss, UNetParts
from tests.models.networks import Case, quiet

SETTINGS: tuple[dict[str, Any], ...] = (
    {"general": "copy", "fusion": "project"},
    {"general": "reset", "fusion": "concat"},
)


def starts_as_the_single_network(case: Case) -> None:
    for general in ("copy", "reset"):
        parts = case.parts()
        model = DualEncoderUNet(parts, general=general)
        quiet(model)
        x = case.batch()
        for training in (False, True):
            single = copy.deepcopy(modules_of(parts))
            for module in (model, *single):
                module.train(training)
            expected = run(single, x)
            if not training and isinstance(expected, list):
                expected = expected[0]
            assert_same(model(x), expected)


def concat_widens_the_first_layer_alone(case: Case) -> None:
    parts = case.parts()
    model = DualEncoderUNet(parts, fusion="concat").eval()
    seen: list[list[int]] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append([m.shape[1] for m in inputs[0]]))
    model(case.batch(1))
    assert seen == [[*parts.widths[:-1], 2 * parts.widths[-1]]]
    before = {name: p.shape for name, p in parts.decoder.named_parameters()}
    after = {name: p.shape for name, p in model.decoder.named_parameters()}
    assert after.keys() == before.keys()
    assert any(after[name].numel() > before[name].numel() for name in before)
    assert all(after[name].numel() >= before[name].numel() for name in before)
    assert not set(model.decoder.parameters()) & set(parts.decoder.parameters())


def whole_method_moves_every_trainable_parameter(case: Case) -> None:
    for options in SETTINGS:
        model = DualEncoderUNet(case.parts(), **options).train()
        if options["general"] == "copy":  # R_G = R_T otherwise, where the target loss has gradient 0
            perturb(model.general_encoder)
        whole_method(model, case).backward()
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        assert any(p.grad.count_nonzero() for p in model.general_encoder.parameters() if p.requires_grad)
        # Nothing was frozen that a loss does reach.
        ends = [p for p in model.parameters() if not p.requires_grad]
        for parameter in ends:
            parameter.requires_grad_(True)
        whole_method(model, case).backward()
        assert all(p.grad is None for p in ends)


def net_is_neither_copied_nor_changed(case: Case) -> None:
    for options in SETTINGS:
        parts = case.parts()
        modules = modules_of(parts)
        next(iter(parts.decoder.children())).eval()
        x = case.batch()
        before = snapshot(modules, x)
        model = DualEncoderUNet(parts, **options)
        after = snapshot(modules, x)
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert_same(after[key], value)
        assert model.target_encoder is parts.encoder
        assert parts.head is None or model.head is parts.head
        if options["fusion"] == "project":
            assert list(model.decoder.parameters()) == list(parts.decoder.parameters())


def parameters_are_disjoint_and_complete(case: Case) -> None:
    for options in SETTINGS:
        parts = case.parts()
        model = DualEncoderUNet(parts, **options)
        groups = [model.target_encoder, model.general_encoder, model.fusion, model.decoder, model.head]
        groups += [] if model.classification_head is None else [model.classification_head]
        found = [p for module in groups for p in module.parameters()]
        assert len(found) == len(set(found))
        assert set(found) == set(model.parameters())
        assert len(list(model.named_parameters())) == len(set(found))
        if options["fusion"] == "project":
            own = {p for module in modules_of(parts) for p in module.parameters()}
            assert own == set(found) - set(model.general_encoder.parameters()) - set(model.fusion.parameters())


def optimiser_groups_are_named_and_disjoint(case: Case) -> None:
    model = DualEncoderUNet(case.parts())
    groups = {group["name"]: group["params"] for group in model.parameter_groups()}
    assert list(groups) == ["general", "target", "decoder"]
    assert groups["general"] == list(model.general_encoder.parameters())
    assert groups["target"] == list(model.target_encoder.parameters())
    every = [p for params in groups.values() for p in params]
    assert len(every) == len(set(every))
    assert set(every) == set(model.parameters())


def general_encoder_is_the_target_encoder_over_again(case: Case) -> None:
    x = case.batch()
    for general in ("copy", "reset"):
        model = DualEncoderUNet(case.parts(), general=general).eval()
        target, fresh = dict(model.target_encoder.state_dict()), dict(model.general_encoder.state_dict())
        assert {name: value.shape for name, value in target.items()} == {n: v.shape for n, v in fresh.items()}
        same = [torch.equal(a, b) for a, b in zip(model.target_encoder(x), model.general_encoder(x), strict=True)]
        assert same[-1] == (general == "copy")
        if general == "reset":
            assert_drawn_alike(model.general_encoder, model.target_encoder)


def wider_decoder_is_initialised_as_the_library_does(case: Case) -> None:
    parts = case.parts()
    assert_drawn_alike(DualEncoderUNet(parts, fusion="concat").decoder, parts.decoder)


def no_loss_leaks(case: Case) -> None:
    for route, options in zip(("paper", "joint"), SETTINGS, strict=True):
        model = DualEncoderUNet(case.parts(), route=route, **options)
        perturb(model.general_encoder)
        optimizer = torch.optim.SGD(model.parameter_groups(), lr=0.1)
        router = GradientRouter(optimizer, model.routes(), model=model)
        output = model(case.batch(), source=case.batch())
        terms = RelationLoss().terms(output)
        losses = {"segmentation": scalar(output.logits), "general": terms.general, "target": terms.target}
        assert router.check(losses) == {"segmentation": [], "general": [], "target": []}
        narrow = GradientRouter(optimizer, {"segmentation": ["target_encoder"]}, model=model)
        leaks = narrow.check({"segmentation": losses["segmentation"]})["segmentation"]
        assert any(name.startswith(("decoder", "head")) for name in leaks)
        assert any(name.startswith("general_encoders") for name in leaks) == (route == "joint")


def checkpoint_of_net_loads(case: Case) -> None:
    net = case.build()
    trained = {f"encoder.{k}": torch.full_like(v, 3) for k, v in net.encoder.state_dict().items()}
    model = DualEncoderUNet(net, general="reset")
    model.target_encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in trained.items()})
    assert all((p == 3).all() for p in model.target_encoder.parameters())
    assert not any((p == 3).all() for p in model.general_encoder.parameters())


def copies_are_equal_and_independent(case: Case) -> None:
    for options in SETTINGS:
        model = DualEncoderUNet(case.parts(), **options).eval()
        perturb(model)
        other = DualEncoderUNet(case.parts(), **options).eval()
        copies = [
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            load_state(other, model),
            through_safetensors(DualEncoderUNet(case.parts(), **options).eval(), model),
        ]
        x, source = case.batch(), case.batch()
        expected = flat(model(x, source=source))
        for twin in copies:
            assert_same(flat(twin(x, source=source)), expected)
            assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}
            assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]
            perturb(twin)
            assert_same(flat(model(x, source=source)), expected)
            assert not torch.equal(flat(twin(x, source=source))[0], expected[0])


def half_precision(case: Case) -> None:
    parts = case.parts()
    if not has_bfloat16_kernels(copy.deepcopy(modules_of(parts)), case.batch()):
        pytest.skip("torch has no bfloat16 kernel on the CPU for a layer of this network")
    model = DualEncoderUNet(parts, general="reset").train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = whole_method(model, case)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    parts = case.parts()
    for module in modules_of(parts):
        module.to(torch.bfloat16)
    model = DualEncoderUNet(parts, general="reset", fusion="project").train()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    output = model(case.batch().bfloat16(), source=case.batch().bfloat16())
    assert all(tensor.dtype == torch.bfloat16 and tensor.isfinite().all() for tensor in flat(output))
    (scalar(output.logits) + RelationLoss()(output)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def freezing_holds_and_lets_go(case: Case) -> None:
    model = DualEncoderUNet(case.parts(), general="reset").train()
    trainable = [p.requires_grad for p in model.parameters()]
    general = {name: value.clone() for name, value in model.general_encoder.state_dict().items()}
    model.freeze_general()
    model.train()
    output = model(case.batch(), source=case.batch())
    (scalar(output.logits) + RelationLoss(general=False)(output)).backward()
    torch.optim.SGD(model.parameter_groups(), lr=0.1, weight_decay=0.1).step()
    assert not any(layer.training for layer in model.general_encoder.modules())
    assert not any(p.requires_grad for p in model.general_encoder.parameters())
    assert_same(dict(model.general_encoder.state_dict()), general)
    model.freeze_general(False)
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert all(layer.training for layer in model.general_encoder.modules())


CHECKS: tuple[Callable[[Case], None], ...] = (
    starts_as_the_single_network,
    concat_widens_the_first_layer_alone,
    whole_method_moves_every_trainable_parameter,
    net_is_neither_copied_nor_changed,
    parameters_are_disjoint_and_complete,
    optimiser_groups_are_named_and_disjoint,
    general_encoder_is_the_target_encoder_over_again,
    wider_decoder_is_initialised_as_the_library_does,
    no_loss_leaks,
    checkpoint_of_net_loads,
    copies_are_equal_and_independent,
    half_precision,
    freezing_holds_and_lets_go,
)


def modules_of(parts: UNetParts) -> list[nn.Module]:
    """Encoder, decoder and heads of the single network."""
    return [m for m in (parts.encoder, parts.decoder, parts.head, parts.classification_head) if m is not None]


def run(modules: list[nn.Module], x: Tensor) -> Any:
    """What the single network gives: head of decoder of encoder, and the classification head's if there is one."""
    encoder, decoder, *heads = modules
    maps = encoder(x)
    decoded = decoder(maps)
    logits = heads[0](decoded) if heads else decoded
    return (logits, heads[1](maps[-1])) if len(heads) == 2 else logits


def has_bfloat16_kernels(modules: list[nn.Module], x: Tensor) -> bool:
    try:
        run([module.bfloat16() for module in modules], x.bfloat16())
    except NotImplementedError:
        return False
    return True


def snapshot(modules: list[nn.Module], x: Tensor) -> dict[str, Any]:
    """All that wrapping must not change: weights, modes, submodules, outputs."""
    found: dict[str, Any] = {}
    for number, module in enumerate(modules):
        found |= {f"{number} {k}": v.clone() for k, v in module.state_dict().items()}
        found |= {f"{number} {k} mode": layer.training for k, layer in module.named_modules()}
        found |= {f"{number} {k} identity": id(layer) for k, layer in module.named_modules()}
    return found | {"output": run([module.eval() for module in copy.deepcopy(modules)], x)}


def whole_method(model: nn.Module, case: Case) -> Tensor:
    output = model(case.batch(), source=case.batch())
    return scalar(output.logits) + RelationLoss(weight=0.1)(output)


def scalar(logits: Any) -> Tensor:
    """A loss that depends on every entry of every output, unevenly."""
    return sum((torch.linspace(-1, 1, t.numel()).reshape(t.shape) * t).mean() for t in flat(logits))


def flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in flat(part)]


def perturb(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)


def load_state(into: nn.Module, model: nn.Module) -> nn.Module:
    into.load_state_dict(model.state_dict())
    return into


def through_safetensors(into: nn.Module, model: nn.Module) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        safetensors.torch.save_model(model, str(Path(folder, "model.safetensors")))
        safetensors.torch.load_model(into, str(Path(folder, "model.safetensors")))
    return into


def assert_same(actual: Any, expected: Any) -> None:
    """Equal to the last bit, of the same kind all the way down."""
    if isinstance(expected, Tensor):
        assert torch.equal(actual, expected)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert type(actual) is type(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert actual == expected


def assert_drawn_alike(fresh: nn.Module, like: nn.Module) -> None:
    """Weights drawn anew by the rule that drew ``like``'s: the same spread per fan-in, the same constants."""
    others = dict(like.named_parameters())
    drawn = 0
    for name, parameter in fresh.named_parameters():
        other = others[name]
        if other.numel() > 1 and other.min() == other.max():
            assert parameter.min() == parameter.max() == other.min(), name
        elif parameter.ndim > 1 and other.numel() > 2000:
            drawn += 1
            assert not torch.equal(parameter, other)
            spreads = [p.std() * nn.init._calculate_fan_in_and_fan_out(p)[0] ** 0.5 for p in (parameter, other)]
            assert 0.8 < spreads[0] / spreads[1] < 1.25, name
    assert drawn or max(p.numel() for p in others.values()) <= 2000
