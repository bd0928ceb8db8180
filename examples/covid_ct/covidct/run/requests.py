"""What evaluate.py and predict.py are asked for on the command line, as the wings take it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from covidct.errors import InputError

Region = Literal["body", "lungs", "all"]


@dataclass(frozen=True)
class Evaluation:
    """Score runs on the test images of their fold (or of the published split) and print a table.

    Scores of slices: at_0.5 is the mask at probability 0.5; table_v_hard and table_v_soft are the mean over 256
    thresholds of the paper's Table V, of that mask (as the paper fed it for the nnU-Net family) and of the
    probabilities; max is the best threshold of the mean soft curve.

    Scores of volumes: DSC, and NSD at 3 mm, of the mask at probability 0.5 on the file's own grid. What a run has
    scored already, from the same weights, settings and files, is not computed again. A volume that cannot be used is
    reported, the others are still done, and the exit code is then 2.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
    ]
    """Run folders written by train.py; each gets a new metrics.json and metrics.csv."""
    data: Path | None = None
    """Where the data set lies now, if it is not where the run was trained."""
    folds: bool = False
    """Pool the images of runs that differ in nothing but their fold: every evaluation counts once, whatever its fold.
    For volumes this is the five-fold table; folds.json and folds.csv are written, too."""
    flips: bool = False
    """Average over the mirrorings of all axes (runs of presets cpu and paper always do)."""
    region: Region = "body"
    """Volumes only: where windows are laid. body: its box; lungs: the lung masks' box; all: everywhere."""
    by_patient: bool = False
    """Volumes only: leave out the test scan whose patient the run was trained on (folds 2 and 4 have one each)."""
    output: Path | None = None
    """Volumes only: folder of folds.json and folds.csv; the one that holds the first run by default."""


@dataclass(frozen=True)
class Prediction:
    """Write a lesion mask for every input: of pictures by a run on slices, of volumes by a run on volumes.

    Pictures get a PNG (0 and 255) of the same size and stem. They must look like those of the run's training set: your
    own where it was trained on those (any depth is read then), else axial
    slices in the lung window (black at HU -1250, white at HU 250), cropped to the lungs. COVID-SemiSeg's are also
    rotated by 90 degrees, the front of the body to the left: rotate yours likewise, or the masks will be poor. Colours
    are turned to grey; in 16-bit grey, white is 65535. A picture is read in the orientation that its EXIF (or TIFF) tag
    declares, as viewers show it, and its mask has that size; files of several frames, or of more than 6000 x 6000
    pixels, are refused.

    Volumes (NIfTI, NRRD, MHA, or the folder of a DICOM series; HU, or HU -1250 to 250 as 0 to 255) get STEM.nii.gz (0
    and 1) with the same grid and affine, STEM.png with the slices of most lesion, STEM.json with the lesion's volume in
    ml and, where a lung mask is known, in percent of the lung. For the folder of a DICOM series, and for one with
    ct.nii.gz or image.nii.gz in it, STEM is the folder's name. What is there already from the same weights, settings
    and files is not computed again.

    A file that cannot be used is reported, the others are still done, and the exit code is then 2. Inputs, and files
    that another program wrote, are never replaced; what an earlier call wrote is, and is no input where it lies in a
    folder of inputs.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder written by train.py."""
    inputs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="INPUT [INPUT ...]", help_behavior_hint="(required)"),
    ]
    """PNG or JPG files, volumes, or folders of them (all that lie directly inside, sorted)."""
    output: Path
    """Folder for the masks; made if absent."""
    probabilities: bool = False
    """Also write STEM_probability.png: 16-bit grey, 65535 for probability 1; of volumes STEM_probability.nii.gz."""
    flips: bool = False
    """Average over the mirrorings of all axes (runs of presets cpu and paper always do)."""
    lungs: tuple[Path, ...] = ()
    """Volumes only: lung masks of a single input, or a folder of masks with the inputs' names. Without, masks beside
    the input are taken: STEM_lung*, and lung* in a folder whose only case is ct.nii.gz or bears the folder's name."""
    region: Region = "body"
    """Volumes only: where windows are laid. body: its box; lungs: the lung masks' box; all: everywhere."""


def unused_output(output: Path) -> InputError:
    """What to raise where `evaluate.py --output` has nothing to write."""
    return InputError(f"--output {output} is for the table of --folds of volumes; leave it out")
