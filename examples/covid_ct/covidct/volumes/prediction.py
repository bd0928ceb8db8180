"""Lesion masks of volumes without labels: files in, NIfTI masks, figures and lesion volumes out."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.text import Text
from torch import nn

from covidct.ct.names import check_volume_name, is_volume, stem_of
from covidct.ct.volume import Intensity, Volume, VolumeCase, load_volume
from covidct.errors import InputError, as_text, print_error
from covidct.files import entries, writing
from covidct.run.checkpoint import load_run
from covidct.run.claims import Claims, given, report
from covidct.run.config import read_config
from covidct.run.prediction import best_device, binarise, in_memory
from covidct.run.requests import Prediction
from covidct.run.results import make_output
from covidct.sets.cases import IMAGE_NAMES, LUNG_ENDING, LUNG_PREFIX, MASK_ENDINGS
from covidct.sets.names import OWN_VOLUMES
from covidct.store.preprocess import Plan
from covidct.volumes.figures import draw_lesions
from covidct.volumes.metrics import millilitres
from covidct.volumes.plan import read_plan
from covidct.volumes.records import begin, is_record, is_result, origin, record, recorded
from covidct.volumes.segmentation import Settings, segment, settings_of


@dataclass(frozen=True)
class Job:
    """A volume and where its results go. `record` is begun first and ended last: where it is whole, everything is."""

    case: VolumeCase
    mask: Path
    picture: Path
    probability: Path | None
    record: Path

    @property
    def results(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.mask, self.picture, self.probability) if path is not None)


@dataclass(frozen=True)
class Report:
    """What was found, in millilitres; `lung_ml` and what follows are None without a lung mask.

    percent_of_lung: the share of the lung mask that is lesion. notes: what is odd about the file but was read all the
    same.
    """

    name: str
    lesion_ml: float
    lung_ml: float | None
    lesion_in_lung_ml: float | None
    percent_of_lung: float | None
    notes: tuple[str, ...] = ()


def predict(asked: Prediction) -> tuple[int, int, str]:
    """See `Wing.predict`."""
    own = read_config(asked.run / "config.json").dataset == OWN_VOLUMES
    jobs, faults = plan_volumes(
        asked.inputs,
        asked.output,
        lungs=asked.lungs,
        probabilities=asked.probabilities,
        intensity="any" if own else "hu",
    )
    config, model = load_run(asked.run)
    plan = read_plan(asked.run)
    report(faults, jobs)
    make_output(asked.output)
    device = best_device()
    settings = settings_of(config, device, flips=asked.flips, region=asked.region)
    failures = _write_results(asked.run, model.to(device), plan, jobs, settings)
    return failures + len(faults), len(jobs) + len(faults), "volumes"


def _write_results(run: Path, model: nn.Module, plan: Plan, jobs: Sequence[Job], settings: Settings) -> int:
    """Write the results of every job, say what was found, and on stderr what fails. Returns how many failed."""
    failures = 0
    screen, errors = Console(markup=False, highlight=False), Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=None)
        for job in jobs:
            bar.reset(task, description=escape(as_text(job.case.name)))
            try:
                with in_memory(job.case.image):
                    report, computed = predict_volume_file(
                        *(run, model, plan, job, settings),
                        progress=lambda done, total: bar.update(task, completed=done, total=total),
                    )
            except InputError as error:
                failures += 1
                print_error(error, errors)
                continue
            for note in report.notes:
                errors.print(Text.assemble(("note: ", "bold yellow"), note), soft_wrap=True)
            screen.print(f"{describe(report)}{'' if computed else ' (was there already)'}", soft_wrap=True)
    return failures


def plan_volumes(
    inputs: Iterable[Path],
    output: Path,
    *,
    lungs: Sequence[Path] = (),
    probabilities: bool = False,
    intensity: Intensity = "hu",
) -> tuple[list[Job], list[InputError]]:
    """What will be read and written, and what is wrong with the inputs that cannot be: see `Claims`.

    Args:
        inputs: NIfTI, NRRD or MHA files, folders of them, or folders of a DICOM series.
        output: folder of the results.
        lungs: lung masks: files for a single input, or a folder of masks that are named as the inputs. Without, those
            beside an input are taken: CASE_lung*, and in a folder of one case the files that begin with lung.
        probabilities: write them, too.
        intensity: what the values of the volumes are, see `VolumeCase`.
    """
    found, faults = volume_inputs(inputs)
    _check_lungs(lungs, len(found))
    masks: dict[Path, tuple[Path, ...]] = {}
    for path, name in found.items():
        try:
            masks[path] = _lungs_of(path, name, lungs)
        except InputError as error:
            faults.append(error)
    claims = Claims([*found, *(mask for each in masks.values() for mask in each)])
    jobs: list[Job] = []
    for path in masks:
        job = _job(path, found[path], output, masks[path], probabilities=probabilities, intensity=intensity)
        try:
            if path.is_dir() and os.path.realpath(path) == os.path.realpath(output):
                raise InputError(f"{path} is a series and --output: results would lie among slices; give another")
            claims.take(path, (*job.results, job.record), ours=is_record(job.record))
        except InputError as error:
            faults.append(error)
        else:
            jobs.append(job)
    return jobs, faults


def _job(
    path: Path, name: str, output: Path, masks: tuple[Path, ...], *, probabilities: bool, intensity: Intensity
) -> Job:
    return Job(
        case=VolumeCase(name, path, None, None, None, masks, intensity, patient=name),
        mask=output / f"{name}.nii.gz",
        picture=output / f"{name}.png",
        probability=output / f"{name}_probability.nii.gz" if probabilities else None,
        record=output / f"{name}.json",
    )


def predict_volume_file(
    run: Path,
    model: nn.Module,
    plan: Plan,
    job: Job,
    settings: Settings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, bool]:
    """Write the results of one job, or find them written from the same weights, settings and files.

    Returns the report and whether anything was computed. Raises InputError if the volume cannot be used, or the
    results cannot be written.
    """
    came_from = origin(run, asdict(settings) | {"plan": asdict(plan)}, (job.case.image, *job.case.lungs))
    kept = recorded(job.record, Report, came_from, job.results)
    if kept is not None:
        return kept, False
    volume = load_volume(job.case)
    probability = segment(model, volume, plan, settings, progress=progress)
    mask = binarise(probability)
    report = _report(mask, volume)
    begin(job.record, came_from)
    if job.probability is not None:
        with writing(job.probability):
            volume.grid.save_mask(job.probability, probability, np.float32)
    with writing(job.mask):
        volume.grid.save_mask(job.mask, mask, np.uint8)
    draw_lesions(job.picture, volume.image, mask, volume.spacing, title=describe(report))
    record(job.record, came_from, asdict(report))
    return report, True


def describe(report: Report) -> str:
    """One line for the screen and the picture's title."""
    text = f"{report.name}: lesion {report.lesion_ml:.1f} ml"
    if report.percent_of_lung is None:
        return text
    return f"{text}, {report.lesion_in_lung_ml:.1f} ml of it in the lung: {report.percent_of_lung:.1f} % of the lung"


