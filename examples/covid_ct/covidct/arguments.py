"""The command line of train.py, and how it becomes a config and a run folder."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from covidct.errors import InputError
from covidct.own_data import check_unasked, own_choices, own_dataset, patients_rule, places_given
from covidct.parallel import is_first_process
from covidct.results import wing_of
from covidct.run.ablations import asked_choices
from covidct.run.config import Config, differences, read_config
from covidct.run.folder import check_output, free_run, newest_run, run_name
from covidct.run.precision import resolve_precision
from covidct.run.recipes import with_recipe
from covidct.run.systems import STARTS, SYSTEMS, system
from covidct.sets.covid_semiseg import read_covid_semiseg
from covidct.sets.names import COVID_CT_20, COVID_SEMISEG, PHANTOM

RUNS = Path("runs")


@dataclass(frozen=True)
class Arguments:
    """Train one method and evaluate it. Without arguments: the paper's method on phantom data, in minutes."""

    data: Path | None = None
    """Folder of the data set; phantom data are generated without it. Of your own: with images/ and masks/, or imagesTr/
    and labelsTr/; beside them test/, unlabelled/ and source/ are used where they are there."""
    images: Path | None = None
    """Folder of your own images, where it is not --data's images/."""
    masks: Path | None = None
    """Folder of their masks, by the same names."""
    labels: tuple[int, ...] = ()
    """Values of your own masks that are lesion; all above 0 without it."""
    patients: str | None = None
    """Of your own images: a regular expression whose first group in a name is the patient, or a CSV file of names and
    patients. A patient stays in one fold."""
    dataset: str | None = None
    """Told by what --data holds, if not named. covid_semiseg or phantom: slices. covid-ct-20: volumes; without --data
    phantom-volumes. own, own-volumes: pictures or volumes of your own."""
    store: Path | None = None
    """What prepare.py made of --data, for covid-ct-20."""
    source: tuple[Path, ...] = ()
    """Folders of CT volumes with masks of other lesions, for covid-ct-20 stores that prepare.py made of them; the
    methods general, ours and pretrain need them with --data."""
    method: str | None = None
    """unet, pretrain, finetune, multi-encoder, baseline, general, target or ours (default; of your own images what
    is there decides); of slices also ours-un and
    Table V's u-net, u-net++, attention-unet, gated-unet, dense-unet, inf-net, semi-inf-net; and, beyond the paper,
    supervised-general, reconstruct and self-taught."""
    init: Path | None = None
    """Finished run of method pretrain or reconstruct: finetune starts from it, multi-encoder takes its encoder as the
    general one, and so do the other methods of two encoders, whose general encoder is random without it; self-taught
    has its first stage from it."""
    unlabelled: Path | None = None
    """Folder of unlabelled slices of the target, instead of the data set's own; for ours-un, semi-inf-net,
    reconstruct and self-taught."""
    source_cases: int | None = None
    """Source slices, one of each of so many scans, the sets balanced; drawn by a seed. All without it."""
    source_policy: Literal["random", "max_area"] | None = None
    """Which slice of a scan --source-cases takes: a random one (default), or that with the largest lesion."""
    target_cases: int | None = None
    """Labelled slices of the target that are trained on, drawn by a seed. All without it."""
    target_draw: int | None = None
    """Which of many draws of --target-cases; 0 by default."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, such as 0.99, which is kept instead of the last ones."""
    preset: str | None = None
    """demo (default without --data), cpu (default with it), paper (default with it where CUDA is found)."""
    fold: int | None = None
    """Fold 0 to 4: of a cross-validation inside the labelled slices (without it the published split), or of the five
    published ones of covid-ct-20 (without it 0)."""
    seed: int | None = None
    """Seed of weights and sampling, 0 by default; folds do not depend on it."""
    steps: int | None = None
    """Training steps instead of the preset's."""
    precision: str | None = None
    """32, bf16 or 16 (CUDA), instead of the preset's."""
    reduction: str | None = None
    """Of the relation losses: sum (default, as the paper prints it), row_mean or mean."""
    peak_general: float | None = None
    """What lambda_G rises to, the weight of L_G; 0.1 by default, as the paper's."""
    peak_target: float | None = None
    """What lambda_T rises to, the weight of L_T; 0.1 by default, as the paper's."""
    ramp_power: float | None = None
    """Exponent of the ramp-up: 1 (default, as printed) or 2 (Laine & Aila 2017)."""
    general_rate: float | None = None
    """The general encoder's learning rate, where L_G alone trains it, as a part of the others'; 0.005 in presets demo
    and cpu of slices, else 1."""
    anchor: bool | None = None
    """Hold the general term to what the general encoder told at its start, so that it does not make all images alike;
    not in the paper."""
    levels: tuple[int, ...] | None = None
    """Stages of the encoders that the relation losses are of, 0 the finest; -1 (default), the bottleneck."""
    fuse_levels: tuple[int, ...] | None = None
    """Stages at which the general encoder's maps enter the decoder: -1 by default, all in multi-encoder."""
    fusion: str | None = None
    """How they enter it: concat (default) or project (a 1 x 1 convolution to the decoder's own width)."""
    route: str | None = None
    """paper (default): the segmentation loss does not reach the general encoder; joint: it does, and trains it."""
    width: str | None = None
    """Of a network with one encoder: factor on its channels, or dual, for the parameters of method ours."""
    output: Path | None = None
    """Run folder; runs/<dataset>-<method>-<split>-seed<seed> by default."""
    resume: bool = False
    """Go on with an interrupted run: that of --output, else the newest of the default name."""
    variant: str | None = None
    """Of Inf-Net's loss and learning rate: as_released (default) or as_described, where its code and paper differ."""
    imagenet: str | None = None
    """ImageNet weights of the encoder of dense-unet, inf-net and semi-inf-net: a file, or timm, which downloads them.
    None without it."""
    pseudo_group: int | None = None
    """Of semi-inf-net: unlabelled slices a group, 5 by default."""
    pseudo_epochs: int | None = None
    """Of semi-inf-net: epochs after each group, 9 by default."""
    pseudo_groups: int | None = None
    """Of semi-inf-net: how many groups are taken; all by default."""
    hidden_block: int | None = None
    """Of reconstruct and self-taught: side of the squares that are hidden, 8 pixels by default."""
    hidden_share: float | None = None
    """Of reconstruct and self-taught: share of the squares that is hidden, 0.6 by default."""
    hidden_steps: int | None = None
    """Of self-taught: steps for which it fills in hidden squares before it learns lesions, twice --steps by default; 0
    leaves that out."""
    tensorboard: bool = False
    """Log for TensorBoard, too."""


