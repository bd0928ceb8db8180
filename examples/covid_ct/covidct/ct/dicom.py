"""The folder of a DICOM series as one volume."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from covidct.ct.content import check_fetched, check_path, head_of, kind_of, reading, unreadable
from covidct.ct.dicom_elements import check_lengths, storage_of
from covidct.ct.grid import check_memory, skew_of
from covidct.ct.itk import quiet
from covidct.errors import InputError
from covidct.files import entries

# Nothing stands between slices further apart than this times their usual distance.
_GAP = 1.5
# Components of a slice's normal may differ by this from one to the next, as by rounding.
_TURNED = 1e-3
# Pixels that a byte of a packed slice can become, at most.
_MOST = 1032
# Storage classes of files that hold many frames, whose places stand beside the frames and not in the file's own tags.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_CT = "2"
_FRAMES = {
    "2.1": "Enhanced CT Image Storage",
    "2.2": "Legacy Converted Enhanced CT Image Storage",
    "4.1": "Enhanced MR Image Storage",
    "4.4": "Legacy Converted Enhanced MR Image Storage",
    "130": "Enhanced PET Image Storage",
    "128.1": "Legacy Converted Enhanced PET Image Storage",
    "7.2": "Multi-frame Grayscale Byte Secondary Capture Image Storage",
    "7.3": "Multi-frame Grayscale Word Secondary Capture Image Storage",
    "7.4": "Multi-frame True Color Secondary Capture Image Storage",
}


def read_series(folder: Path) -> tuple[Any, NDArray[np.float64]]:
    """The ITK image of the one series in `folder`, and where its voxels are: indices to mm in ITK's world.

    ITK keeps the distance and the plane of the slices. Where each is shifted within that plane against the one before,
    as by a gantry's tilt, the matrix follows the slices' own positions. Errors as `open_volume`.
    """
    frames, whole = _look_through(folder)
    reader = sitk.ImageSeriesReader()
    with reading(folder), quiet():
        names = reader.GetGDCMSeriesIDs(str(folder))
        series = {name: list(reader.GetGDCMSeriesFileNames(str(folder), name)) for name in names}
    listed = {Path(file).name for files in series.values() for file in files}
    files = _only_series(folder, series, frames)
    if lost := sorted(whole - listed):
        raise unreadable(folder / lost[0], "it is called or marked as a slice, and no series is found in it")
    positions, normals = _placed(folder, files)
    with reading(folder), quiet():
        reader.SetFileNames(files)
        image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    followed = _along(folder, positions, normals, affine)
    return image, followed if skew_of(followed[:3, :3]) else affine


def check_no_slice(path: Path, head: bytes) -> None:
    """InputError if `path` is a DICOM file by its first bytes: one slice of a series, or one that holds many frames."""
    if kind_of(head) != "DICOM":
        return
    storage = storage_of(head).removeprefix(_STORAGE)
    if storage in _FRAMES:
        raise _of_frames(path, _FRAMES[storage])
    raise InputError(f"{path} is one file of a DICOM series by its content; give the folder of the whole series")


def _look_through(folder: Path) -> tuple[dict[str, str], set[str]]:
    """Names of the files in `folder` that hold many frames, with what they are, and of those that should be slices.

    GDCM opens every file there, and would wait at a named pipe for ever or leave out what it cannot read.
    """
    frames, slices = {}, set()
    for path in entries(folder):
        check_path(path)
        if path.is_dir():
            continue
        head = head_of(path)
        check_fetched(path, head)
        storage = storage_of(head).removeprefix(_STORAGE)
        if storage in _FRAMES:
            frames[path.name] = _FRAMES[storage]
        elif storage == _CT or (path.suffix.lower() == ".dcm" and not path.name.startswith(".")):
            slices.add(path.name)
        if kind_of(head) == "DICOM":
            check_lengths(path)
    return frames, slices


def _only_series(folder: Path, series: dict[str, list[str]], frames: dict[str, str]) -> list[str]:
    """The files of the one series that has several, in their order along the body."""
    # Structure sets and segmentations are one file each.
    several = {name: files for name, files in series.items() if len(files) > 1}
    held = [Path(file).name for files in (several or series).values() for file in files if Path(file).name in frames]
    if held and len(several) < 2:
        raise _of_frames(folder / held[0], frames[held[0]])
    if len(several) == 1:
        return next(iter(several.values()))
    alone = f" of more than one file, but {len(series)} of a single one" if series else ""
    found = (
        f"{len(several)} DICOM series of more than one file ({', '.join(several)})" if several else "no DICOM series"
    )
    raise InputError(
        f"{folder} holds {found}{'' if several else alone}; give a folder with the files of exactly one CT series"
    )


def _placed(folder: Path, files: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position and normal of every slice, (n, 3) each; InputError where sizes differ or are not those of the files."""
    positions, normals, shapes, need = [], [], set(), 0
    for file in files:
        reader = sitk.ImageFileReader()
        with reading(Path(file)), quiet():
            reader.SetFileName(file)
            reader.ReadImageInformation()
            normals.append(np.array(reader.GetDirection()).reshape(3, 3)[:, 2])
            positions.append(reader.GetOrigin())
            shape, components = reader.GetSize(), reader.GetNumberOfComponents()
        if shape[2] > 1:
            raise _of_frames(Path(file), f"{shape[2]} frames")
        if components > 1:
            raise InputError(f"{file} has colours or vectors; give the folder of a CT series")
        shapes.add(shape)
        need = math.prod(shape)
        if need > _MOST * Path(file).stat().st_size:
            raise unreadable(Path(file), f"its header declares {shape[0]} x {shape[1]} pixels, more than it can hold")
    if len(shapes) > 1:
        sizes = ", ".join(sorted(f"{shape[0]} x {shape[1]}" for shape in shapes))
        raise InputError(f"{folder}: its slices have {len(shapes)} sizes ({sizes}); give the files of one CT series")
    check_memory(folder, (*shapes.pop()[:2], len(files)))
    return np.array(positions), np.array(normals)


