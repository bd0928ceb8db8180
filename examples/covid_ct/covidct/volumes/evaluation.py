"""Scoring a model on labelled volumes, one by one."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from covidct.ct.volume import VolumeCase, check_case, load_volume
from covidct.errors import InputError
from covidct.files import remove_leftovers, writing
from covidct.phantoms.volume_set import phantom_volumes
from covidct.run.config import Config
from covidct.run.prediction import binarise, in_memory
from covidct.run.results import Failed, without_nan
from covidct.sets.names import OWN_VOLUMES, PHANTOM_VOLUMES
from covidct.sets.readers import read_volume_set
from covidct.sets.splits import volume_fold
from covidct.store.preprocess import Plan
from covidct.volumes.metrics import VolumeScores, score_volume
from covidct.volumes.own import own_split, read_own
from covidct.volumes.records import begin, origin, record, recorded
from covidct.volumes.segmentation import Settings, segment, with_lungs

RECORDS = "evaluation"
Progress = Callable[[float], None]


@dataclass(frozen=True)
class ScoredVolume:
    """One evaluated volume and its scores; spacing (z, y, x) in mm."""

    name: str
    patient: str
    spacing: tuple[float, float, float]
    scores: VolumeScores


@dataclass(frozen=True)
class KeptScores:
    """`VolumeScores` in a record: JSON has None for NaN."""

    dsc: float | None
    nsd: float | None
    truth_ml: float | None
    predicted_ml: float | None


@dataclass(frozen=True)
class Kept:
    """The result in a record."""

    spacing: tuple[float, float, float]
    scores: KeptScores


def volume_test_cases(config: Config, data: Path | None = None, *, by_patient: bool = False) -> tuple[VolumeCase, ...]:
    """The test volumes of a run's fold.

    data: where the data set lies now, if not where the run was trained; phantoms are found where the cache is.
    by_patient: leave out scans of a patient that the run was trained on, see `volume_fold`.
    """
    if config.dataset == OWN_VOLUMES:
        return own_split(config, read_own(config, data))[1]
    folder = data or (phantom_volumes() if config.dataset == PHANTOM_VOLUMES else Path(config.data))
    cases = {case.name: case for case in read_volume_set(config.dataset, folder).cases}
    names = volume_fold(config.dataset, config.fold, by_patient=by_patient)[1]
    missing = [name for name in names if name not in cases]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of the {len(names)} test volumes of fold {config.fold}: {missing[0]}, ...; "
            "give --data with the whole set as it is published"
        )
    return tuple(cases[name] for name in names)


def unusable(cases: Sequence[VolumeCase]) -> list[Failed]:
    """Cases whose files have a fault that shows before the images are read whole: see `check_case`."""
    found = []
    for case in cases:
        try:
            _mask_of(case)
            check_case(case)
        except InputError as error:
            found.append(Failed(case.name, str(error)))
    return found


def score_volumes(
    run: Path,
    model: nn.Module,
    plan: Plan,
    cases: Sequence[VolumeCase],
    settings: Settings,
    *,
    progress: Progress | None = None,
) -> tuple[list[ScoredVolume], list[Failed]]:
    """The scores of every case, in order, each on the grid of its own file.

    Each result, and the predicted mask, is kept in `run`/evaluation as soon as it is there: called again, for the same
    weights, settings and files, it is read, not computed. A case that cannot be used is given back among the failed,
    the others are done.

    Args:
        run: the run folder, with the weights that `model` has.
        model: runs where its parameters are; its mode is restored.
        plan: the run's.
        cases: labelled volumes.
        settings: of the inference.
        progress: called with the share of all cases that is done, 0 to 1.

    Raises InputError if there are no cases.
    """
    if not cases:
        raise InputError("there are no volumes to evaluate; check the data folder and the fold")
    remove_leftovers(run / RECORDS)
    scored, failed = [], []
    for number, case in enumerate(cases):

        def advance(done: int, total: int, number: int = number) -> None:
            if progress is not None:
                progress((number + done / total) / len(cases))

        try:
            with in_memory(case.image):
                scored.append(_score(run, model, plan, case, settings, advance))
        except InputError as error:
            failed.append(Failed(case.name, str(error)))
        advance(1, 1)
    return scored, failed


def _score(
    run: Path,
    model: nn.Module,
    plan: Plan,
    case: VolumeCase,
    settings: Settings,
    progress: Callable[[int, int], None],
) -> ScoredVolume:
    case = with_lungs(case, settings)
    came_from = origin(run, asdict(settings) | {"plan": asdict(plan)}, (case.image, _mask_of(case), *case.lungs))
    path, mask = run / RECORDS / f"{case.name}.json", predicted_mask(run, case)
    kept = recorded(path, Kept, came_from, (mask,))
    if kept is None:
        volume = load_volume(case)
        predicted = binarise(segment(model, volume, plan, settings, progress=progress))
        if volume.mask is None:
            raise InputError(f"{case.image} has no mask; only labelled volumes can be evaluated")
        scores = score_volume(volume.mask, predicted, volume.spacing)
        begin(path, came_from)
        with writing(mask):
            volume.grid.save_mask(mask, predicted)
        kept = Kept(volume.spacing, KeptScores(**without_nan(asdict(scores))))
        record(path, came_from, asdict(kept))
    values = {name: float("nan") if value is None else value for name, value in asdict(kept.scores).items()}
    return ScoredVolume(case.name, case.patient, kept.spacing, VolumeScores(**values))


def predicted_mask(run: Path, case: VolumeCase) -> Path:
    """Where the mask that was predicted for a scored case lies, NIfTI on the grid of its file."""
    return run / RECORDS / f"{case.name}.nii.gz"


def _mask_of(case: VolumeCase) -> Path:
    if case.mask is None:
        raise InputError(f"{case.image} has no mask; only labelled volumes can be evaluated")
    return case.mask
