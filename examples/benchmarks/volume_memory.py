"""Peak memory of sliding windows over a large CT, 512 x 512 x 600 voxels unless told otherwise.

The network is a single convolution: what is measured is what volume, windows, sums and result take. Every row is a
process of its own; its peak is the system's count of resident memory (ru_maxrss), less that of the same process before
the volume was made.
"""

import multiprocessing
import resource
import sys
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from results import README, parser, publish, table
from torch import nn

sys.path.insert(0, str(README.parents[1] / "covid_ct"))

from covidct.ct.grid import Grid
from covidct.ct.volume import Volume, VolumeCase
from covidct.store.preprocess import place, preprocess
from covidct.volumes.inference import predict_volume

PATCH = (56, 160, 192)
SPACING, TARGET = (1.0, 0.7, 0.7), (1.5, 0.8, 0.8)
ROWS = {
    "box": "predict_volume, the body's box",
    "whole": "predict_volume, whole grid",
    "resampled": "preprocess, predict_volume, back to the volume's grid",
}


def chest(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Air of 42, an elliptic body of 212 over three quarters of the width, two lungs of 68: values of the window."""
    y, x = np.ogrid[-1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    section = np.full(shape[1:], 42, dtype=np.float32)
    section[(y / 0.55) ** 2 + (x / 0.75) ** 2 < 1] = 212
    for side in (-0.35, 0.35):
        section[(y / 0.35) ** 2 + ((x - side) / 0.25) ** 2 < 1] = 68
    return np.repeat(section[None], shape[0], axis=0)


def peak(row: str, shape: tuple[int, int, int]) -> tuple[float, float]:
    """Bytes of the volume and of the peak that it was part of."""
    torch.set_num_threads(1)
    model = nn.Conv3d(1, 1, 3, padding=1).eval()
    # Loads what is loaded lazily.
    predict_volume(model, np.zeros((4, 4, 4), dtype=np.float32), patch_size=(4, 4, 4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = chest(shape)
    if row == "resampled":
        case = VolumeCase("chest", Path("chest"), None, None, None, (), "hu", patient="chest")
        depth, height, width = shape
        grid = Grid((width, height, depth), np.diag([*SPACING[::-1], 1.0]), io_orientation(np.eye(4)))
        volume = Volume(case, image, True, SPACING, None, None, grid)
        prepared = preprocess(volume, TARGET)
        placement = place(image, SPACING, TARGET)
        placement.back(predict_volume(model, prepared.image, patch_size=PATCH))
    else:
        predict_volume(model, image, patch_size=PATCH, body=row == "box")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return image.nbytes, (after - before) * unit


def main() -> None:
    options = _options()
    rows = []
    for row, title in ROWS.items():
        # A process each: a peak is never forgotten.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            size, most = pool.submit(peak, row, tuple(options.shape)).result()
        rows.append([title, f"{most / 2**30:.2f}", f"{most / size:.2f}"])
    lines = table(["", "peak with the volume, GiB", "times the volume as float32"], rows)
    publish("volume-memory", lines, ["monai"], options)


def _options() -> Namespace:
    options = parser(__doc__ or "", repeats=1)
    options.add_argument("--shape", type=int, nargs=3, default=[600, 512, 512], help="z y x")
    return options.parse_args()


if __name__ == "__main__":
    main()
