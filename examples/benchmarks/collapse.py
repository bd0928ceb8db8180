"""What becomes of the general encoder's relations under the printed general term, and under an anchored one.

On COVID-SemiSeg's 50 labelled slices as the target and lesion slices of CT volumes as the source, at 112 x 96: an
encoder of five stages is trained by the general term alone, lambda up to 0.1, batches of 8 and 8. Shown are squared
distances of relations of batches, in training mode, against their start: between the domains without what lies within
them (gap), within each, and to noise.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from results import parser, publish, table
from torch import Tensor, nn

from relcons import GaussianRampUp, GramRelation, RelationAnchor, RelationLoss, relation_gap
from relcons.models import DualEncoderOutput

sys.path.append(str(Path(__file__).parents[1] / "covid_ct"))

from covidct.ct.picture import Slice, load_slice
from covidct.sets.covid_semiseg import read_covid_semiseg
from covidct.slices.lesion_slices import read_volume_slices
from covidct.slices.sampling import resize_image
from covidct.training.segmentation_loss import segmentation_loss

WIDTHS, SIZE, BATCH, PARTITIONS, TAUGHT = (16, 32, 64, 96, 128), (112, 96), 8, 3, 300
NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}
Optimiser = Callable[[Any], torch.optim.Optimizer]
OPTIMISERS: dict[str, Optimiser] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-3),
}


def read(data: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Target slices, their masks, and source slices, (N, 1, *SIZE), by the target's mean and deviation."""
    with tempfile.TemporaryDirectory() as cache:
        source = read_volume_slices([data / "lidc", data / "lung1"], Path(cache))
        pictures = [resized(item) for item in source]
    pairs = [(resized(item), resized(item, mask=True)) for item in read_covid_semiseg(data / "covid_semiseg").train]
    images, masks = (torch.cat(each) for each in zip(*pairs, strict=True))
    mean, deviation = images.mean(), images.std()
    return (images - mean) / deviation, (masks > 0.5).float(), (torch.cat(pictures) - mean) / deviation


def resized(item: Slice, *, mask: bool = False) -> Tensor:
    image, label = load_slice(item)
    chosen = label if mask and label is not None else image
    return resize_image(torch.from_numpy(chosen).float()[None, None], SIZE)


