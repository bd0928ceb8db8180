"""Raw volumes to a store, in parallel: what it takes, what is there already, and what went wrong."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np

from covidct.ct.content import reading
from covidct.ct.files import files_of
from covidct.ct.volume import CaseFacts, VolumeCase, load_volume, scan_case
from covidct.errors import InputError
from covidct.files import digest, not_written, read_json
from covidct.parallel import in_processes
from covidct.parallel import total_memory as total_memory
from covidct.store.preprocess import Spacing, preprocess, resampled_shape
from covidct.store.store import FACTS, REMAKE, CaseStore, InputState, read_case, write_case

# Bytes of a preprocessed voxel on the disk: 2 before compression, and what is usual after it (0.4 for LUNG1-001).
MOST_BYTES, USUAL_BYTES = 2.0, 0.6
# A worker holds its volume, two arrays while it resamples and the masks: at most 4 times the larger of volume and
# result in float32, and Python with its libraries.
VOLUMES_HELD, INTERPRETER = 4, 200 * 2**20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Needs:
    """Bytes that a preparation takes: on the disk usually and at most, and of memory for each worker."""

    disk: int
    most_disk: int
    worker: int


@dataclass(frozen=True)
class Outcome:
    """What became of a case: made, kept from before, repaired (its files were damaged), or failed, and why."""

    name: str
    state: Literal["made", "kept", "repaired", "failed"]
    message: str = ""


@dataclass(frozen=True)
class _Scanned:
    """Of a prepared case's facts, those that `scan_case` gave."""

    facts: CaseFacts


def survey(
    cases: Sequence[VolumeCase], root: Path, workers: int, progress: Progress | None = None
) -> tuple[dict[str, CaseFacts], dict[str, str]]:
    """Facts of the cases by name, and the message of each that cannot be read.

    Cases that the store at `root` has already are not read again, unless their files have changed.
    """
    found: dict[str, CaseFacts | str] = {}
    for name, result in in_processes(_scan, [(case, root) for case in cases], workers):
        found[name] = result
        if progress is not None:
            progress(len(found), len(cases))
    facts = {case.name: fact for case in cases if not isinstance(fact := found[case.name], str)}
    failures = {case.name: message for case in cases if isinstance(message := found[case.name], str)}
    return facts, failures


def median_spacing(facts: Iterable[CaseFacts]) -> Spacing:
    """Median over the cases of the voxels' length along each axis, (z, y, x) in mm, to a thousandth."""
    z, y, x = np.median([each.spacing for each in facts], axis=0).round(3).tolist()
    return z, y, x


def needs(facts: Iterable[CaseFacts], spacing: Spacing, root: Path) -> Needs:
    """What preparing the cases of `facts` at `spacing` takes; those that the store at `root` has take no more disk."""
    sizes = {each: (prod(each.shape), prod(resampled_shape(each.shape, each.spacing, spacing))) for each in facts}
    voxels = sum(result for each, (_, result) in sizes.items() if not (root / each.name / FACTS).is_file())
    largest = max(max(pair) for pair in sizes.values())
    return Needs(
        disk=int(voxels * USUAL_BYTES),
        most_disk=int(voxels * MOST_BYTES),
        worker=VOLUMES_HELD * 4 * largest + INTERPRETER,
    )


def fitting_workers(cases: int, worker_bytes: int) -> int:
    """As many workers as there are processors and cases, and as fit four fifths of the memory; at least one."""
    return max(1, min(usable_processors(), cases, int(0.8 * total_memory() / worker_bytes)))


def usable_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_disk(root: Path, need: Needs) -> int:
    """Free bytes where `root` is or will be; InputError if they are fewer than are usually needed."""
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < need.disk:
        raise InputError(
            f"--output {root}: about {gigabytes(need.disk)} are needed and {gigabytes(free)} are free; "
            "free some, or give another --output or a coarser --spacing"
        )
    return free


