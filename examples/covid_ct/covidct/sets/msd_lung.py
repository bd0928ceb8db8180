"""Medical Segmentation Decathlon, Task06_Lung: tumours of the lung."""

from pathlib import Path

from covidct.sets.nnunet_raw import nnunet_cases
from covidct.sets.volume_set import VolumeSet, below


def read_msd_lung(folder: Path) -> VolumeSet:
    """The 63 training volumes of `Task06_Lung`, lung_001 and so on, in HU; label 1 is tumour.

    `folder` is Task06_Lung or what it was unpacked into. The 32 volumes of imagesTs have no masks.
    """
    root = below(folder, "Task06_Lung") or folder
    return VolumeSet("msd-lung", *nnunet_cases(root, None, (0, 1)))