@dataclass(frozen=True)
class Task:
    """What is to be trained, where, and what the user should hear about the choice."""

    config: Config
    run: Path
    notes: tuple[str, ...] = ()


def resolve(arguments: Arguments) -> Task:
    """Config and run folder of `arguments`; a resumed run keeps its config. InputError if they make no sense."""
    # Further processes of the same run come after the first has made the folder.
    if arguments.output is not None and is_first_process():
        check_output(arguments.output, resume=arguments.resume)
    if arguments.resume and arguments.output is not None:
        if not arguments.output.is_dir():
            raise InputError(f"--resume: {arguments.output} is not a folder; correct --output or leave --resume out")
        run = arguments.output
        if (run / "config.json").exists():
            return _resumed(arguments, run)
        config, notes = _fresh(arguments)
        return Task(config, run, notes)
    config, notes = _fresh(arguments)
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
    wing = wing_of(saved.dataset)
    if saved.dataset == wing.PHANTOM and arguments.dataset in wing.PREPARED and arguments.data is None:
        asked["dataset"] = wing.PHANTOM
    if arguments.labels:
        asked["labels"] = arguments.labels
    if arguments.patients is not None:
        asked["patients"] = patients_rule(arguments.patients)
    for name in ("data", "images", "masks", "store", "init", "unlabelled"):
        if getattr(arguments, name) is not None:
            asked[name] = str(getattr(arguments, name).absolute())
    asked |= asked_choices(vars(arguments), saved)
    if arguments.source and system(saved.method).needs_source:
        asked["source"] = tuple(str(folder.absolute()) for folder in arguments.source)
    return asked


