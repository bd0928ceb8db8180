"""The coronacases slices of COVID-SemiSeg's unlabelled set, brought to the orientation and grey scale of the others.

What the folder Pseudo-label holds was measured over all of its 1,600 pictures, beside the 50 labelled ones (medians
over pictures; grey values are 0..255; the spine is where more of the bone in the middle rows lies; a picture's soft
tissue is its most frequent grey value from 60 on):

    family        pictures   mean grey   spine                   soft tissue            lung
    labelled      50         137         right                   214 (185 to 249)       45
    radiopaedia   481        148         right                   202 to 249             43 to 88
    coronacases   1,119      59          left, in every one      101 (77 to 125)        14

Orientation. The labelled slices have anterior to the left and the patient's right on top. In coronacases anterior is to
the right, and the dome of the liver is on top, that of the stomach and spleen below (scans 003, 004 and 006 to 010,
whose slices reach so low): columns are mirrored, rows are not, so it is no turn by 180 degrees.

Grey values. The labelled and radiopaedia slices were saved in a window of about HU [-1250, 250]: soft tissue is at 221
there. In coronacases the largest value is 255 in every picture but for the noise of JPEG (241 at least) while soft
tissue moves from slice to slice, by 7 % within a scan, and does so where bone comes and goes: every picture was
stretched from its own smallest to its own largest HU, without a window. The smallest is -1024, the least that scanners
store: with it, and soft tissue at HU 45, the air beside the body comes out at -993 (scan 003) and -985 (008), that of
the trachea at -965 (median of ten scans, 609 pictures) and lung at -870, as they should. So the soft tissue of a
picture tells its scale: HU = -1024 + grey * (45 + 1024) / soft tissue. The mean grey is then 145, between that of the
labelled and of the radiopaedia slices. A fault of 10 HU in soft tissue moves it by 1.7 of 255.

Crop. The pictures are cropped to the lungs already, with 2 to 3 % a side (the radiopaedia ones as well; the labelled
ones 0 to 1 %), so they stay as they are: a tighter crop would have to be found from what is dark, and cuts off lung
that is consolidated at the back (18 % of the width in scan 003), which is lesion.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from covidct.ct.volume import to_window

PREFIX = "Data-1_coronacases_org_"
# HU of grey value 0, and of blood and muscle without contrast.
LEAST, SOFT = -1024.0, 45.0
WINDOWED_SOFT = float(to_window(np.array([SOFT]))[0])
# Soft tissue of a picture as published lies between them; in the window at 185 and more.
DARKEST, BRIGHTEST = 60, 150
# Of a picture in the window at least this share is brighter than that (35 % to 89 %, measured); as published only bone
# is (0.4 % to 4.6 %).
WINDOWED = 0.15
# Bone is brighter than soft tissue by this factor: about HU 200 as published, 230 in the window.
BONE = 1.13
# Rows, as shares of the height, in which the spine lies.
MIDDLE = (0.3, 0.7)


def is_coronacases(name: str) -> bool:
    """Whether a slice of COVID-SemiSeg, by its name, is one of this family."""
    return name.startswith(PREFIX)


def as_labelled(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """A coronacases slice, (H, W) in 0..255 as published, as the labelled slices are: anterior left, HU [-1250, 250].

    The picture is asked itself whether the spine is on the left and whether soft tissue is darker than in the window,
    each by itself: what was mirrored or windowed before stays so, and a second call changes nothing.
    """
    windowed = float((image >= BRIGHTEST).mean()) >= WINDOWED
    soft = WINDOWED_SOFT if windowed else _soft_tissue(image)
    upright = image[:, ::-1] if _spine_is_left(image, BONE * soft) else image
    if windowed:
        return np.ascontiguousarray(upright)
    return to_window(LEAST + upright * ((SOFT - LEAST) / soft))


def _soft_tissue(image: NDArray[np.float32]) -> float:
    """The most frequent grey value among those that only soft tissue has, to a part of one."""
    counts = np.bincount(image.round().astype(np.uint8).ravel(), minlength=256).astype(float)
    smooth = gaussian_filter1d(counts, 1.0)
    peak = DARKEST + int(np.argmax(smooth[DARKEST:BRIGHTEST]))
    before, at, after = smooth[peak - 1 : peak + 2]
    bend = before - 2 * at + after
    return peak + (float(0.5 * (before - after) / bend) if bend < 0 else 0.0)


def _spine_is_left(image: NDArray[np.float32], bone: float) -> bool:
    height, width = image.shape
    rows = image[int(MIDDLE[0] * height) : int(MIDDLE[1] * height)] > bone
    return int(rows[:, : width // 2].sum()) > int(rows[:, (width + 1) // 2 :].sum())
