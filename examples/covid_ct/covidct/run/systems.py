"""The systems of the paper's tables, and those beyond it: what each builds, learns, starts from and freezes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from covidct.errors import InputError
from covidct.networks.table_v import NETWORKS, Network

Start = Literal["nothing", "network", "general encoder"]
Learns = Literal["lesions", "source lesions", "hidden parts"]


@dataclass(frozen=True)
class System:
    """One row of a table. `general` and `target` are the relation losses; without L_G the general encoder is frozen.

    `network`: of Table V; None for the U-Net of Tables I and II. `learns`: the target's lesions from their labels, the
    source's lesions, which others start from, or to fill in what is hidden of unlabelled images (`reconstruct`).
    `start`: what takes the weights of an earlier run that others start from, the whole network or the general encoder;
    `needs_start`: it has to, instead of starting at random.
    `fuse_all`: the general encoder's maps of every level enter the decoder, not its bottleneck alone.
    `unlabelled`: unlabelled images of the target enter the relation losses, too.
    `supervised`: the general encoder learns the source's lesions, through a decoder of its own.
    `pseudo_labels`: the network is taught on its own predictions of unlabelled images, group by group.
    `self_taught`: it first fills in hidden parts of unlabelled images, and last learns its own predictions of them.
    """

    title: str
    network: Network | None = None
    dual: bool = True
    general: bool = False
    target: bool = False
    learns: Learns = "lesions"
    start: Start = "nothing"
    needs_start: bool = False
    fuse_all: bool = False
    unlabelled: bool = False
    supervised: bool = False
    pseudo_labels: bool = False
    self_taught: bool = False

    @property
    def relates(self) -> bool:
        """Whether it has a relation loss."""
        return self.general or self.target

    @property
    def tested(self) -> bool:
        """Whether it segments the target's lesions; the others are what such systems start from."""
        return self.learns == "lesions"

    @property
    def trains_general(self) -> bool:
        """Whether a loss of its own reaches the general encoder."""
        return self.general or self.supervised

    @property
    def streams_source(self) -> bool:
        """Whether every step takes source images beside the target's."""
        return self.trains_general

    @property
    def needs_source(self) -> bool:
        """Whether training takes source images (X^n, lesions of other diseases)."""
        return self.streams_source or self.learns == "source lesions"

    @property
    def needs_unlabelled(self) -> bool:
        """Whether training takes unlabelled images of the target."""
        return self.unlabelled or self.staged or self.learns == "hidden parts"

    @property
    def staged(self) -> bool:
        """Whether it is several trainings, one after the other."""
        return self.pseudo_labels or self.self_taught

    @property
    def slices_alone(self) -> bool:
        """Whether it is for slices: Table V's networks, and what unlabelled images teach."""
        return self.network is not None or self.needs_unlabelled or self.supervised


def _plain(title: str, learns: Learns = "lesions", *, start: bool = False) -> System:
    return System(title, dual=False, learns=learns, start="network" if start else "nothing", needs_start=start)


def _of_table_v(name: str, *, pseudo_labels: bool = False, title: str | None = None) -> System:
    network = NETWORKS[name]
    return System(title or network.title, network=network, dual=False, pseudo_labels=pseudo_labels)


SYSTEMS = {
    "unet": _plain("single network (nnUNet)"),
    "pretrain": _plain("single network trained on the source's lesions", "source lesions"),
    "finetune": _plain("single network that starts from an earlier one", start=True),
    "multi-encoder": System(
        "frozen encoder of an earlier network beside a new one (Wang et al. 2020)",
        start="general encoder",
        needs_start=True,
        fuse_all=True,
    ),
    "baseline": System("frozen general encoder, no relation loss", start="general encoder"),
    "general": System("general consistency L_G", general=True, start="general encoder"),
    "target": System("frozen general encoder, target consistency L_T", target=True, start="general encoder"),
    "ours": System("the paper's method, L_G + L_T", general=True, target=True, start="general encoder"),
    "ours-un": System(
        "the paper's method, unlabelled images in the relation losses",
        general=True,
        target=True,
        unlabelled=True,
        start="general encoder",
    ),
    **{name: _of_table_v(name) for name in NETWORKS},
    "semi-inf-net": _of_table_v("inf-net", pseudo_labels=True, title="Inf-Net taught on its own pseudo labels"),
    # Beyond the paper.
    "supervised-general": System(
        "general encoder that learns the source's lesions beside (not in the paper)",
        supervised=True,
        start="general encoder",
    ),
    "self-taught": System(
        "single network that fills in hidden parts of unlabelled images, learns the lesions, then its own labels",
        dual=False,
        start="network",
        self_taught=True,
    ),
    "reconstruct": _plain("single network that fills in hidden parts of unlabelled images", "hidden parts"),
}
# What others may start from.
STARTS = tuple(name for name, entry in SYSTEMS.items() if not entry.tested)


def system(method: str) -> System:
    """The entry of `method`; InputError naming the known ones."""
    if method not in SYSTEMS:
        raise InputError(f"--method {method!r} is unknown; take one of {listed(SYSTEMS)}")
    return SYSTEMS[method]


def listed(methods: Iterable[str]) -> str:
    """Methods in one line of text."""
    return ", ".join(methods)
