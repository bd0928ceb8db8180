"""The command line of sweep.py, and how it becomes a list of trainings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from covidct import arguments as training
from covidct.errors import InputError
from covidct.own_data import own_dataset
from covidct.phantoms.slice_set import phantom_root, phantom_sources
from covidct.progress import Stages
from covidct.results import wing_of
from covidct.run.paper import TableName
from covidct.run.plan import BY_FOLD, Images, Plan, Settings, SourceSet, check_kind, plan
from covidct.run.rows import set_of
from covidct.run.study import read_study, study_plan
from covidct.sets.names import COVID_CT_20, COVID_SEMISEG, OWN, OWN_VOLUMES, PHANTOM
from covidct.sets.own_places import own_places
from covidct.store.phantoms import make_phantom_volumes, phantom_stores
from covidct.store.store import open_store

OWN_SETS = (OWN, OWN_VOLUMES)
# What a table draws, and how long its loops are; the systems of a study say so themselves.
OF_TABLES = ("source_cases", "source_policy", "target_cases", "pseudo_groups", "pseudo_epochs")
# Tables III and IV share runs.
FOLDERS = {"III": "tables-III-IV", "IV": "tables-III-IV", "V": "table-V", "VI": "table-VI"}


@dataclass(frozen=True)
class Arguments:
    """Train every system of a table of the paper, or of a study: methods x folds x seeds, pre-trainings first.

    What is finished is skipped and what has begun goes on: stopped or killed, call it again with the same arguments.
    Without --data it trains on phantoms. Runs that fail are named at the end, and the exit code is then 2.
    """

    table: TableName | None = None
    """Table of the paper. III and IV: five folds, of volumes unless --dataset says otherwise; V and VI: slices."""
    data: Path | None = None
    """Folder of the data set; phantom data are generated without it."""
    dataset: str | None = None
    """As train.py: covid-ct-20 (default of III and IV), covid_semiseg (of V and VI), phantom, phantom-volumes."""
    store: Path | None = None
    """What prepare.py made of --data, for covid-ct-20."""
    source: tuple[Path, ...] = ()
    """Source sets: stores of volumes, or folders for slices, which are known by their names (msd, nsclc, lits,
    covid-19-20). Those that the table has no row for get rows of their own."""
    study: Path | None = None
    """Instead of a table: a file of systems with their options, folds and numbers of labels, such as
    studies/borrowing.toml. Every slice's score goes into scores.csv in the output folder."""
    unlabelled: Path | None = None
    """Folder of unlabelled slices, instead of the data set's own."""
    methods: tuple[str, ...] = ()
    """Methods of the table, or systems of the study, to train; all without it."""
    preset: str | None = None
    """As train.py: demo (default without --data), cpu (default with it), paper (default where CUDA is found)."""
    seeds: tuple[int, ...] = (0,)
    """A run of each method and fold for every seed."""
    folds: tuple[int, ...] | None = None
    """Folds instead of all five (III, IV) or of the published split (V, VI)."""
    steps: int | None = None
    """Training steps instead of the preset's."""
    source_cases: int | None = None
    """Source slices that are drawn, one a scan, instead of the paper's 100 (V) and 60 (VI); 0: all."""
    source_policy: Literal["random", "max_area"] | None = None
    """As train.py: which slice of a source scan is drawn."""
    target_cases: int | None = None
    """Target slices that are drawn, instead of the paper's 10 (VI); 0: all."""
    pseudo_groups: int | None = None
    """As train.py, of semi-inf-net: how many groups of unlabelled slices are taken; 2 in preset demo."""
    pseudo_epochs: int | None = None
    """As train.py, of semi-inf-net: epochs after each group; 1 in preset demo."""
    output: Path | None = None
    """Folder of the run folders; runs/table-V and so on by default, one for III and IV; runs/study-NAME."""
    at_once: int | None = None
    """Runs at a time: as many as there are GPUs, else processors, each with one thread; on a cluster all."""
    cluster: Literal["local", "slurm", "debug"] = "local"
    """local: processes of this machine; slurm: jobs; debug: one after the other, without submitit's processes."""
    partition: str | None = None
    """Of Slurm; its default without it."""
    gpus: int = 1
    """GPUs of a Slurm job."""
    cpus: int = 8
    """Processors of a Slurm job."""
    hours: float = 24.0
    """Time limit of a Slurm job, which is queued again and goes on until it is finished."""

    @property
    def root(self) -> Path:
        """Where the run folders go."""
        folder = FOLDERS[self.table] if self.table else f"study-{self.study.stem if self.study else ''}"
        return self.output or training.RUNS / folder

    @property
    def title(self) -> str:
        """What is trained, for the screen."""
        return f"Table {self.table}" if self.table else f"Study {self.study}"


