"""Semi-Inf-Net's training: stage after stage, each a training of Inf-Net, on labels that it gives itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from covidct.networks.semi_inf_net import SemiInfNetPlan, Stage, semi_inf_net_stages
from covidct.run.config import Config
from covidct.run.precision import inference_precision
from covidct.slices.data import SliceData
from covidct.slices.inference import predict_stretched
from covidct.slices.stages import Part, StagedTraining

# What the trainings of single stages are called.
METHOD = "inf-net"
# Its training on the unlabelled slices learns at three times Inf-Net's own rate: 3e-4 and 1e-4 as published.
ROUND_RATE = 3.0


class PseudoLabelTraining(StagedTraining):
    """The stages of `semi_inf_net_stages`.

    run, config, data: of the whole; the labelled slices and the unlabelled ones.
    """

    def __init__(self, fabric: Fabric, config: Config, run: Path, data: SliceData) -> None:
        plan = SemiInfNetPlan(
            group=config.pseudo_group,
            epochs=config.pseudo_epochs,
            rounds=config.pseudo_groups,
            learning_rate=ROUND_RATE * config.learning_rate,
            batch=config.batch_size if config.preset != "paper" else SemiInfNetPlan.batch,
        )
        labelled, unlabelled = ([item.name for item in part] for part in (data.train, data.unlabelled))
        self.stages = list(semi_inf_net_stages(labelled, unlabelled, plan, seed=config.seed))
        super().__init__(fabric, config, run, [_part(stage, config, data) for stage in self.stages])

    def begin(self, number: int, model: nn.Module) -> None:
        """See `StagedTraining`: all weights, or none."""
        if self.stages[number].start == "previous":
            model.load_state_dict(self.module.state_dict())

    def predict(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `StagedTraining`: stretched to 0 to 1, as published."""
        height, width = self.config.size
        precision = inference_precision(self.config.precision, self.fabric.device)
        return predict_stretched(self.module, image, size=(height, width), precision=precision)


def _part(stage: Stage, config: Config, data: SliceData) -> Part:
    """Inf-Net's own recipe; the rounds' batches, rate and epochs, each an image of all once at every scale."""
    slices = {item.name: item for item in (*data.train, *data.unlabelled)}
    changes: dict[str, Any] = {"method": METHOD}
    if stage.epochs is not None and stage.batch is not None:
        batches = -(-(len(stage.labelled) + len(stage.pseudo)) // stage.batch)
        changes |= {
            "steps": stage.epochs * batches * len(config.scales),
            "batch_size": stage.batch,
            "learning_rate": stage.learning_rate,
            "schedule": "poly",
        }
    labelled, pseudo, to_label = (
        tuple(slices[name] for name in names) for names in (stage.labelled, stage.pseudo, stage.to_label)
    )
    return Part(stage.kind, replace(config, **changes), labelled, pseudo, to_label)
