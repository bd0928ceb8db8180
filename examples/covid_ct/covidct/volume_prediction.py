"""Lesion masks of volumes without labels: files in, NIfTI masks, figures and lesion volumes out."""

import glob
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from covidct.data.preprocess import Plan
from covidct.data.volume_cases import IMAGE_NAMES, LUNG_PREFIX, MASK_ENDINGS
from covidct.data.volume_files import SUFFIXES
from covidct.data.volumes import Volume, VolumeCase, load_volume
from covidct.errors import InputError
from covidct.files import entries
from covidct.metrics import binarise
from covidct.volume_figures import draw_lesions
from covidct.volume_metrics import millilitres
from covidct.volume_records import begin, origin, record, recorded
from covidct.volume_segmentation import Settings, segment


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
    """What was found: lesion and lung in millilitres, and lesion in percent of the lung, where a lung mask is known.

    notes: what is odd about the file but was read all the same.
    """

    name: str
    lesion_ml: float
    lung_ml: float | None
    percent_of_lung: float | None
    notes: tuple[str, ...] = ()


def plan_volumes(
    inputs: Iterable[Path],
    output: Path,
    *,
    lungs: Sequence[Path] = (),
    probabilities: bool = False,
) -> list[Job]:
    """What will be read and written; InputError if two results would share a file or replace one of the inputs.

    Args:
        inputs: NIfTI, NRRD or MHA files, folders of them, or folders of a DICOM series.
        output: folder of the results.
        lungs: lung masks: files for a single input, or a folder of masks that are named as the inputs. Without, those
            beside an input are taken: CASE_lung*, and in a folder of one case the files that begin with lung.
        probabilities: write them, too.
    """
    found = volume_inputs(inputs)
    jobs, owners = [], {}
    for path in found:
        name = stem_of(path)
        if name in owners:
            raise InputError(f"{owners[name]} and {path} would both be written to {output / name}.nii.gz; rename one")
        owners[name] = path
        masks = _lungs_of(path, lungs, len(found))
        job = Job(
            case=VolumeCase(name, path, None, None, None, masks, "hu", patient=name),
            mask=output / f"{name}.nii.gz",
            picture=output / f"{name}.png",
            probability=output / f"{name}_probability.nii.gz" if probabilities else None,
            record=output / f"{name}.json",
        )
        taken = {other.resolve() for other in (*found, *masks)}
        for result in job.results:
            if result.resolve() in taken:
                raise InputError(f"{result} is an input and would be replaced; give another --output")
            if result.exists() and not job.record.exists():
                raise InputError(
                    f"{result} is there, was not written by predict.py, and would be replaced; give another --output"
                )
        jobs.append(job)
    return jobs


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
    came_from = origin(run, asdict(settings), (job.case.image, *job.case.lungs))
    kept = recorded(job.record, came_from, job.results)
    if kept is not None:
        return Report(**kept | {"notes": tuple(kept["notes"])}), False
    for result in (*job.results, job.record):
        # What a process that was killed while it wrote has left.
        for leftover in result.parent.glob(f".{glob.escape(result.name)}.*"):
            leftover.unlink()
    volume = load_volume(job.case)
    probability = segment(model, volume, plan, settings, progress=progress)
    mask = binarise(probability)
    report = _report(mask, volume)
    begin(job.record, came_from)
    try:
        if job.probability is not None:
            volume.grid.save_mask(job.probability, probability, np.float32)
        volume.grid.save_mask(job.mask, mask, np.uint8)
    except OSError as error:
        raise InputError(f"{job.mask} cannot be written ({error.strerror}); free space there") from None
    draw_lesions(job.picture, volume.image, mask, volume.spacing, title=describe(report))
    record(job.record, came_from, asdict(report))
    return report, True


def describe(report: Report) -> str:
    """One line for the screen and the picture's title."""
    share = "" if report.percent_of_lung is None else f", {report.percent_of_lung:.1f} % of the lung"
    return f"{report.name}: lesion {report.lesion_ml:.1f} ml{share}"