def _along(
    folder: Path, positions: NDArray[np.float64], normals: NDArray[np.float64], affine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`affine` with the step from slice to slice that the positions say; InputError where it is not one step."""
    if not np.isfinite([positions, normals]).all() or not abs(np.linalg.det(affine[:3, :3])) > 0:
        raise InputError(f"{folder}: the positions in its files place no voxel; export the series again")
    if np.abs(normals - normals[0]).max() > _TURNED:
        raise InputError(f"{folder}: its slices lie in different planes; give the files of one CT series")
    gaps = np.abs(np.diff(positions @ normals[0]))
    usual = float(np.median(gaps))
    if usual == 0:
        raise InputError(f"{folder}: its slices all have one position, or none; export the series again")
    if gaps.max() > _GAP * usual or gaps.min() < usual / _GAP:
        raise InputError(
            f"{folder}: its slices are {gaps.min():g} to {gaps.max():g} mm apart, usually {usual:g}; "
            "some are missing or there twice: fetch the series again"
        )
    followed = affine.copy()
    followed[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    followed[:3, 3] = positions[0]
    off = positions - (positions[0] + np.arange(len(positions))[:, None] * followed[:3, 2])
    # Half a voxel is another place.
    if np.abs(np.linalg.solve(affine[:3, :3], off.T)).max() > 0.5:
        raise InputError(
            f"{folder}: its slices do not follow a straight line at even distances, but lie up to "
            f"{np.linalg.norm(off, axis=1).max():.1f} mm off; give the files of one scan, or resample it"
        )
    return followed


def _of_frames(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} is one DICOM file of many frames ({what}), which is not read; convert it to NIfTI, "
        "for instance with dcm2niix, and give that"
    )
