"""What turns gradients into steps: the optimiser, its learning rate, and the bounds of the gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from covidct.networks import inf_net_training
from covidct.run.config import Config


def make_optimizer(groups: Mapping[str, list[nn.Parameter]], config: Config) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW, as `config` says, over `groups` of `trained_groups`, a named group each."""
    named: list[dict[str, Any]] = [{"params": parameters, "name": name} for name, parameters in groups.items()]
    if config.optimizer != "sgd":
        adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        return adam(named, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        named,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def learning_rate(config: Config, step: int) -> float:
    """The learning rate of a step, 0 the first: nnU-Net's polynomial, or Inf-Net's with its epochs over the steps."""
    if config.schedule == "inf-net":
        epoch = 1 + inf_net_training.EPOCHS * step // config.steps
        return inf_net_training.learning_rate(epoch, config.learning_rate, rule=config.variant)
    return config.learning_rate * float((1 - step / config.steps) ** config.poly)


def averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    """The moving average of a model's weights and buffers, which a call of `update_parameters` moves; None without."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def clip(groups: Mapping[str, list[nn.Parameter]], sets: Sequence[Sequence[str]], config: Config) -> dict[str, Tensor]:
    """Bound the gradients of `groups`, and return their norms before it.

    `sets` are names of groups that are clipped together, which the same losses reach (`clip_sets`): apart, relation
    gradients cannot rescale the segmentation's.
    """
    norms = {
        name: torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        for name, parameters in groups.items()
    }
    for names in sets:
        parameters = [p for name in names for p in groups[name]]
        if config.clip is not None:
            joint = torch.stack([norms[name] for name in names]).norm()
            torch.nn.utils.clip_grads_with_norm_(parameters, config.clip, joint)
        if config.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, config.clip_value)
    return norms
