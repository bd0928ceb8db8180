"""Damaged and good files of every format that the example reads, from a seed."""

import gzip
import os
import random
import re
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

PICTURES = (".png", ".jpg", ".tif", ".bmp")
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".packed.nrrd", ".nhdr", ".mha", ".packed.mha", ".mhd")
SERIES = "series"
KINDS = (*PICTURES, *VOLUMES, SERIES)
# Numbers that headers are given.
ODD = ("0", "-1", "1", "100", "65536", "2147483647", "-2147483648", "1e30", "inf", "nan", "9" * 30, "", "x", "3 3")


def write_files(
    folder: Path, damaged: int, good: int, seed: int, kinds: tuple[str, ...] = KINDS
) -> tuple[list[Path], list[Path]]:
    """Write `damaged` damaged files and `good` good ones into `folder`, and give the paths of both, files and folders.

    The same seed writes the same files. Names say what was done to a file; `kinds`: what they are, before that.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    fine = [write_good(folder / f"good{number:04}", rng.choice(kinds), rng) for number in range(good)]
    bad = []
    for number in range(damaged):
        kind, damage = rng.choice(kinds), rng.choice(DAMAGES)
        path = write_good(folder / f"bad{number:04}_{damage.__name__}", kind, rng)
        bad.append(damage(path, rng))
    return bad, fine


def write_good(stem: Path, kind: str, rng: random.Random) -> Path:
    """Write a good picture, volume or DICOM series; its path, which is `stem` with the suffix of its kind."""
    values = np.random.default_rng(rng.randrange(2**32))
    if kind == SERIES:
        return _write_series(stem, _chest(values))
    path = stem.with_name(stem.name + kind)
    if kind in PICTURES:
        deep = kind in (".png", ".tif") and rng.random() < 0.3
        pixels = values.integers(0, 65536 if deep else 256, (40, 36)).astype(np.uint16 if deep else np.uint8)
        Image.fromarray(pixels).save(path)
        return path
    if kind.startswith(".nii"):
        nib.save(nib.Nifti1Image(_chest(values), np.diag([-2.0, -2.0, 3.0, 1.0])), path)
        return path
    image = sitk.GetImageFromArray(_chest(values).T)
    image.SetSpacing((2, 2, 3))
    sitk.WriteImage(image, str(path), useCompression=kind.startswith(".packed"))
    return path


def _chest(values: np.random.Generator) -> NDArray[np.int16]:
    hu = values.integers(-1000, 400, (24, 20, 6)).astype(np.int16)
    hu[:4] = -1000
    return hu


def _write_series(folder: Path, hu: NDArray[np.int16]) -> Path:
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(hu.shape[2]):
        image = sitk.GetImageFromArray(np.ascontiguousarray(hu.T[k : k + 1]))
        image.SetSpacing((2, 2, 3))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4",
            "0008|0018": f"1.2.3.4.{k}",
            "0020|0032": f"0\\0\\{3 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(image)
    return folder


def _inside(path: Path, rng: random.Random) -> Path:
    """The file to damage: `path`, one slice of a series, or the voxels of a header beside it."""
    if path.is_dir():
        return rng.choice(sorted(path.iterdir()))
    beside = sorted(item for item in path.parent.glob(f"{path.name.split('.')[0]}.*") if item != path)
    return beside[0] if beside and rng.random() < 0.3 else path


def flip_bits(path: Path, rng: random.Random) -> Path:
    """One to forty bits, half of the time among the first 400 bytes."""
    target = _inside(path, rng)
    content = bytearray(target.read_bytes())
    reach = min(len(content), 400) if rng.random() < 0.5 else len(content)
    for _ in range(rng.randint(1, 40)):
        content[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    target.write_bytes(content)
    return path


def cut_short(path: Path, rng: random.Random) -> Path:
    target = _inside(path, rng)
    content = target.read_bytes()
    target.write_bytes(content[: rng.randrange(len(content))])
    return path


def overwrite(path: Path, rng: random.Random) -> Path:
    """A stretch of zeros, ones or noise."""
    target = _inside(path, rng)
    content = bytearray(target.read_bytes())
    start = rng.randrange(len(content))
    length = min(rng.choice((4, 64, 4096)), len(content) - start)
    content[start : start + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    target.write_bytes(content)
    return path


def edit_header(path: Path, rng: random.Random) -> Path:
    """A field of the header, to a value that is odd but well written."""
    target = next(iter(sorted(path.iterdir()))) if path.is_dir() else path
    content = target.read_bytes()
    if path.name.endswith(".gz"):
        target.write_bytes(gzip.compress(_edit_nifti(gzip.decompress(content), rng)))
    elif path.name.endswith(".nii"):
        target.write_bytes(_edit_nifti(content, rng))
    elif path.name.endswith(".png"):
        target.write_bytes(_edit_png(content, rng))
    elif path.name.endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
        target.write_bytes(_edit_text(content, rng))
    else:
        reach = min(len(content) - 4, 900)
        start = rng.randrange(reach)
        target.write_bytes(content[:start] + rng.choice(_WORDS) + content[start + 4 :])
    return path


_WORDS = [struct.pack("<i", number) for number in (0, -1, 2**31 - 1, -(2**31), 65535, 2**24)]


def _edit_nifti(content: bytes, rng: random.Random) -> bytes:
    """One of dim, datatype, bitpix, pixdim, vox_offset, scl_slope, codes, quaternion or affine."""
    if rng.random() < 0.5:
        start = rng.choice((*range(40, 56, 2), 70, 72, 252, 254))
        field = struct.pack("<h", rng.choice((0, -1, 1, 7, 8, 32767, -32768, 64, 128, 2304, 1024)))
    else:
        start = rng.choice((*range(76, 108, 4), 108, 112, 116, *range(256, 328, 4)))
        field = struct.pack("<f", rng.choice((0.0, -1.0, 1e30, -1e30, float("inf"), float("nan"), 1e-30)))
    return content[:start] + field + content[start + len(field) :]


def _edit_png(content: bytes, rng: random.Random) -> bytes:
    """Width or height, with the right checksum."""
    header = bytearray(content[12:29])
    struct.pack_into(">I", header, rng.choice((4, 8)), rng.choice((0, 1, 5000, 65535, 2**31 - 1, 2**32 - 1)))
    return content[:12] + bytes(header) + struct.pack(">I", zlib.crc32(header)) + content[33:]


def _edit_text(content: bytes, rng: random.Random) -> bytes:
    """The value of a field, or one number of it."""
    lines = [match.span(1) for match in re.finditer(rb"^[A-Za-z ]+ ?[=:] ?([^\n]+)$", content[:600], re.MULTILINE)]
    start, end = rng.choice(lines)
    value, odd = content[start:end], rng.choice(ODD).encode()
    numbers = list(re.finditer(rb"[-\d.]+", value))
    if numbers and rng.random() < 0.7:
        chosen = rng.choice(numbers)
        odd = value[: chosen.start()] + odd + value[chosen.end() :]
    return content[:start] + odd + content[end:]


def swap_suffix(path: Path, rng: random.Random) -> Path:
    others = [kind for kind in (*PICTURES, *VOLUMES) if not path.name.endswith(kind)]
    return path.rename(path.with_name(path.name.split(".")[0] + rng.choice(others).replace(".packed", "")))


def replace_content(path: Path, rng: random.Random) -> Path:
    """Nothing, a pointer, a page, noise or an endless header in the file's place."""
    contents = (
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        b"<html>404</html>",
        rng.randbytes(3000),
        b"NRRD0004\n" + b"a" * 2**21,
        gzip.compress(bytes(2**24)),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    )
    _inside(path, rng).write_bytes(rng.choice(contents))
    return path