def gigabytes(count: int) -> str:
    """`count` bytes as a text."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def of_one_name(cases: Sequence[VolumeCase]) -> dict[str, str]:
    """Of cases that would share a folder of the store, by name, whose they are; capitals are not told apart."""
    owners: dict[str, list[VolumeCase]] = {}
    for case in cases:
        owners.setdefault(case.name.casefold(), []).append(case)
    return {
        case.name: f"{' and '.join(str(one.image) for one in several)} would share the folder {case.name}; rename one"
        for several in owners.values()
        for case in several
        if len(several) > 1
    }


def prepare(
    cases: Sequence[VolumeCase], facts: Mapping[str, CaseFacts], root: Path, spacing: Spacing, workers: int
) -> Iterator[Outcome]:
    """Preprocess the cases into the store at `root`, and give what became of each as it is done.

    A case that is there with the right checksums is kept; one whose files are damaged is made again. Killed at any
    moment and called again, it leaves the same bytes. InputError if a worker is killed; what is finished stays.
    """
    tasks = [(replace(case, lungs=()), facts[case.name], root, spacing) for case in cases]
    for _, outcome in in_processes(_prepare, tasks, workers):
        yield outcome


def input_files(case: VolumeCase) -> dict[str, Path]:
    """Each file that `case` is made from, by the last two parts of its path; InputError if one is not there."""
    found: dict[str, Path] = {}
    for path in (case.image, case.mask):
        files = () if path is None else files_of(path)
        found |= {"/".join(file.parts[-2:]): file for file in files}
    return found


def input_states(case: VolumeCase) -> dict[str, InputState]:
    """Bytes, time of change and SHA-256 of each of `input_files`."""
    return {name: [*_stamp(file), _digest(file)] for name, file in input_files(case).items()}


def compare_inputs(present: CaseStore, case: VolumeCase) -> Literal["same", "changed", "other"]:
    """Whether a stored case was made from the files of `case`, from an earlier content of them, or from others.

    other: names or sizes differ. A file is read, for its checksum, only where its time of change differs. Stores of the
    first version do not know of voxels beside their header: such a case counts as changed.
    """
    files = input_files(case)
    if not all(isinstance(state, list) and len(state) == 3 for state in present.inputs.values()):
        return "changed"
    sizes = {name: _stamp(file)[0] for name, file in files.items()}
    known = {name: state[0] for name, state in present.inputs.items()}
    if known != sizes:
        return "changed" if known and known.items() <= sizes.items() else "other"
    moved = [name for name, file in files.items() if [*present.inputs[name][:2]] != _stamp(file)]
    return "same" if all(_digest(files[name]) == present.inputs[name][2] for name in moved) else "changed"


def _stamp(file: Path) -> list[int]:
    with reading(file):
        state = file.stat()
    return [state.st_size, state.st_mtime_ns]


def _digest(file: Path) -> str:
    with reading(file):
        return digest(file)


def _scan(case: VolumeCase, root: Path) -> CaseFacts | str:
    try:
        present = _present(case, root)
        if present is not None and compare_inputs(present, case) == "same":
            return read_json(present.folder / FACTS, _Scanned, fix=REMAKE.format(present.folder)).facts
        return scan_case(replace(case, lungs=()))
    except InputError as error:
        return str(error)
    except MemoryError:
        return f"{case.image}: not enough memory to read it; run again with fewer --workers"


def _present(case: VolumeCase, root: Path) -> CaseStore | None:
    return read_case(root / case.name) if (root / case.name / FACTS).is_file() else None


def _prepare(case: VolumeCase, facts: CaseFacts, root: Path, spacing: Spacing) -> Outcome:
    try:
        present = _present(case, root)
        if present is None and os.path.lexists(root / case.name):
            raise InputError(f"{root / case.name} is there and is no case of this store; move or delete it")
        known = "other" if present is None else compare_inputs(present, case)
        if present is not None and known == "other":
            raise InputError(
                f"{root / case.name} was made from other files than those of {case.image} (their sizes differ); "
                "delete that folder, or give another --output"
            )
        if present is not None and known == "same" and present.is_intact():
            return Outcome(case.name, "kept")
        # Noted before they are read: what changes meanwhile is seen the next time.
        _make(case, facts, root, spacing, input_states(case))
    except InputError as error:
        return Outcome(case.name, "failed", str(error))
    except MemoryError:
        return Outcome(case.name, "failed", f"{case.image}: not enough memory; run again with fewer --workers")
    except OSError as error:
        return Outcome(case.name, "failed", not_written(root / case.name, error))
    return Outcome(case.name, "repaired" if known == "same" else "made")


def _make(case: VolumeCase, facts: CaseFacts, root: Path, spacing: Spacing, inputs: Mapping[str, InputState]) -> None:
    volume = load_volume(case)
    lesions = volume.image[:0].ravel() if volume.mask is None else volume.image[volume.mask]
    result = preprocess(volume, spacing)
    del volume  # before anything more is allocated
    write_case(root, case.name, result, patient=case.patient, inputs=inputs, facts=asdict(facts), lesion_values=lesions)
