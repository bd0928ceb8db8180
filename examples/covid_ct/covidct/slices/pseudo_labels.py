"""Semi-Inf-Net's training: stage after stage, each a training of Inf-Net, on labels that it gives itself."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from PIL import Image
from rich.console import Console
from torch import nn

from covidct.ct.picture import Slice, load_slice
from covidct.files import read_json, remove_leftovers, replacing, write_text
from covidct.networks.inf_net_training import eight_bits
from covidct.networks.semi_inf_net import SemiInfNetPlan, Stage, semi_inf_net_stages
from covidct.run.building import build_model
from covidct.run.checkpoint import METRICS, WEIGHTS, has_begun, log_lines, read_weights, save_weights
from covidct.run.config import Config
from covidct.run.precision import inference_precision
from covidct.run.prediction import check_finite
from covidct.slices.data import SliceData
from covidct.slices.inference import predict_stretched
from covidct.training.engine import Trainer

# What the trainings of single stages are called.
METHOD = "inf-net"
# Its training on the unlabelled slices learns at three times Inf-Net's own rate: 3e-4 and 1e-4 as published.
ROUND_RATE = 3.0
STATE = "stages.json"


@dataclass(frozen=True)
class Done:
    """What stages.json says: how many stages are done, and how many steps they took."""

    stages: int
    steps: int


class PseudoLabelTraining:
    """The stages of `semi_inf_net_stages`, each in a folder `stage-N` of the run while it lasts.

    What is kept when a stage ends: its weights until the next one has ended, its lines of metrics.jsonl in the run's,
    and the labels that it gave, in `pseudo-labels`. A run that is gone on with takes up the stage that it was in.

    run, config, data: of the whole; the labelled slices and the unlabelled ones.
    """

    def __init__(self, fabric: Fabric, config: Config, run: Path, data: SliceData) -> None:
        self.fabric, self.config, self.run, self.data = fabric, config, run, data
        self.labels = run / "pseudo-labels"
        self.slices = {item.name: item for item in (*data.train, *data.unlabelled)}
        plan = SemiInfNetPlan(
            group=config.pseudo_group,
            epochs=config.pseudo_epochs,
            rounds=config.pseudo_groups,
            learning_rate=ROUND_RATE * config.learning_rate,
            batch=config.batch_size if config.preset != "paper" else SemiInfNetPlan.batch,
        )
        labelled, unlabelled = ([item.name for item in part] for part in (data.train, data.unlabelled))
        self.stages = list(semi_inf_net_stages(labelled, unlabelled, plan, seed=config.seed))
        self.module = build_model(self._stage_config(self.stages[0]))
        self.done = Done(0, 0)
        if (run / STATE).exists():
            self.done = self._read_state()
            read_weights(self.module, self._folder(self.done.stages - 1))

    @property
    def result(self) -> nn.Module:
        """The network of the last stage that is done."""
        return self.module

    @property
    def step(self) -> int:
        """Steps of the stages that are done."""
        return self.done.steps

    def train(self, console: Console, board: Any = None) -> None:
        """Take the remaining stages; `module` is then the network of the last. `board` as for `Trainer.train`."""
        for number, stage in list(enumerate(self.stages))[self.done.stages :]:
            text = f"stage {number + 1} of {len(self.stages)}: {stage.kind}"
            console.print(f"{text}, {len(stage.labelled)} labelled and {len(stage.pseudo)} pseudo-labelled slices")
            self._label(stage)
            self._train(number, stage, console, board)
            self._end(number)

    def _read_state(self) -> Done:
        return read_json(self.run / STATE, Done, fix="remove the run and start again")

    def _label(self, stage: Stage) -> None:
        """Write the labels of the stage's new slices; those that are there were given before it was interrupted."""
        if self.fabric.is_global_zero and stage.to_label:
            self.labels.mkdir(exist_ok=True)
            remove_leftovers(self.labels)
            for name in stage.to_label:
                if not self._label_of(name).exists():
                    self._write_label(self.slices[name])
        self.fabric.barrier()

    def _write_label(self, item: Slice) -> None:
        height, width = self.config.size
        precision = inference_precision(self.config.precision, self.fabric.device)
        image, _ = load_slice(item)
        probability = predict_stretched(self.module, image, size=(height, width), precision=precision)
        check_finite(probability, item.path, self.config.precision)
        with replacing(self._label_of(item.name)) as temporary:
            Image.fromarray(eight_bits(torch.from_numpy(probability)).numpy()).save(temporary, format="PNG")

    def _label_of(self, name: str) -> Path:
        return self.labels / f"{name}.png"

    def _train(self, number: int, stage: Stage, console: Console, board: Any) -> None:
        config, folder = self._stage_config(stage), self._folder(number)
        if self.fabric.is_global_zero:
            folder.mkdir(exist_ok=True)
        self.fabric.barrier()
        model = build_model(config, imagenet=not has_begun(folder))
        if stage.start == "previous":
            model.load_state_dict(self.module.state_dict())
        pseudo = [replace(self.slices[name], mask_path=self._label_of(name), soft=True) for name in stage.pseudo]
        train = (*(self.slices[name] for name in stage.labelled), *pseudo)
        data = SliceData(train=train, test=(), source=(), split=stage.kind)
        trainer = Trainer(self.fabric, config, folder, model, data)
        trainer.train(console, board)
        self.module = trainer.result

    def _stage_config(self, stage: Stage) -> Config:
        """Inf-Net's own recipe; the rounds' batches, rate and epochs, each an image of all once at every scale."""
        changes: dict[str, Any] = {"method": METHOD}
        if stage.epochs is not None and stage.batch is not None:
            batches = -(-(len(stage.labelled) + len(stage.pseudo)) // stage.batch)
            changes |= {
                "steps": stage.epochs * batches * len(self.config.scales),
                "batch_size": stage.batch,
                "learning_rate": stage.learning_rate,
                "schedule": "poly",
            }
        return replace(self.config, **changes)

    def _folder(self, number: int) -> Path:
        return self.run / f"stage-{number + 1}"

    def _end(self, number: int) -> None:
        folder = self._folder(number)
        if self.fabric.is_global_zero:
            save_weights(folder, self.module)
            lines = [line for line in log_lines(folder / METRICS) if line is not None]
            self._append(self.done.steps, lines)
            ended = Done(number + 1, self.done.steps + max(int(line["step"] or 0) for line in lines))
            write_text(self.run / STATE, json.dumps(vars(ended)) + "\n")
            _remove(folder, keep=WEIGHTS)
            if number:
                _remove(self._folder(number - 1))
        self.fabric.barrier()
        self.done = self._read_state()

    def _append(self, before: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """The stage's lines at the end of the run's log, counted on; what an interrupted call had added goes."""
        path = self.run / METRICS
        known = [line for line in log_lines(path) if line is not None] if path.exists() else []
        kept = [line for line in known if (line["step"] or 0) <= before]
        counted = [{**line, "step": int(line["step"] or 0) + before} for line in lines]
        write_text(path, "".join(json.dumps(line) + "\n" for line in (*kept, *counted)))


def _remove(folder: Path, keep: str = "") -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name != keep and path.is_file():
            path.unlink()
    if not keep:
        folder.rmdir()