def not_a_file(path: Path, rng: random.Random) -> Path:
    """A named pipe, a socket, or a link that leads back or nowhere in the file's place."""
    target = _inside(path, rng)
    target.unlink()
    make = rng.choice((_pipe, _socket, _loop, _broken))
    make(target)
    return path


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _broken(path: Path) -> None:
    path.symlink_to("gone")


def _socket(path: Path) -> None:
    # The name of a socket has a hundred bytes at most; that of a folder may have more.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def lose_a_part(path: Path, rng: random.Random) -> Path:
    """The voxels beside a header, or slices of a series; of others, all but a folder of the name."""
    beside = sorted(item for item in path.parent.glob(f"{path.name.split('.')[0]}.*") if item != path)
    if path.is_dir():
        for item in rng.sample(sorted(path.iterdir()), rng.randint(1, 6)):
            item.unlink()
    elif beside:
        beside[0].unlink()
    else:
        path.unlink()
        path.mkdir()
    return path


def double(path: Path, rng: random.Random) -> Path:
    """The content twice; of a series, a slice twice."""
    if path.is_dir():
        shutil.copy(path / "2.dcm", path / "2_again.dcm")
    else:
        path.write_bytes(path.read_bytes() * 2)
    return path


def odd_name(path: Path, rng: random.Random) -> Path:
    """Only the suffix, a name that is not UTF-8, or the longest that there can be."""
    suffix = "".join(path.suffixes) or ".dcm"
    name = rng.choice(
        (path.name[:8].encode() + b"\xff\xfe" + suffix.encode(), f"{path.name[:8]:x<240}{suffix}".encode())
    )
    return path.rename(path.with_name(os.fsdecode(name)))


DAMAGES: tuple[Callable[[Path, random.Random], Path], ...] = (
    *(flip_bits, flip_bits, cut_short, overwrite, edit_header, edit_header, edit_header),
    *(swap_suffix, replace_content, not_a_file, lose_a_part, double, odd_name),
)
