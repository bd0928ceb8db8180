"""The pass of a small image that a new model is tried out with."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from relcons.models.parts import UNetParts
from relcons.models.reach import (
    evaluating,
    keeping_buffers,
    probe,
    reached_parameters,
    set_branches_to_training,
    tensors_of,
)

__all__ = ["try_out"]


def try_out(model: Any, forward: Callable[..., Any], parts: UNetParts) -> None:
    """Set parameters that no output of ``model`` depends on to not trainable; refuse what cannot work.

    Where the network takes none of the parts' examples, nothing is found and nothing refused.
    """
    widths: list[tuple[int, ...]] = []

    def run(x: Tensor) -> tuple[Tensor, Sequence[Tensor], Any]:
        for module in model.children():
            set_branches_to_training(module)
        maps = model.target_encoder(x)
        if not isinstance(maps, list | tuple) or not all(isinstance(features, Tensor) for features in maps):
            raise TypeError(f"the encoder returned {type(maps).__name__}")
        widths.append(tuple(features.shape[1] for features in maps))
        return x, maps, forward(x, features=True)

    outputs, model.outputs = model.outputs, "native"
    try:
        with keeping_buffers(model):
            result = probe([model], run, parts.examples())
    except (TypeError, AttributeError, LookupError) as error:
        raise TypeError(
            f"net: its parts do not run as head(decoder(encoder(x))) ({error}); encoder(x) must return a list of maps "
            "(B, C, *spatial), finest first, and decoder take that list as its only argument"
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
    x, maps_of_x, output = result
    for name, levels in (("levels", model.levels), ("fuse_levels", model.fusion.levels)):
        for level in levels:
            if maps_of_x[level] is x:
                raise ValueError(f"{name}: map {level} is the input itself, which no encoder can change; leave it out")
    if len(tensors_of(output.logits)) > 1:
        # Refuses several outputs of which none is plainly the result: now, not at the first validation.
        with keeping_buffers(model), evaluating([model]), torch.no_grad(), torch.random.fork_rng(devices=[]):
            forward(x)
    maps = [*output.target, *(features for general in output.general for features in general)]
    reached = reached_parameters([*maps, *tensors_of(output.logits)])
    for parameter in model.parameters():
        if reached is not None and parameter not in reached:
            parameter.requires_grad_(False)