def volume_inputs(inputs: Iterable[Path]) -> tuple[dict[Path, str], list[InputError]]:
    """The volumes that `inputs` name, each once, with what their results are called; a fault for a path that is none.

    A file is called by its name without suffix, a DICOM series by its folder, and so is the volume of a folder of one
    case, which is ct.nii.gz more often than not.
    """
    found: dict[Path, tuple[Path, str]] = {}
    faults: list[InputError] = []
    for path in inputs:
        try:
            volumes = _volumes_in(path) if os.path.isdir(path) else {_checked(path): stem_of(path)}
        except InputError as error:
            faults.append(error)
            continue
        for volume, name in volumes.items():
            found.setdefault(given(volume), (volume, name))
    if not (found or faults):
        raise InputError("no INPUT was given; name the volumes or folders to predict")
    return dict(found.values()), faults


def _report(mask: NDArray[np.bool_], volume: Volume) -> Report:
    lung = inside = None
    notes = volume.notes
    if volume.lungs is not None and not volume.lungs.any():
        masks = ", ".join(map(str, volume.case.lungs))
        notes = (*notes, f"{masks}: no voxel is lung, so that there is no share of it")
    if volume.lungs is not None:
        lung = millilitres(volume.lungs, volume.spacing)
        inside = millilitres(volume.lungs & mask, volume.spacing)
    return Report(
        name=volume.case.name,
        lesion_ml=millilitres(mask, volume.spacing),
        lung_ml=lung,
        lesion_in_lung_ml=inside,
        percent_of_lung=100 * inside / lung if inside is not None and lung else None,
        notes=notes,
    )


