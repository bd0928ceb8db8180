"""The passes of a small image that a new model is tried out with."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relcons.models.build import check_finest_first
from relcons.parts.parts import UNetParts
from relcons.parts.reach import keeping_buffers, probe, reached_parameters, set_branches_to_training, tensors_of

__all__ = ["try_out"]


def try_out(model: Any, forward: Callable[..., Any], parts: UNetParts) -> None:
    """Set parameters that no output of ``model`` depends on to not trainable; refuse what cannot work.

    Where the network takes none of the parts' examples, nothing is found and nothing refused.
    """
    widths: list[tuple[int, ...]] = []
    channels: list[int | None] = []

    def run(x: Tensor) -> tuple[Tensor, Sequence[Tensor], list[Any]]:
        maps = _maps_of("net", model.target_encoder, x)
        widths.append(tuple(features.shape[1] for features in maps))
        for encoder in model.general_encoders:
            _maps_of("general", encoder, x)
        channels.append(_only_channels([model.target_encoder, *model.general_encoders], x))
        evaluated = forward(x, features=True)
        for module in model.children():
            set_branches_to_training(module)
        return x, maps, [evaluated, forward(x, features=True)]

    outputs, model.outputs = model.outputs, "native"
    try:
        with keeping_buffers(model):
            result = probe([model], run, parts.examples())
    except _NotMaps:
        raise
    except (TypeError, AttributeError, LookupError) as error:
        raise TypeError(
            f"net: its parts do not run as head(decoder(encoder(x))) ({error}); decoder takes the encoder's list of "
            "maps as its only argument, and head what decoder returns"
        ) from error
    finally:
        model.outputs = outputs
    if widths and widths[-1] != parts.widths:
        raise ValueError(
            f"net: channels says that the encoder's maps have widths {parts.widths}, and they have {widths[-1]}; "
            "maps are (B, C, *spatial), finest first (an encoder with channels last needs a permute)"
        )
    if result is None:
        return
    x, maps_of_x, passes = result
    model._input_channels = channels[-1]
    for name, levels in (("levels", model.levels), ("fuse_levels", model.fusion.levels)):
        for level in levels:
            if maps_of_x[level] is x:
                raise ValueError(f"{name}: map {level} is the input itself, which no encoder can change; leave it out")
    logits = passes[0].logits if model.classification_head is None else passes[0].logits[0]
    if outputs == "auto" and isinstance(logits, list | tuple):
        check_finest_first(logits)  # better now than at the first validation
    _freeze_dead_ends(model, passes)


def _only_channels(encoders: Sequence[nn.Module], x: Tensor) -> int | None:
    """Channels of ``x`` where no encoder takes another number; None where one does (grey made to colour, say)."""
    channels = x.shape[1]
    for encoder in encoders:
        for other in {1, channels + 1} - {channels}:
            try:
                with torch.no_grad():
                    encoder(x[:, :1].repeat_interleave(other, 1))
            except Exception:  # whatever a network makes of it; most refuse in their first layer
                continue
            return None
    return channels


def _freeze_dead_ends(model: Any, passes: Sequence[Any]) -> None:
    """What is reached in any pass is none: a layer may be skipped in one mode, or at random in training."""
    reached: set[Tensor] = set()
    for output in passes:
        maps = [*output.target, *(features for general in output.general for features in general)]
        found = reached_parameters([*maps, *tensors_of(output.logits)])
        if found is None:
            return
        reached |= found
    for parameter in model.parameters():
        if parameter not in reached:
            parameter.requires_grad_(False)


class _NotMaps(TypeError):
    """An encoder returned something else than a list of maps."""


def _maps_of(name: str, encoder: Any, x: Tensor) -> Sequence[Tensor]:
    maps = encoder(x)
    if not isinstance(maps, Sequence) or not all(isinstance(features, Tensor) for features in maps):
        raise _NotMaps(
            f"{name}: encoder(x) must return a list of maps (B, C, *spatial), finest first, got {type(maps).__name__}"
        )
    return maps