def network(norm: str) -> PlainConvUNet:
    net = PlainConvUNet(
        1,
        len(WIDTHS),
        WIDTHS,
        nn.Conv2d,
        3,
        [1, 2, 2, 2, 2],
        1,
        1,
        1,
        conv_bias=True,
        norm_op=NORMS[norm],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    net.apply(InitWeights_He(1e-2))
    return net


def flipped(random: torch.Generator, *batches: Tensor) -> list[Tensor]:
    """Batches mirrored alike, along each axis or not, image by image."""
    for axis in (2, 3):
        mirrored = (torch.rand(len(batches[0]), generator=random) < 0.5)[:, None, None, None]
        batches = tuple(torch.where(mirrored, batch.flip(axis), batch) for batch in batches)
    return list(batches)


def drawn(images: Tensor, random: torch.Generator) -> Tensor:
    return images[torch.randperm(len(images), generator=random)[:BATCH]]


def encoder_of(norm: str, init: str, seed: int, images: Tensor, masks: Tensor) -> nn.Module:
    """The encoder at random, or of a network that was taught to segment the target slices."""
    torch.manual_seed(seed)
    net = network(norm).train()
    if init == "taught":
        random = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
        for _ in range(TAUGHT):
            chosen = torch.randint(len(images), (BATCH,), generator=random)
            image, mask = flipped(random, images[chosen], masks[chosen])
            optimizer.zero_grad()
            segmentation_loss(net(image), mask).backward()
            optimizer.step()
    encoder: nn.Module = net.encoder
    return encoder


def measured(encoder: nn.Module, images: Tensor, source: Tensor) -> dict[str, float]:
    """Squared distances of the relations of batches, means over partitions into disjoint batches."""
    random = torch.Generator().manual_seed(77)
    found: dict[str, float] = dict.fromkeys(("gap", "within target", "within source", "to noise", "rank"), 0.0)
    for _ in range(PARTITIONS):
        target, others = (list(batches(each, random)) for each in (images, source))
        gap = relation_gap(encoder, target, others, relation=GramRelation(), bootstrap=0)
        values = (gap.gap**2, gap.within_a**2, gap.within_b**2, (gap.noise or 0.0) ** 2, gap.rank_a)
        for name, value in zip(found, values, strict=True):
            found[name] += value / PARTITIONS
    return found


def batches(images: Tensor, random: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(len(images), generator=random)
    yield from (images[part] for part in order.split(BATCH) if len(part) == BATCH)


def trained(encoder: nn.Module, optimizer: torch.optim.Optimizer, anchored: bool, options: Any, data: Any) -> None:
    images, _, source = data
    model: Any = SimpleNamespace(general_encoders=nn.ModuleList([encoder]), levels=(-1,), channels=WIDTHS[-1:])
    anchor = RelationAnchor(model, keep=options.keep) if anchored else None
    loss = RelationLoss(GaussianRampUp(options.steps), target=False, anchor=anchor)
    random = torch.Generator().manual_seed(1000 + options.seed)
    for _ in range(options.steps):
        (target,), (other,) = flipped(random, drawn(images, random)), flipped(random, drawn(source, random))
        maps = [encoder(each)[-1:] for each in (target, other)]
        value = loss(DualEncoderOutput(None, (), maps[0], maps[1]), target, other)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 12)
        optimizer.step()
        loss.step()


def rows(norm: str, init: str, optimiser: str, options: argparse.Namespace, data: Any) -> Iterator[list[object]]:
    looked_at = data[0]
    if options.held_out:
        order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(3))
        half = len(order) // 2
        looked_at = data[0][order[half:]]
        data = (data[0][order[:half]], data[1][order[:half]], data[2])
    for name in options.terms:
        encoder = encoder_of(norm, init, options.seed, *data[:2])
        before = measured(encoder, looked_at, data[2])
        trained(encoder, OPTIMISERS[optimiser](encoder.parameters()), name == "anchored", options, data)
        after = measured(encoder, looked_at, data[2])
        shares = [f"{after[key] / before[key]:.2f}" for key in before if key != "rank"]
        yield [norm, init, optimiser, name, *shares, f"{before['rank']:.1f} to {after['rank']:.1f}"]


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    default = Path(os.environ.get("RELCONS_DATA", "data"))
    options.add_argument("--data", type=Path, default=default, help="folder of covid_semiseg, lidc and lung1")
    options.add_argument("--steps", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--norms", nargs="+", choices=list(NORMS), default=list(NORMS))
    options.add_argument("--inits", nargs="+", choices=["random", "taught"], default=["random", "taught"])
    options.add_argument("--optimisers", nargs="+", choices=list(OPTIMISERS), default=list(OPTIMISERS))
    options.add_argument("--terms", nargs="+", choices=["printed", "anchored"], default=["printed", "anchored"])
    options.add_argument("--keep", type=float, default=0.05, help="of the anchor")
    options.add_argument(
        "--held-out", action="store_true", help="train on half of the target slices, look at the others"
    )
    arguments = options.parse_args()
    data = read(arguments.data)
    columns = [
        "norm",
        "encoder",
        "optimiser",
        "general term",
        "gap",
        "within target",
        "within source",
        "to noise",
        "rank",
    ]
    body = [
        row
        for norm in arguments.norms
        for init in arguments.inits
        for optimiser in arguments.optimisers
        for row in rows(norm, init, optimiser, arguments, data)
    ]
    name = "collapse-held-out" if arguments.held_out else "collapse"
    publish(name, table(columns, body), ["dynamic_network_architectures"], arguments)


if __name__ == "__main__":
    main()