def volume_inputs(inputs: Iterable[Path]) -> list[Path]:
    """The volumes that `inputs` name, each once; InputError for a path that is none."""
    found: dict[Path, Path] = {}
    for path in inputs:
        for volume in _volumes_in(path) if path.is_dir() else [_checked(path)]:
            found.setdefault(volume.resolve(), volume)
    if not found:
        raise InputError("no INPUT was given; name the volumes or folders to predict")
    return list(found.values())


def stem_of(path: Path) -> str:
    """The name of a volume without its suffix; a DICOM folder's own name."""
    ending = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    return path.resolve().name if path.is_dir() else path.name[: len(path.name) - len(ending)]


def _report(mask: NDArray[np.bool_], volume: Volume) -> Report:
    lesion = millilitres(mask, volume.spacing)
    # Lesion counts as lung where the lung mask leaves it out, as masks of aerated lung do.
    lung = None if volume.lungs is None else millilitres(volume.lungs | mask, volume.spacing)
    return Report(
        name=volume.case.name,
        lesion_ml=lesion,
        lung_ml=lung,
        percent_of_lung=100 * lesion / lung if lung else None,
        notes=volume.notes,
    )


def _volumes_in(folder: Path) -> list[Path]:
    """The volumes directly inside, without the masks of others there; without any, the folder itself, a DICOM series.

    In a folder of one case (ct.nii.gz, or named as the folder) only that file is a volume.
    """
    files = [path for path in entries(folder) if path.is_file() and not path.name.startswith(".")]
    volumes = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    only = [path for path in volumes if _is_only_case(path)]
    stems = {stem_of(path).lower() for path in volumes}
    found = only or [path for path in volumes if not _is_mask(stem_of(path).lower(), stems)]
    if not files:
        raise InputError(f"{folder} is empty; give NIfTI, NRRD or MHA files, or the folder of a DICOM series")
    return found or [folder]


def _is_only_case(path: Path) -> bool:
    return stem_of(path).lower() in (*IMAGE_NAMES, path.resolve().parent.name.lower())


def _is_mask(stem: str, stems: set[str]) -> bool:
    """Whether it is CASE_mask, CASE_lung or the like of another CASE."""
    endings = "|".join((*MASK_ENDINGS, f"_{LUNG_PREFIX}[^_]*"))
    return (case := re.sub(f"({endings})$", "", stem)) != stem and case in stems


def _checked(path: Path) -> Path:
    if path.exists() and not path.name.lower().endswith(SUFFIXES):
        raise InputError(
            f"{path} is no volume by its name; expected {', '.join(SUFFIXES)}, or the folder of a DICOM series"
        )
    return path


def _lungs_of(path: Path, given: Sequence[Path], count: int) -> tuple[Path, ...]:
    if not given:
        return _lungs_beside(path)
    files = [item for item in given if not item.is_dir()]
    if files and count > 1:
        raise InputError(
            f"--lungs {files[0]} is one mask and there are {count} volumes; give a folder of masks named as the volumes"
        )
    named = [mask for item in given if item.is_dir() for mask in entries(item) if stem_of(mask) == stem_of(path)]
    if not files and not named:
        raise InputError(f"--lungs {given[0]} holds no mask named {stem_of(path)}; add it or leave --lungs out")
    return (*files, *named)


def _lungs_beside(path: Path) -> tuple[Path, ...]:
    """Lung masks in the folder of a volume file: CASE_lung*, or lung* where it is the folder's only case."""
    if path.is_dir() or not path.parent.is_dir():
        return ()
    masks = [item for item in entries(path.parent) if item.name.lower().endswith(SUFFIXES) and item.name != path.name]
    prefix = LUNG_PREFIX if _is_only_case(path) else f"{stem_of(path).lower()}_{LUNG_PREFIX}"
    return tuple(item for item in masks if item.name.lower().startswith(prefix))
