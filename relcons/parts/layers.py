"""What is asked of a network's layers, whoever built them."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["copied", "first_convolution", "in_place_of", "reset_parameters", "small_inputs", "take_channels"]

_OTHERWISE = 'pass a freshly built encoder as general=, or use general="copy"'


def first_convolution(module: nn.Module) -> Any:
    """The first convolution of ``module``, which takes the image; None where there is none."""
    return next((layer for layer in module.modules() if isinstance(layer, nn.modules.conv._ConvNd)), None)


def small_inputs(module: nn.Module) -> Iterator[Tensor]:
    """Batches of one image of common sizes, for the first convolution of ``module``."""
    first = first_convolution(module)
    if first is not None:
        axes = first.weight.ndim - 2
        for side in (16, 32, 64) if axes == 3 else (32, 64, 128, 224, 256):
            yield torch.zeros(1, first.in_channels, *[side] * axes)


def take_channels(layer: Any, channels: int) -> None:
    """Let a convolution take another number of channels; its weights are then zeros, to be drawn anew."""
    axis = 0 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 1
    shape = list(layer.weight.shape)
    shape[axis] = shape[axis] * channels // layer.in_channels  # of a group, if there are several
    layer.weight = nn.Parameter(layer.weight.new_zeros(shape))
    layer.in_channels = channels


def reset_parameters(
    module: nn.Module, own: Mapping[type[nn.Module], Callable[[nn.Module], object]] | None = None
) -> None:
    """Reset every layer of ``module`` by its own ``reset_parameters``; ValueError where that resets not all.

    ``own``: what resets layers of these classes, which have no such method.
    """
    own = own or {}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    for name, layer in module.named_modules():
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if type(layer) in own:
            own[type(layer)](layer)
        elif callable(reset):
            reset()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise ValueError(
                f'general="reset": layer {name!r} ({type(layer).__name__}) holds parameters and has no '
                f"reset_parameters(); {_OTHERWISE}"
            )
    for name, parameter in module.named_parameters():
        if (
            not parameter.is_meta and parameter.isnan().any()
        ):  # spectral norm, for one, computes the weight that reset_parameters() writes
            raise ValueError(f'general="reset": reset_parameters() does not reach {name!r}; {_OTHERWISE}')


def copied(module: nn.Module) -> nn.Module:
    """A copy that shares nothing; ValueError, naming the layer, for weights that are computed at every pass."""
    try:
        return copy.deepcopy(module)
    except RuntimeError:
        for name, layer in module.named_modules():
            for attribute, value in vars(layer).items():
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    raise ValueError(
                        f"layer {name!r} computes its {attribute!r} at every pass, as pruning and weight norm do, so "
                        "that it cannot be copied; make it an ordinary parameter first (torch.nn.utils.prune.remove, "
                        "torch.nn.utils.remove_weight_norm), or pass an encoder of your own as general="
                    ) from None
        raise


def in_place_of(encoder: nn.Module, built: nn.Module, by: str) -> nn.Module:
    """``built`` where and as ``encoder`` is; ValueError, naming what it was built ``by``, unless it has its layers."""
    if repr(built) != repr(encoder):
        raise ValueError(
            f'general="reset": the encoder that {by} builds is not like net\'s, which was changed after it was built; '
            f"{_OTHERWISE}"
        )
    like = next(encoder.parameters())
    return built.to(like.device, like.dtype).train(encoder.training)
