"""Which source set lies nearest to the target by `relation_gaps`, and is the order the same on halves of the sets?

The target is COVID-SemiSeg's labelled slices. The sets: its unlabelled slices, lesion slices of LIDC and LUNG1, the
phantom's target and source kinds, and noise. Shown are the gap between the target and each set with its bootstrap
interval, and over HALVES draws of a random half of every set's images: in how many a set is nearer than the one in the
next row, in how many the order of all is that of the whole sets, and how many pairs of sets keep theirs in nine of ten.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from collapse import encoder_of, resized
from results import parser, publish, table
from torch import Tensor, nn

from relcons import relation_gaps

sys.path.append(str(Path(__file__).parents[1] / "covid_ct"))

from covidct.ct.picture import Slice
from covidct.phantoms.chests import KINDS
from covidct.phantoms.slice_set import write_phantoms
from covidct.sets.covid_semiseg import read_covid_semiseg
from covidct.slices.lesion_slices import read_volume_slices

TARGET, HALVES, MOST, BATCH = "COVID-SemiSeg", 100, 48, 8
ENCODERS = ("plain, random", "plain, taught", "resnet18, random")


def read(data: Path, work: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Images of every set, (N, 1, H, W), by the target's mean and deviation, and the target's masks."""
    real = read_covid_semiseg(data / "covid_semiseg")
    phantoms = write_phantoms(work / "phantoms", test=0, unlabelled=0)
    drawn = read_volume_slices([phantoms / "source"], work / "cache")
    slices: dict[str, Sequence[Slice]] = {
        TARGET: real.train,
        "its unlabelled slices": real.unlabelled[:: len(real.unlabelled) // MOST][:MOST],
        "LIDC": read_volume_slices([data / "lidc"], work / "cache"),
        "LUNG1": read_volume_slices([data / "lung1"], work / "cache"),
        "phantom, COVID": read_covid_semiseg(phantoms / "target").train,
        **{f"phantom, {kind}": [item for item in drawn if kind in item.name] for kind in KINDS},
    }
    sets = {name: torch.cat([resized(item) for item in items]) for name, items in slices.items()}
    masks = (torch.cat([resized(item, mask=True) for item in real.train]) > 0.5).float()
    mean, deviation = sets[TARGET].mean(), sets[TARGET].std()
    sets = {name: (images - mean) / deviation for name, images in sets.items()}
    sets["noise"] = torch.randn(MOST, *sets[TARGET].shape[1:], generator=torch.Generator().manual_seed(0))
    return sets, masks


def encoder(name: str, seed: int, images: Tensor, masks: Tensor) -> nn.Module:
    """The plain encoder with instance norm that collapse.py trains, or smp's, as their initialisers leave them."""
    if name.startswith("plain"):
        return encoder_of("instance", name.removeprefix("plain, "), seed, images, masks).eval()
    torch.manual_seed(seed)
    found: nn.Module = smp.encoders.get_encoder("resnet18", in_channels=1, weights=None)
    # Fresh running statistics fit no map: take those of the target.
    with torch.no_grad():
        for module in found.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        found.train()(images)
    return found.eval()


@torch.no_grad()
def maps_of(net: nn.Module, images: Tensor) -> Tensor:
    """Bottleneck maps, so that halves need no second pass."""
    return torch.cat([net(batch)[-1] for batch in images.split(BATCH)])


def order(maps: dict[str, Tensor]) -> tuple[str, ...]:
    """The sets from the nearest to the target on."""
    found = relation_gaps(nn.Identity(), {name: one.split(BATCH) for name, one in maps.items()}, bootstrap=0)
    gaps = dict(zip(found.names, found.gap[found.names.index(TARGET)], strict=True))
    return tuple(sorted((name for name in gaps if name != TARGET), key=lambda name: gaps[name]))


def half(maps: Tensor, random: torch.Generator) -> Tensor:
    return maps[torch.randperm(len(maps), generator=random)[: len(maps) // 2]]


def rows(name: str, options: argparse.Namespace, sets: dict[str, Tensor], masks: Tensor) -> Iterator[list[object]]:
    net = encoder(name, options.seed, sets[TARGET], masks)
    maps = {each: maps_of(net, images) for each, images in sets.items()}
    whole = order(maps)
    random = torch.Generator().manual_seed(options.seed)
    halves = [order({each: half(found, random) for each, found in maps.items()}) for _ in range(HALVES)]
    same = sum(found == whole for found in halves)

    def kept(nearer: str, farther: str) -> int:
        return sum(found.index(nearer) < found.index(farther) for found in halves)

    pairs = [kept(*pair) >= 0.9 * HALVES for pair in combinations(whole, 2)]
    before = [*(kept(*pair) for pair in pairwise(whole)), ""]
    gaps = relation_gaps(nn.Identity(), {each: found.split(BATCH) for each, found in maps.items()}, seed=options.seed)
    target = gaps.names.index(TARGET)
    for each, nearer in zip(whole, before, strict=True):
        column = gaps.names.index(each)
        low, high = gaps.interval[target][column] or (float("nan"), float("nan"))
        gap, within = f"{gaps.gap[target][column]:.3f} ({low:.3f} to {high:.3f})", f"{gaps.within[column]:.3f}"
        yield [name, each, len(sets[each]), gap, within, nearer, same, f"{sum(pairs)} of {len(pairs)}"]


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    default = Path(os.environ.get("RELCONS_DATA", "data"))
    options.add_argument("--data", type=Path, default=default, help="folder of covid_semiseg, lidc and lung1")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as work:
        sets, masks = read(arguments.data, Path(work))
    body = [row for name in arguments.encoders for row in rows(name, arguments, sets, masks)]
    columns = ["encoder", "set", "images", "gap to the target (95 %)", "within", f"nearer than the next, of {HALVES}"]
    columns += [f"same order of all, of {HALVES}", "pairs in the same order in 9 of 10"]
    publish("gaps", table(columns, body), ["segmentation_models_pytorch", "dynamic_network_architectures"], arguments)


if __name__ == "__main__":
    main()
