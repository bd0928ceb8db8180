"""Sliding windows over the body alone (the example's predict_volume) beside MONAI's inferer on the whole grid.

Both run Table I's network, narrow, with windows of 192 x 160 x 56 voxels that overlap by half. It is taught on the
volume itself first, for a few minutes: the mask of random weights is noise. With batch norm, the default, its output
depends on a voxel's surroundings alone; with Table I's instance norm on all that is in the window, too.
"""

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from results import README, parser, publish, table
from timing import interleaved, ratio
from torch import Tensor, nn
from workers import workers

sys.path.insert(0, str(README.parents[1] / "covid_ct"))

from covidct.volumes.inference import body_box, predict_volume, window_span, window_starts

NAMES = {"whole": "MONAI, whole grid", "box": "predict_volume, the body's box"}
PATCH = (56, 160, 192)
TEACHING_PATCH = (8, 160, 192)
OVERLAP = 0.5
NORMS = {"batch": nn.BatchNorm3d, "instance": nn.InstanceNorm3d}
TISSUE = -300  # HU
FEATURES = (4, 8, 16, 32, 40, 40)
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]


def narrow_network(norm: str) -> nn.Module:
    """Table I's stages, strides and kernels with an eighth of its features."""
    net = PlainConvUNet(
        input_channels=1,
        n_stages=len(FEATURES),
        features_per_stage=list(FEATURES),
        conv_op=nn.Conv3d,
        kernel_sizes=[[1, 3, 3], *([[3, 3, 3]] * 5)],
        strides=STRIDES,
        n_conv_per_stage=2,
        num_classes=1,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=NORMS[norm],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"negative_slope": 0.01, "inplace": True},
        deep_supervision=False,
    )
    net.apply(PlainConvUNet.initialize)
    made: nn.Module = net
    return made


def read(path: Path) -> NDArray[np.float32]:
    """(z, y, x) from the feet, the back and the left."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.ascontiguousarray(np.asarray(image.dataobj, dtype=np.float32).T)


def normalised(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    windowed = np.clip(hu, -1000, 100)
    result: NDArray[np.float32] = (windowed - windowed.mean()) / windowed.std()
    return result


def teach(net: nn.Module, image: NDArray[np.float32], mask: NDArray[np.bool_], steps: int, seed: int) -> float:
    """Adam on random patches, every second one around a voxel of the mask; returns the Dice of the last 20 of these."""
    random = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    inside = np.argwhere(mask)
    scores = []
    for step in range(steps):
        middle = inside[random.integers(len(inside))] if step % 2 else random.integers(0, image.shape)
        sizes = zip(middle, image.shape, TEACHING_PATCH, strict=True)
        corner = [int(np.clip(at - patch // 2, 0, max(0, length - patch))) for at, length, patch in sizes]
        place = tuple(slice(start, start + patch) for start, patch in zip(corner, TEACHING_PATCH, strict=True))
        x = torch.from_numpy(image[place].copy())[None, None]
        y = torch.from_numpy(mask[place].astype(np.float32))[None, None]
        logits = net(x)
        probability = logits.sigmoid()
        dice = (2 * (probability * y).sum() + 1) / (probability.sum() + y.sum() + 1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, y) + 1 - dice
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 2:
            scores.append(dice.item())
    return float(np.mean(scores[-20:]))


def taught(image: NDArray[np.float32], mask: NDArray[np.bool_], options: Namespace) -> nn.Module:
    """The narrow network with what it learnt, here or in an earlier call."""
    torch.manual_seed(options.seed)
    net = narrow_network(options.norm)
    if options.weights is not None and options.weights.exists():
        net.load_state_dict(torch.load(options.weights, weights_only=True))
        return net
    print(f"teaching: Dice {teach(net, image, mask, options.steps, options.seed):.3f}", flush=True)
    if options.weights is not None:
        torch.save(net.state_dict(), options.weights)
    return net


def build(name: str, folder: str, device: str, norm: str) -> Callable[[], NDArray[np.float32]]:
    """The competitor `name`, on what main left in `folder`; its mask goes there as well."""
    image = np.load(Path(folder) / "image.npy")
    net = narrow_network(norm)
    net.load_state_dict(torch.load(Path(folder) / "net.pt", weights_only=True))
    net.to(device).eval()
    if name == "box":
        call = partial(predict_volume, net, image, patch_size=PATCH, overlap=OVERLAP)
    else:
        call = partial(whole_grid, net, image, device)
    np.save(Path(folder) / f"{name}.npy", call() > 0.5)
    return call


def whole_grid(net: nn.Module, image: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    values = torch.from_numpy(image)[None, None].to(device)
    with torch.inference_mode():
        found = sliding_window_inference(values, PATCH, 1, lambda x: net(x).sigmoid(), OVERLAP, "gaussian")
    return cast(Tensor, found)[0, 0].cpu().numpy()


def main() -> None:
    options = _options()
    hu = read(options.volume)
    image = normalised(hu)
    mask = np.any([read(path) > 0 for path in options.mask], axis=0) if options.mask else hu > TISSUE
    net = taught(image, mask, options)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "image.npy", image)
        torch.save(net.state_dict(), Path(folder) / "net.pt")
        with workers(build, list(NAMES), (folder, options.device, options.norm), keep_pages=True) as calls:
            seconds = interleaved(calls, options.repeats, warmup=0)
        masks = {name: np.load(Path(folder) / f"{name}.npy") for name in NAMES}
    publish("sliding", _table(image, masks, seconds, options), ["monai", "dynamic_network_architectures"], options)


def _table(
    image: NDArray[np.float32], masks: dict[str, NDArray[np.bool_]], seconds: dict[str, list[float]], options: Namespace
) -> str:
    box = body_box(image)
    whole, inside = masks["whole"][box], masks["box"][box]
    dice = 2 * np.count_nonzero(whole & inside) / (np.count_nonzero(whole) + np.count_nonzero(inside))
    spans = {"whole": image.shape, "box": [at.stop - at.start for at in window_span(box, image.shape, PATCH, OVERLAP)]}
    rows = []
    for name, shape in spans.items():
        count = np.prod([len(window_starts(n, p, OVERLAP)) for n, p in zip(shape, PATCH, strict=True)])
        speed = "" if name == "whole" else ratio(seconds["whole"], seconds["box"])
        rows.append([NAMES[name], count, f"{np.median(seconds[name]):.1f}", speed])
    lines = table(["", "windows", "seconds", "times as fast (quartiles)"], rows)
    voxels = np.count_nonzero(masks["whole"])
    outside = voxels - np.count_nonzero(whole)
    sizes = [" x ".join(map(str, reversed(shape))) for shape in (image.shape, [at.stop - at.start for at in box])]
    return (
        f"{options.volume.parent.name}, {sizes[0]} voxels, the box {sizes[1]}, {options.norm} norm. Dice of both masks "
        f"inside the box: {dice:.5f}. Of the whole grid's {voxels} mask voxels {outside} lie outside.\n\n{lines}"
    )


def _options() -> Namespace:
    options = parser(__doc__ or "", repeats=5)
    options.add_argument("volume", type=Path, help="CT volume in HU (NIfTI)")
    options.add_argument("--mask", type=Path, nargs="+", help="masks to teach, joined; by default all above -300 HU")
    options.add_argument("--norm", choices=list(NORMS), default="batch", help="normalisation of the network")
    options.add_argument("--steps", type=int, default=70, help="of teaching")
    options.add_argument("--weights", type=Path, help="where the taught weights lie, or are put")
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--seed", type=int, default=0)
    return options.parse_args()


if __name__ == "__main__":
    main()