def make_plan(arguments: Arguments, stages: Stages) -> tuple[Plan, tuple[str, ...]]:
    """The trainings that are asked for, and what the user should hear about them.

    Phantoms are made if they are needed. Raises InputError for whatever would make a training refuse to begin, and for
    runs that are there with other settings, as far as that can be told before the first one begins.
    """
    _check(arguments)
    images = _images(arguments, stages)
    # What train.py makes of the target alone.
    first = training.resolve(parsed([*images.arguments, "--method", "unet", *_given("--preset", arguments.preset)]))
    by_fold = arguments.study is not None or arguments.table in BY_FOLD
    if first.config.fold is not None and arguments.folds is None and not by_fold:
        raise InputError(
            f"{arguments.data} has no test slices for the published split; give --folds 0 1 2 3 4 for a "
            "cross-validation inside the labelled slices"
        )
    settings = Settings(
        preset=first.config.preset,
        seeds=tuple(dict.fromkeys(arguments.seeds)),
        folds=arguments.folds,
        steps=arguments.steps,
        methods=arguments.methods,
        source_cases=arguments.source_cases,
        source_policy=arguments.source_policy,
        target_cases=arguments.target_cases,
        pseudo_groups=arguments.pseudo_groups,
        pseudo_epochs=arguments.pseudo_epochs,
    )
    if arguments.study is not None:
        made = study_plan(read_study(arguments.study), images, settings)
    else:
        made = plan(_table(arguments), images, settings)
    _check_trainings(made, arguments.root.absolute())
    notes = [note for note in first.notes if "--fold chooses" not in note]
    stand_ins = [source.name for source in images.sources] if images.phantoms else []
    said = (f"Phantoms stand in for the paper's source sets: {', '.join(stand_ins)}",) if stand_ins else ()
    return made, (*notes, *said, *made.notes)


def _table(arguments: Arguments) -> TableName:
    if arguments.table is None:
        raise InputError("give --table III, IV, V or VI, or --study with a study's file")
    return arguments.table


def _check(arguments: Arguments) -> None:
    if arguments.study is None:
        _table(arguments)
    elif arguments.table is not None:
        raise InputError("--table and --study name two things to train; leave one out")
    elif given := [name for name in OF_TABLES if getattr(arguments, name) is not None]:
        option = f"--{given[0].replace('_', '-')}"
        raise InputError(f"{option} is for --table; give it in the options or labels of {arguments.study}")
    if arguments.at_once is not None and arguments.at_once < 1:
        raise InputError(f"--at-once must be 1 or more, got {arguments.at_once}")
    if not arguments.seeds:
        raise InputError("--seeds names no seed; give one or more, or leave it out for seed 0")
    if arguments.cluster == "slurm" and arguments.data is not None and arguments.preset is None:
        raise InputError("--cluster slurm needs --preset: what the cluster's machines have cannot be seen from here")
    if arguments.cluster != "slurm" and arguments.partition is not None:
        raise InputError("--partition is for --cluster slurm; leave it out, or add that")


def _images(arguments: Arguments, stages: Stages) -> Images:
    slices = PHANTOM if arguments.data is None else COVID_SEMISEG
    places = None if arguments.study is None else own_places(arguments.data)
    if places is not None and arguments.dataset in (None, *OWN_SETS):
        slices = own_dataset(arguments.dataset, places)
    dataset = arguments.dataset or (COVID_CT_20 if arguments.table in BY_FOLD else slices)
    wing = wing_of(dataset)
    if dataset in wing.PREPARED and arguments.data is None and arguments.store is None:
        dataset = wing.PHANTOM
    if arguments.table is not None:
        check_kind(arguments.table, dataset, wing.IMAGES)
    given = _source_sets(wing.IMAGES, arguments.source)
    implied: tuple[SourceSet, ...] = ()
    if dataset in OWN_SETS and places is not None and places.source is not None:
        implied = (SourceSet(places.source.name, (str(places.source.absolute()),)),)
    if dataset == wing.PHANTOM:
        implied = _source_sets(wing.IMAGES, _phantoms(wing.IMAGES, stages, sources=not given))
    return Images(
        dataset=dataset,
        kind=wing.IMAGES,
        arguments=("--dataset", dataset, *_given("--data", arguments.data), *_given("--store", arguments.store)),
        sources=given or implied,
        implied=not given and wing.IMAGES == "volumes",
        phantoms=not given and dataset == wing.PHANTOM,
        unlabelled="" if arguments.unlabelled is None else str(arguments.unlabelled.absolute()),
    )


def _phantoms(kind: str, stages: Stages, *, sources: bool) -> tuple[Path, ...]:
    """Make the phantoms before runs that would all make them at once; gives their sources, of slices if asked for."""
    if kind == "volumes":
        make_phantom_volumes(stages, stores=True)
        return phantom_stores()[1]
    phantom_root(progress=stages("generating phantoms"))
    return phantom_sources(progress=stages("generating phantom sources")) if sources else ()


def _source_sets(kind: str, folders: tuple[Path, ...]) -> tuple[SourceSet, ...]:
    sets: dict[str, list[str]] = {}
    for folder in folders:
        name = open_store(folder).settings.dataset if kind == "volumes" else set_of(folder.absolute())
        sets.setdefault(name, []).append(str(folder.absolute()))
    return tuple(SourceSet(name, tuple(places)) for name, places in sets.items())


def _check_trainings(made: Plan, root: Path) -> None:
    """InputError as train.py would raise it, for those that do not wait for others."""
    for one in made.trainings:
        command = one.command(root)
        if (root / one.run / "config.json").exists():
            try:
                training.resolve(parsed(command))
            except InputError as error:
                what = str(error).removeprefix("--resume: ").partition(". Leave these arguments out")[0]
                raise InputError(f"{what}; give another --output, or the arguments that it was begun with") from None
        elif not one.start:
            training.resolve(parsed([word for word in command if word != "--resume"]))


def parsed(command: list[str]) -> training.Arguments:
    """A call of train.py."""
    return tyro.cli(training.Arguments, args=command, config=(tyro.conf.FlagCreatePairsOff,))


def _given(option: str, value: Path | str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (option, str(value.absolute() if isinstance(value, Path) else value))
