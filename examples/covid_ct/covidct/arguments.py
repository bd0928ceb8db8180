"""The command line of train.py, and how it becomes a config and a run folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only

from covidct.config import PRESETS, Config, differences, read_config
from covidct.data.phantom import Progress
from covidct.datasets import PHANTOM, check_dataset, phantom_folders, read_target
from covidct.errors import InputError
from covidct.precision import resolve_precision
from covidct.run_folder import check_output, free_run, newest_run, run_name
from covidct.systems import system

RUNS = Path("runs")


@dataclass(frozen=True)
class Arguments:
    """Train one method and evaluate it. Without arguments: the paper's method on phantom data, in minutes."""

    data: Path | None = None
    """Folder of the data set; phantom data are generated without it."""
    dataset: str | None = None
    """covid_semiseg (default with --data) or phantom."""
    source: tuple[Path, ...] = ()
    """Folders of CT volumes with masks of other lesions; the methods general and ours need them with --data."""
    method: str | None = None
    """unet, baseline, general, target or ours (default)."""
    preset: str | None = None
    """demo (default without --data), cpu (default with it), paper (default with it where CUDA is found)."""
    fold: int | None = None
    """Fold 0 to 4 of a cross-validation inside the labelled slices; the published split without it."""
    seed: int | None = None
    """Seed of weights and sampling, 0 by default; folds do not depend on it."""
    steps: int | None = None
    """Training steps instead of the preset's."""
    precision: str | None = None
    """32, bf16 or 16 (CUDA), instead of the preset's."""
    output: Path | None = None
    """Run folder; runs/<dataset>-<method>-<split>-seed<seed> by default."""
    resume: bool = False
    """Go on with an interrupted run: that of --output, else the newest of the default name."""
    tensorboard: bool = False
    """Log for TensorBoard, too."""


@dataclass(frozen=True)
class Task:
    """What is to be trained, where, and what the user should hear about the choice."""

    config: Config
    run: Path
    notes: tuple[str, ...] = ()


def resolve(arguments: Arguments, *, progress: Progress | None = None) -> Task:
    """Config and run folder of `arguments`; a resumed run keeps its config. InputError if they make no sense."""
    # Further processes of the same run come after the first has made the folder.
    if arguments.output is not None and rank_zero_only.rank == 0:
        check_output(arguments.output, resume=arguments.resume)
    if arguments.resume and arguments.output is not None:
        if not arguments.output.is_dir():
            raise InputError(f"--resume: {arguments.output} is not a folder; correct --output or leave --resume out")
        run = arguments.output
        if (run / "config.json").exists():
            return _resumed(arguments, run)
        config, notes = _fresh(arguments, progress)
        return Task(config, run, notes)
    config, notes = _fresh(arguments, progress)
    if arguments.resume:
        run = newest_run(RUNS, run_name(config))
        return _resumed(arguments, run) if (run / "config.json").exists() else Task(config, run, notes)
    return Task(config, arguments.output or free_run(RUNS, run_name(config)), notes)


def _resumed(arguments: Arguments, run: Path) -> Task:
    saved = read_config(run / "config.json")
    lines = differences(saved, _asked(arguments, saved))
    if lines:
        raise InputError(
            f"--resume: {run} is a run with other settings: {'; '.join(lines)}. "
            "Leave these arguments out, or start another run without --resume"
        )
    resolve_precision(saved.precision, cuda=torch.cuda.is_available())
    return Task(saved, run)


def _asked(arguments: Arguments, saved: Config) -> dict[str, Any]:
    """The fields of a config that the command line names."""
    names = ("dataset", "method", "preset", "fold", "seed", "steps", "precision")
    asked = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.data is not None:
        asked["data"] = str(arguments.data.absolute())
    if arguments.source and system(saved.method).needs_source:
        asked["source"] = tuple(str(folder.absolute()) for folder in arguments.source)
    return asked


def _fresh(arguments: Arguments, progress: Progress | None) -> tuple[Config, tuple[str, ...]]:
    notes: list[str] = []
    method = "ours" if arguments.method is None else arguments.method
    needs_source = system(method).needs_source
    preset = _preset(arguments, notes)
    dataset = _dataset(arguments)
    if arguments.source and not needs_source:
        notes.append(f"method {method} takes no source images: --source is not used")
    if needs_source and arguments.data is not None and not arguments.source:
        raise InputError(
            f"method {method} needs source images (X^n): give --source with one or more folders of CT volumes with "
            "masks of other lesions, or take --method unet, baseline or target"
        )
    values = dict(PRESETS[preset])
    values["steps"] = values["steps"] if arguments.steps is None else arguments.steps
    values["precision"] = resolve_precision(arguments.precision or values["precision"], cuda=torch.cuda.is_available())
    config = Config(
        dataset=dataset,
        data="" if arguments.data is None else str(arguments.data.absolute()),
        source=tuple(str(folder.absolute()) for folder in arguments.source) if needs_source else (),
        method=method,
        preset=preset,
        fold=arguments.fold,
        seed=0 if arguments.seed is None else arguments.seed,
        **values,
    )
    return _with_data(config, needs_source, notes, progress), tuple(notes)


def _preset(arguments: Arguments, notes: list[str]) -> str:
    if arguments.preset is not None:
        if arguments.preset not in PRESETS:
            raise InputError(f"--preset {arguments.preset!r} is unknown; take one of {', '.join(PRESETS)}")
        return arguments.preset
    if arguments.data is None:
        return "demo"
    cuda = torch.cuda.is_available()
    notes.append(
        "CUDA found: preset paper (250,000 steps; --preset cpu is the short one)"
        if cuda
        else "no CUDA: preset cpu (--preset paper is the published one)"
    )
    return "paper" if cuda else "cpu"


def _dataset(arguments: Arguments) -> str:
    if arguments.dataset is None:
        return PHANTOM if arguments.data is None else "covid_semiseg"
    check_dataset(arguments.dataset)
    if arguments.dataset == PHANTOM and arguments.data is not None:
        raise InputError("--dataset phantom is generated and takes no --data; leave one of the two out")
    if arguments.dataset != PHANTOM and arguments.data is None:
        raise InputError(f"--dataset {arguments.dataset} needs --data with the folder that it is in")
    return arguments.dataset


def _with_data(config: Config, needs_source: bool, notes: list[str], progress: Progress | None) -> Config:
    """`config` with the phantoms' folders, and with fold 0 where there are no test slices to publish on."""
    if config.dataset == PHANTOM:
        target, source = phantom_folders(progress=progress)
        sources = config.source or ((str(source),) if needs_source else ())
        return replace(config, data=str(target), source=sources)
    if config.fold is None and not read_target(config).test:
        notes.append("no test slices in the data set: cross-validation, fold 0 (--fold chooses another)")
        return replace(config, fold=0)
    return config