def _fresh(arguments: Arguments) -> tuple[Config, tuple[str, ...]]:
    notes: list[str] = []
    places = places_given(vars(arguments))
    dataset = _dataset(arguments) if places is None else own_dataset(arguments.dataset, places)
    if places is not None:
        arguments = replace(arguments, **own_choices(vars(arguments), places, dataset, notes))
    else:
        check_unasked(vars(arguments), dataset)
    if dataset == COVID_SEMISEG:
        # What is wrong with the layout is told before what is wrong with the method.
        read_covid_semiseg((arguments.data or Path()).absolute())
    method = "ours" if arguments.method is None else arguments.method
    chosen = system(method)
    wing = wing_of(dataset)
    preset = _preset(arguments, wing.PRESETS, notes)
    if chosen.slices_alone and wing.AXES != 2:
        raise InputError(f"method {method} is for slices and {dataset} are {wing.IMAGES}; take another --method")
    if arguments.unlabelled is not None and not chosen.needs_unlabelled:
        notes.append(f"method {method} takes no unlabelled slices: --unlabelled is not used")
    if arguments.source and not chosen.needs_source:
        notes.append(f"method {method} takes no source images: --source is not used")
    given = arguments.data is not None or places is not None
    if chosen.needs_source and given and not arguments.source:
        what = "stores that prepare.py made" if wing.PREPARED else "folders of CT volumes with masks"
        if places is not None:
            what = f"folders of {wing.IMAGES} (or put them into a folder source/ in --data)"
        raise InputError(
            f"method {method} needs source images (X^n): give --source with one or more {what} of other "
            "lesions, or take --method unet, baseline or target"
        )
    _check_start(arguments, method)
    values = with_recipe(preset, wing.PRESETS[preset], chosen)
    values["steps"] = values["steps"] if arguments.steps is None else arguments.steps
    values["precision"] = resolve_precision(arguments.precision or values["precision"], cuda=torch.cuda.is_available())
    config = Config(
        dataset=dataset,
        data="" if arguments.data is None else str(arguments.data.absolute()),
        source=tuple(str(folder.absolute()) for folder in arguments.source) if chosen.needs_source else (),
        method=method,
        preset=preset,
        fold=arguments.fold,
        seed=0 if arguments.seed is None else arguments.seed,
        init="" if arguments.init is None else str(arguments.init.absolute()),
        store="" if arguments.store is None else str(arguments.store.absolute()),
        unlabelled=str(arguments.unlabelled.absolute()) if arguments.unlabelled and chosen.needs_unlabelled else "",
        images="" if arguments.images is None else str(arguments.images.absolute()),
        masks="" if arguments.masks is None else str(arguments.masks.absolute()),
        labels=arguments.labels,
        patients=patients_rule(arguments.patients or ""),
        **values,
    )
    config = replace(config, **asked_choices(vars(arguments), config))
    return _with_fold(wing.fit(config), notes), tuple(notes)


def _check_start(arguments: Arguments, method: str) -> None:
    """InputError unless --init is there for the methods that need it, and for none that cannot take it."""
    chosen = system(method)
    if chosen.needs_start and arguments.init is None:
        raise InputError(
            f"method {method} starts from a trained network: give --init with a finished run of --method "
            f"{' or '.join(STARTS)}"
        )
    if arguments.init is not None and chosen.start == "nothing":
        others = ", ".join(name for name, entry in SYSTEMS.items() if entry.start != "nothing")
        raise InputError(f"--init is for the methods {others}, not for {method}; leave it out")
    if arguments.init is not None:
        given = read_config(arguments.init / "config.json").method
        if given not in STARTS:
            raise InputError(
                f"--init {arguments.init} is a run of method {given}; give one of method {' or '.join(STARTS)}"
            )


def _preset(arguments: Arguments, known: Collection[str], notes: list[str]) -> str:
    if arguments.preset is not None:
        if arguments.preset not in known:
            raise InputError(f"--preset {arguments.preset!r} is unknown; take one of {', '.join(known)}")
        return arguments.preset
    if arguments.data is None and arguments.images is None:
        return "demo"
    cuda = torch.cuda.is_available()
    notes.append(
        "CUDA found: preset paper (250,000 steps; --preset cpu is the short one)"
        if cuda
        else "no CUDA: preset cpu (--preset paper is the published one)"
    )
    return "paper" if cuda else "cpu"


def _dataset(arguments: Arguments) -> str:
    name, data, store = arguments.dataset, arguments.data, arguments.store
    if name is None:
        if store is not None:
            raise InputError(f"--store is for --dataset {COVID_CT_20}; name it, or leave --store out")
        return PHANTOM if data is None else COVID_SEMISEG
    wing = wing_of(name)
    if name in wing.PREPARED:
        if data is None and store is None:
            return wing.PHANTOM
        if data is None or store is None:
            given, lacking = ("--store", "--data") if data is None else ("--data", "--store")
            raise InputError(
                f"{given} is there and {lacking} is not: --data is the published set, which is tested on, and --store "
                f"what `prepare.py DATA --dataset {name} --output STORE` makes of it, which is trained on"
            )
        return name
    if store is not None:
        raise InputError(f"--store is for --dataset {COVID_CT_20}; leave it out")
    if name == wing.PHANTOM and data is not None:
        raise InputError(f"--dataset {name} is generated and takes no --data; leave one of the two out")
    if name != wing.PHANTOM and data is None:
        raise InputError(f"--dataset {name} needs --data with the folder that it is in")
    return name


def _with_fold(config: Config, notes: list[str]) -> Config:
    """`config` with fold 0 where none was asked for and the data have no split but folds."""
    why = None if config.fold is not None else wing_of(config.dataset).default_fold(config)
    if why is None:
        return config
    notes.append(f"{why} (--fold chooses another)")
    return replace(config, fold=0)
