"""What unlabelled slices teach one network: to fill in their hidden parts, and then the labels that it gives them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from covidct.ct.picture import Slice
from covidct.run.building import start_from
from covidct.run.config import Config
from covidct.run.precision import inference_precision
from covidct.slices.data import SliceData
from covidct.slices.inference import predict_probability
from covidct.slices.stages import Part, StagedTraining

# Steps of the first stage for one of each of the others, where the config does not say.
HIDDEN_STEPS = 2
HIDDEN, LESIONS, OWN_LABELS = "hidden parts", "lesions", "its own labels"


class SelfTaught(StagedTraining):
    """Three trainings of one plain network.

    1. It fills in hidden parts of the unlabelled slices (method `reconstruct`), for `config.hidden_steps`. With
       `config.init` that has been done by another run, and with 0 steps it is left out.
    2. It learns the lesions of the labelled slices, from all of these weights but those of the heads (`finetune`).
    3. It labels the unlabelled slices, mean of four mirrorings, and learns from both alike, from its own weights.

    config: of the whole, `steps` of the second and of the third. data: the labelled slices and the unlabelled ones.
    model: what the second training starts from where there is no first.

    Source: masked reconstruction as in He et al. 2022 and self-training as in Xie et al. 2020, in their plainest form.
    """

    def __init__(self, fabric: Fabric, config: Config, run: Path, data: SliceData, model: nn.Module) -> None:
        self.given = model
        of_lesions = replace(config, method="unet")
        steps = HIDDEN_STEPS * config.steps if config.hidden_steps is None else config.hidden_steps
        hidden = [] if config.init or not steps else [Part(HIDDEN, _of_hidden(config, steps), data.unlabelled)]
        parts = [
            *hidden,
            Part(LESIONS, of_lesions, data.train),
            Part(OWN_LABELS, of_lesions, data.train, pseudo=data.unlabelled, to_label=data.unlabelled),
        ]
        super().__init__(fabric, config, run, parts)

    def begin(self, number: int, model: nn.Module) -> None:
        """See `StagedTraining`."""
        if self.parts[number].text == OWN_LABELS:
            model.load_state_dict(self.module.state_dict())
        elif number:
            start_from(model, self.module, "finetune")
        elif self.parts[number].text == LESIONS:
            model.load_state_dict(self.given.state_dict())

    def predict(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `StagedTraining`."""
        config, (height, width) = self.config, self.config.size
        precision = inference_precision(config.precision, self.fabric.device)
        return predict_probability(
            self.module, image, size=(height, width), resize=config.resize, flips=True, precision=precision
        )

    def mixed(self, slices: tuple[Slice, ...], pseudo: tuple[Slice, ...]) -> tuple[Slice, ...]:
        """See `StagedTraining`: about as many draws of the labelled slices as of the others."""
        return (*slices * max(1, round(len(pseudo) / len(slices))), *pseudo)


def _of_hidden(config: Config, steps: int) -> Config:
    return replace(config, method="reconstruct", steps=steps, fold=None, target_cases=None, target_draw=0)
