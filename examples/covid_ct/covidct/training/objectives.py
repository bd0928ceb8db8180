"""What a method's own outputs are held against: lesion masks, masks and their edges, or what was hidden."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from covidct.networks.inf_net_loss import inf_net_loss
from covidct.run.config import Config
from covidct.run.systems import system
from covidct.training.masking import reconstruction_loss
from covidct.training.segmentation_loss import segmentation_loss

Batch = Mapping[str, Tensor]
# Outputs of a network in training mode, and the batch that they are of -> a loss.
Objective = Callable[[Any, Batch], Tensor]


def objective(config: Config) -> Objective:
    """The loss of the method of `config`, without relations."""
    chosen = system(config.method)
    if chosen.learns == "hidden parts":
        return _hidden
    if chosen.network is not None and chosen.network.recipe.edges:
        return partial(_edges, variant=config.variant)
    return _lesions


def _lesions(outputs: Any, batch: Batch) -> Tensor:
    return segmentation_loss(outputs, batch["mask"])


def _edges(outputs: Any, batch: Batch, *, variant: Any) -> Tensor:
    return inf_net_loss(outputs, batch["mask"], batch["edge"], bce_weighting=variant).total


def _hidden(outputs: Any, batch: Batch) -> Tensor:
    finest, *others = [outputs] if isinstance(outputs, Tensor) else outputs
    # The coarser heads stay in the sum: DistributedDataParallel waits for a gradient from every parameter.
    unused = sum(0.0 * other.float().sum() for other in others)
    return reconstruction_loss(finest, batch["whole"], batch["hidden"]) + unused
