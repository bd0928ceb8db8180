"""What tests of models do with any model: run it, flatten, disturb, save, compare."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from relcons import DualEncoderUNet, RelationLoss, UNetParts
from tests.models.networks import Case


def modules_of(parts: UNetParts) -> list[nn.Module]:
    """Encoder, decoder and heads of the single network."""
    return [m for m in (parts.encoder, parts.decoder, parts.head, parts.classification_head) if m is not None]


def run(parts: UNetParts, x: Tensor) -> Any:
    """What the single network gives, by the parts' own pass, and the classification head's if there is one."""
    head = nn.Identity() if parts.head is None else parts.head
    logits, maps = parts.segment(
        [x], lambda batches: [parts.encoder(batch) for batch in batches], list, parts.decoder, head
    )
    return logits if parts.classification_head is None else (logits, parts.classification_head(maps[0][-1]))


def has_bfloat16_kernels(parts: UNetParts, x: Tensor) -> bool:
    single = copy.deepcopy(parts)
    try:
        for module in modules_of(single):
            module.bfloat16()
        run(single, x.bfloat16())
    except NotImplementedError:
        return False
    return True


def snapshot(parts: UNetParts, x: Tensor) -> dict[str, Any]:
    """All that wrapping must not change: weights, modes, submodules, outputs."""
    found: dict[str, Any] = {}
    for number, module in enumerate(modules_of(parts)):
        found |= {f"{number} {k}": v.clone() for k, v in module.state_dict().items()}
        found |= {f"{number} {k} mode": layer.training for k, layer in module.named_modules()}
        found |= {f"{number} {k} identity": id(layer) for k, layer in module.named_modules()}
    single = copy.deepcopy(parts)
    for module in modules_of(single):
        module.eval()
    return found | {"output": run(single, x)}


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


def different(net: nn.Module | UNetParts, **options: Any) -> DualEncoderUNet:
    """A model whose encoders differ and whose fusion uses both."""
    model = DualEncoderUNet(net, **options)
    perturb(model)
    return model