def _volumes_in(folder: Path) -> dict[Path, str]:
    """The volumes directly inside, without the masks of others there; without any, the folder itself, a DICOM series.

    In a folder of one case (ct.nii.gz, or named as the folder) only that file is a volume.
    """
    files = [path for path in entries(folder) if not path.is_dir() and not path.name.startswith(".")]
    if not files and (place := _first_with_files(folder)):
        raise InputError(
            f"{folder} holds no file directly; give the folder of the DICOM series itself, or of the volumes, "
            f"such as {place}"
        )
    if not files:
        raise InputError(f"{folder} is empty; give NIfTI, NRRD or MHA files, or the folder of a DICOM series")
    results = [path for path in files if is_volume(path) and is_result(path)]
    # Their pictures and records, too.
    written = {f"{stem_of(path)}{suffix}" for path in results for suffix in (".png", ".json")}
    files = [path for path in files if path not in results and path.name not in written]
    if not files:
        raise InputError(f"{folder} holds nothing but what predict.py wrote; give the folder of the CT volumes")
    volumes = [path for path in files if is_volume(path)]
    only = [path for path in volumes if _is_only_case(path)]
    if len(only) == 1 or not volumes:
        return {(only or [folder])[0]: given(folder).name}
    stems = {stem_of(path).lower() for path in volumes}
    return {path: stem_of(path) for path in volumes if not _is_mask(stem_of(path).lower(), stems)}


def _first_with_files(folder: Path) -> Path | None:
    for place, folders, files in os.walk(folder):
        # Walked in this order.
        folders.sort()
        if any(not name.startswith(".") for name in files):
            return Path(place)
    return None


def _is_only_case(path: Path) -> bool:
    return stem_of(path).lower() in (*IMAGE_NAMES, given(path).parent.name.lower())


def _is_mask(stem: str, stems: set[str]) -> bool:
    """Whether it is CASE_mask, CASE_lung or the like of another CASE."""
    endings = "|".join((*MASK_ENDINGS, LUNG_ENDING))
    return (case := re.sub(f"({endings})$", "", stem)) != stem and case in stems


def _checked(path: Path) -> Path:
    if os.path.lexists(path):
        check_volume_name(path)
    return path


def _check_lungs(masks: Sequence[Path], count: int) -> None:
    files = [path for path in masks if not path.is_dir()]
    if files and count > 1:
        raise InputError(
            f"--lungs {files[0]} is one mask and there are {count} volumes; give a folder of masks named as the volumes"
        )


def _lungs_of(path: Path, name: str, masks: Sequence[Path]) -> tuple[Path, ...]:
    if not masks:
        return _lungs_beside(path)
    files = [item for item in masks if not item.is_dir()]
    named = [mask for item in masks if item.is_dir() for mask in entries(item) if stem_of(mask) == name]
    if not files and not named:
        raise InputError(f"--lungs {masks[0]} holds no mask named {name}; add it or leave --lungs out")
    return (*files, *named)


def _lungs_beside(path: Path) -> tuple[Path, ...]:
    """Lung masks in the folder of a volume file: CASE_lung*, or lung* where it is the folder's only case."""
    if path.is_dir() or not path.parent.is_dir():
        return ()
    masks = [item for item in entries(path.parent) if is_volume(item) and item.name != path.name]
    prefix = LUNG_PREFIX if _is_only_case(path) else f"{stem_of(path).lower()}_{LUNG_PREFIX}"
    return tuple(item for item in masks if item.name.lower().startswith(prefix))
