"""Train one system of the paper, evaluate it and draw its pictures. `python train.py --help` lists the arguments."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import tyro
from covidct.arguments import Arguments, Task, resolve
from covidct.errors import exit_on_input_error
from covidct.parallel import is_first_process
from covidct.progress import stages_shown
from covidct.results import end, finish, is_finished, show_result, wing_of
from covidct.run.ablations import caption
from covidct.run.building import build_model, count_parameters, start_from
from covidct.run.checkpoint import has_begun, load_checkpoint, load_run
from covidct.run.config import Config
from covidct.run.folder import disk_faults, prepare
from covidct.run.lock import locked
from covidct.run.systems import system
from covidct.slices.data import SliceData
from covidct.slices.pseudo_labels import PseudoLabelTraining
from covidct.slices.self_taught import SelfTaught
from covidct.slices.stages import StagedTraining, stage_begun
from covidct.training.engine import Trainer, device_name, make_fabric
from covidct.training.wing import RunData
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

FILE_WIDTH = 120


def main() -> None:
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    console = Console(highlight=False, quiet=not is_first_process())
    if not console.is_terminal:
        console.width = FILE_WIDTH
    task = resolve(arguments)
    if arguments.resume and is_finished(task.run, task.config):
        console.print("This run is finished; nothing is left to do.")
        if is_first_process():
            end(task.run, task.config)
        unscored = show_result(task.run, task.config, console)
    else:
        try:
            unscored = run(task, arguments, console)
        except KeyboardInterrupt:
            _say_how_to_go_on(task.run, console)
            sys.exit(130)
    if is_first_process() and unscored:
        sys.exit(2)


def run(task: Task, arguments: Arguments, console: Console) -> int:
    """Train, evaluate and draw what `task` names; returns how many test images could not be scored."""
    config, wing = task.config, wing_of(task.config.dataset)
    with stages_shown(console) as stages:
        wing.make_phantoms(config, stages)
    with console.status("reading the data"):
        data = wing.read(config)
    if is_first_process():
        wing.check(task.run, config, data, console)
    model = build_model(config, imagenet=not has_begun(task.run))
    # A run that goes on has its weights from its checkpoint; the one that it started from may have gone.
    if config.init and not has_begun(task.run) and not stage_begun(task.run):
        start_from(model, load_run(Path(config.init))[1], config.method)
    if is_first_process():
        prepare(task.run, config, sum(p.numel() for p in model.parameters()), resume=arguments.resume)
        data.keep(task.run)
    fabric = make_fabric(config)
    if "LT_CLI_USED" not in os.environ:  # `fabric run` has launched it already
        fabric.launch()
    folder = Path(fabric.broadcast(str(task.run)))
    with locked(folder) if fabric.is_global_zero else nullcontext():
        trainer = _trainer(fabric, config, folder, model, data)
        _introduce(task, wing.IMAGES, data, trainer, console)
        with disk_faults(folder):
            trainer.train(console, _board(folder, trainer) if arguments.tensorboard else None)
            unscored = finish(folder, config, trainer.result, data, console) if fabric.is_global_zero else 0
    # A process that ends and leaves its group as it is may be aborted.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return unscored


def _trainer(fabric: Fabric, config: Config, run: Path, model: nn.Module, data: RunData) -> Trainer | StagedTraining:
    chosen = system(config.method)
    if isinstance(data, SliceData) and chosen.staged:
        if chosen.self_taught:
            return SelfTaught(fabric, config, run, data, model)
        return PseudoLabelTraining(fabric, config, run, data)
    return Trainer(fabric, config, run, model, data)


def _introduce(task: Task, images: str, data: RunData, trainer: Trainer | StagedTraining, console: Console) -> None:
    config = task.config
    for note in task.notes:
        console.print(note, soft_wrap=True)
    counts = f"{len(data.train)} {images} to train on, {len(data.test)} to test on"
    facts = {
        "method": f"{config.method}: {system(config.method).title}",
        "preset": f"{config.preset}: {' x '.join(map(str, config.size))}, batches of {config.batch_size}, "
        f"{config.steps} steps",
        "network": f"{count_parameters(config):,} parameters",
        "choices": caption(config),
        "data": f"{config.dataset} ({data.split}): {counts}" + (f", {len(data.source)} source" if data.source else ""),
        "device": device_name(trainer.fabric, config),
        "output": str(task.run) + (f", going on from step {trainer.step}" if trainer.step else ""),
    }
    for label, fact in (facts | dict(data.facts())).items():
        if not fact:
            continue
        console.print(f"{label:7} {fact}", soft_wrap=True, markup=False)


def _board(run: Path, trainer: Trainer | StagedTraining) -> Any:
    if not trainer.fabric.is_global_zero:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"), purge_step=trainer.step + 1)


def _say_how_to_go_on(run: Path, console: Console) -> None:
    if not run.is_dir():
        console.print("Interrupted before anything was written; start again with the same command.")
        return
    state = load_checkpoint(run)
    kept = "no checkpoint was written yet" if state is None else f"the checkpoint of step {state['step']} is kept"
    command = f"python {sys.argv[0]} --resume --output {run}"
    console.print(f"Interrupted; {kept}. To go on: {command}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    exit_on_input_error(main)
