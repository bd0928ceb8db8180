"""Trainings in stages, each from what the one before has learnt; stopped in any of them, they go on there."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import nn

from covidct.ct.picture import Slice, load_slice
from covidct.files import read_json, remove_leftovers, replacing, write_text
from covidct.networks.inf_net_training import eight_bits
from covidct.run.building import build_model
from covidct.run.checkpoint import METRICS, WEIGHTS, has_begun, log_lines, read_weights, save_weights
from covidct.run.config import Config
from covidct.run.prediction import check_finite
from covidct.slices.data import SliceData
from covidct.training.engine import Trainer

STATE = "stages.json"


@dataclass(frozen=True)
class Done:
    """What stages.json says: how many stages are done, and how many steps they took."""

    stages: int
    steps: int


@dataclass(frozen=True)
class Part:
    """One stage.

    text: what it is, for the screen.
    config: of this training alone.
    slices, pseudo: what is trained on as it is, and with the labels of an earlier stage.
    to_label: slices that the network of the stage before labels first.
    """

    text: str
    config: Config
    slices: tuple[Slice, ...] = ()
    pseudo: tuple[Slice, ...] = ()
    to_label: tuple[Slice, ...] = ()


class StagedTraining(ABC):
    """The stages of one run, each in a folder `stage-N` of it while it lasts.

    What is kept when a stage ends: its weights until the next one has ended, its lines of metrics.jsonl in the run's,
    and the labels that it gave, in `pseudo-labels`. A run that is gone on with takes up the stage that it was in.

    run, config: of the whole. parts: its stages.
    """

    def __init__(self, fabric: Fabric, config: Config, run: Path, parts: Sequence[Part]) -> None:
        self.fabric, self.config, self.run, self.parts = fabric, config, run, parts
        self.labels = run / "pseudo-labels"
        self.done = Done(0, 0)
        if (run / STATE).exists():
            self.done = self._read_state()
        last = max(self.done.stages - 1, 0)
        self.module = build_model(parts[last].config)
        if self.done.stages:
            read_weights(self.module, self._folder(last))

    @abstractmethod
    def begin(self, number: int, model: nn.Module) -> None:
        """Give the network of stage `number`, as its seed has it, what `self.module`, that before, has learnt."""

    @abstractmethod
    def predict(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of `self.module`, (H, W), for a slice that is to be labelled."""

    def mixed(self, slices: tuple[Slice, ...], pseudo: tuple[Slice, ...]) -> tuple[Slice, ...]:
        """What a stage draws from."""
        return (*slices, *pseudo)

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
        for number, part in list(enumerate(self.parts))[self.done.stages :]:
            pseudo = f" and {len(part.pseudo)} with labels of its own" if part.pseudo else ""
            console.print(f"stage {number + 1} of {len(self.parts)}: {part.text}, {len(part.slices)} slices{pseudo}")
            self._label(part)
            self._train(number, part, console, board)
            self._end(number)

    def _read_state(self) -> Done:
        return read_json(self.run / STATE, Done, fix="remove the run and start again")

    def _label(self, part: Part) -> None:
        """Write the labels of the stage's new slices; those that are there were given before it was interrupted."""
        if self.fabric.is_global_zero and part.to_label:
            self.labels.mkdir(exist_ok=True)
            remove_leftovers(self.labels)
            self.module.to(self.fabric.device)
            for item in part.to_label:
                if not self._label_of(item).exists():
                    self._write_label(item)
        self.fabric.barrier()

    def _write_label(self, item: Slice) -> None:
        image, _ = load_slice(item)
        probability = self.predict(image)
        check_finite(probability, item.path, self.config.precision)
        with replacing(self._label_of(item)) as temporary:
            Image.fromarray(eight_bits(torch.from_numpy(probability)).numpy()).save(temporary, format="PNG")

    def _label_of(self, item: Slice) -> Path:
        return self.labels / f"{item.name}.png"

    def _train(self, number: int, part: Part, console: Console, board: Any) -> None:
        folder = self._folder(number)
        if self.fabric.is_global_zero:
            folder.mkdir(exist_ok=True)
        self.fabric.barrier()
        model = build_model(part.config, imagenet=not has_begun(folder))
        self.begin(number, model)
        pseudo = tuple(replace(item, mask_path=self._label_of(item), soft=True) for item in part.pseudo)
        data = SliceData(train=self.mixed(part.slices, pseudo), test=(), source=(), split=part.text)
        trainer = Trainer(self.fabric, part.config, folder, model, data)
        trainer.train(console, board)
        self.module = trainer.result

    def _folder(self, number: int) -> Path:
        return self.run / _name(number)

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


def stage_begun(run: Path) -> bool:
    """Whether there is a checkpoint of a stage, or its result, to go on from."""
    return (run / STATE).exists() or has_begun(run / _name(0))


def _name(number: int) -> str:
    return f"stage-{number + 1}"


def _remove(folder: Path, keep: str = "") -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name != keep and path.is_file():
            path.unlink()
    if not keep:
        folder.rmdir()
