"""The paper's Tables III to VI: their rows, which runs belong to each, the figures printed there, what is compared.

Source of every figure: Zhang et al., IEEE Journal of Biomedical and Health Informatics 25(11), 2021,
doi 10.1109/JBHI.2021.3106341. None of them was measured with this code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# What the images are, as the wings call them: "volumes" or "slices".
Kind = str
TableName = Literal["III", "IV", "V", "VI"]

HEADING = "paper (Zhang et al. 2021), not measured here"

# Names as in metrics.json, and as the tables print them.
MEASURES: Mapping[Kind, Mapping[str, str]] = {
    "volumes": {"dsc": "DSC", "nsd": "NSD at 3 mm"},
    "slices": {"dice": "Dice", "sensitivity": "Sensitivity", "specificity": "Specificity", "mae": "MAE"},
}
# What the 256 thresholds of Table V cut: a mask of the nnU-Net family, probabilities of the others.
HARD, SOFT = "table_v_hard", "table_v_soft"
# At which every system is scored alike, whatever it was fed as in the paper.
ALIKE = "at_0.5"


@dataclass(frozen=True)
class Figure:
    """A printed mean, with the standard deviation and the means of folds 0 to 4 where they are printed."""

    mean: float
    deviation: float | None = None
    folds: tuple[float, ...] = ()


@dataclass(frozen=True)
class PaperRow:
    """One row: its title, the runs that belong to it, the printed figures by measure.

    method: of the runs, as train.py names it.
    source: the sets that the lesions of other diseases come from; None: any.
    on_slices: the title over runs on slices, where the paper's row is of volumes.
    fed: which scores of slices the paper's table gives of such a system.
    """

    title: str
    method: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    source: frozenset[str] | None = None
    on_slices: str = ""
    fed: str = HARD


@dataclass(frozen=True)
class PaperTable:
    """One table.

    kinds: of runs that the table can be made of; the figures are of the first.
    reference: title of the row that every other one is compared with.
    gain: whether a difference is the reference minus the other row, what the method gains, or the other way round.
    """

    name: TableName
    title: str
    kinds: tuple[Kind, ...]
    rows: tuple[PaperRow, ...]
    reference: str
    gain: bool
    note: str

    def row(self, title: str) -> PaperRow:
        """The row of that title."""
        return next(row for row in self.rows if row.title == title)


def _volume(dsc: str, nsd: str) -> dict[str, Figure]:
    """Figures of a row as Tables III and IV print them: five folds, mean±deviation."""
    return {"dsc": _folds(dsc), "nsd": _folds(nsd)}


def _folds(text: str) -> Figure:
    *folds, average = text.split()
    mean, deviation = average.split("±")
    return Figure(float(mean), float(deviation), tuple(map(float, folds)))


def _slice(text: str) -> dict[str, Figure]:
    """Figures of a row as Tables V and VI print them, in the order of `MEASURES`."""
    values = map(float, text.split())
    return {measure: Figure(value) for measure, value in zip(MEASURES["slices"], values, strict=True)}


_NNUNET_3D = PaperRow(
    "3D nnUNet",
    "unet",
    _volume(
        "0.681 0.713 0.662 0.681 0.627 0.673±0.223",
        "0.709 0.718 0.717 0.708 0.649 0.700±0.224",
    ),
    on_slices="2D nnUNet",
)
_OURS_3D = _volume(
    "0.723 0.728 0.718 0.720 0.625 0.703±0.193",
    "0.756 0.760 0.790 0.771 0.631 0.742±0.203",
)
_NNUNET_NOTE = (
    "The paper's DSC of 3D nnUNet are those that the benchmark of the data set (Ma et al. 2021) published, rounded."
)

_III = (
    _NNUNET_3D,
    PaperRow(
        "Ours (baseline)",
        "baseline",
        _volume(
            "0.689 0.721 0.712 0.720 0.632 0.695±0.205",
            "0.709 0.747 0.770 0.764 0.649 0.728±0.216",
        ),
    ),
    PaperRow(
        "Ours (L_G)",
        "general",
        _volume(
            "0.701 0.727 0.727 0.710 0.625 0.699±0.210",
            "0.747 0.758 0.790 0.763 0.648 0.740±0.221",
        ),
    ),
    PaperRow(
        "Ours (L_T)",
        "target",
        _volume(
            "0.696 0.725 0.729 0.699 0.638 0.697±0.204",
            "0.744 0.756 0.796 0.752 0.654 0.739±0.213",
        ),
    ),
    PaperRow("Ours (L_G + L_T)", "ours", _OURS_3D),
)

_IV = (
    _NNUNET_3D,
    PaperRow(
        "Pre-train on MSD",
        "finetune",
        _volume(
            "0.679 0.706 0.724 0.708 0.623 0.688±0.201",
            "0.706 0.708 0.785 0.724 0.642 0.713±0.225",
        ),
        source=frozenset({"msd-lung"}),
    ),
    PaperRow(
        "Pre-train on NSCLC",
        "finetune",
        _volume(
            "0.696 0.716 0.673 0.690 0.579 0.671±0.228",
            "0.714 0.720 0.734 0.707 0.590 0.693±0.248",
        ),
        source=frozenset({"nsclc-pe"}),
    ),
    PaperRow(
        "Pre-train on Multi-lesion*",
        "finetune",
        _volume(
            "0.702 0.736 0.703 0.725 0.612 0.696±0.213",
            "0.715 0.730 0.755 0.754 0.628 0.717±0.227",
        ),
        source=frozenset({"msd-lung", "nsclc-pe"}),
    ),
    PaperRow(
        "Multi-encoder*",
        "multi-encoder",
        _volume(
            "0.712 0.732 0.721 0.742 0.608 0.703±0.201",
            "0.735 0.740 0.785 0.772 0.629 0.732±0.218",
        ),
    ),
    PaperRow("Ours-3D", "ours", _OURS_3D, on_slices="Ours-2D"),
)

_V = (
    PaperRow("U-Net", "u-net", _slice("0.439 0.534 0.858 0.186"), fed=SOFT),
    PaperRow("Attention-UNet", "attention-unet", _slice("0.583 0.637 0.921 0.112"), fed=SOFT),
    PaperRow("Gated-UNet", "gated-unet", _slice("0.623 0.658 0.926 0.102"), fed=SOFT),
    PaperRow("Dense-UNet", "dense-unet", _slice("0.515 0.594 0.840 0.184"), fed=SOFT),
    PaperRow("U-Net++", "u-net++", _slice("0.581 0.672 0.902 0.120"), fed=SOFT),
    PaperRow("Inf-Net", "inf-net", _slice("0.682 0.692 0.943 0.082"), fed=SOFT),
    PaperRow("Semi-Inf-Net", "semi-inf-net", _slice("0.739 0.725 0.960 0.064"), fed=SOFT),
    PaperRow("2D nnUNet", "unet", _slice("0.747 0.829 0.953 0.063")),
    PaperRow("Ours-2D", "ours", _slice("0.765 0.839 0.955 0.056")),
    PaperRow("Ours-2D-UN", "ours-un", _slice("0.767 0.839 0.957 0.055")),
)

_VI = (
    PaperRow("None / COVID only", "unet", _slice("0.693 0.774 0.941 0.080")),
    PaperRow("LiTS / liver tumor", "ours", _slice("0.711 0.782 0.942 0.074"), source=frozenset({"lits"})),
    PaperRow("MSD Lung / lung nodules", "ours", _slice("0.712 0.764 0.945 0.073"), source=frozenset({"msd-lung"})),
    PaperRow("NSCLC / pleural effusion", "ours", _slice("0.702 0.781 0.941 0.072"), source=frozenset({"nsclc-pe"})),
    PaperRow(
        "COVID-19-20 / groundglass opacities",
        "ours",
        _slice("0.714 0.792 0.942 0.070"),
        source=frozenset({"covid-19-20"}),
    ),
)

TABLES: Mapping[TableName, PaperTable] = {
    "III": PaperTable(
        name="III",
        title="Ablation",
        kinds=("volumes", "slices"),
        rows=_III,
        reference="Ours (L_G + L_T)",
        gain=True,
        note=_NNUNET_NOTE,
    ),
    "IV": PaperTable(
        name="IV",
        title="Comparison with networks that start from other lesions",
        kinds=("volumes", "slices"),
        rows=_IV,
        reference="Ours-3D",
        gain=True,
        note=f"{_NNUNET_NOTE} * The paper quotes Wang et al. 2020, who trained on a further set (StructSeg 2019).",
    ),
    "V": PaperTable(
        name="V",
        title="Comparison with other networks",
        kinds=("slices",),
        rows=_V,
        reference="Ours-2D",
        gain=True,
        note="The paper's figures of U-Net to Semi-Inf-Net are those of Fan et al. 2020 (Inf-Net).",
    ),
    "VI": PaperTable(
        name="VI",
        title="Source sets",
        kinds=("slices",),
        rows=_VI,
        reference="None / COVID only",
        gain=False,
        note="The paper drew 60 slices of each source set and 10 target slices.",
    ),
}
