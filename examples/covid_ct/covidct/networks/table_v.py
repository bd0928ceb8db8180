"""The networks of Table V beside the paper's own: how each is built, what it takes, and its recipe."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from covidct.networks.attention_unet import AttentionUNet
from covidct.networks.dense_unet import DenseUNet
from covidct.networks.gated_unet import GatedUNet
from covidct.networks.inf_net import InfNet
from covidct.networks.inf_net_training import EPOCHS, RATES
from covidct.networks.nested_unet import NestedUNet
from covidct.networks.unet import UNet


@dataclass(frozen=True)
class Recipe:
    """How a network is trained in preset `paper`: Adam on slices of `size` x `size`.

    The baselines' is published nowhere; this one, with flips, is the same for the five.

    batch, epochs: over the 50 labelled slices.
    edges: its loss is `inf_net_loss`, which takes the edges of the masks, instead of Dice and cross entropy.
    scales: every batch is trained at, one step each, in parts of `size`.
    clip_value: bound of each entry of the gradient, None for no bound.
    schedule: "constant", or "inf-net" for `inf_net_training.learning_rate`.
    augmentation: of the slices, "flips" or "none".
    stretched: slices come in 0 to 1 instead of z-scored, and predictions are stretched to 0 to 1 (`prediction`).
    """

    size: int = 352
    learning_rate: float = 1e-4
    batch: int = 16
    epochs: int = 100
    edges: bool = False
    scales: tuple[float, ...] = (1.0,)
    clip_value: float | None = None
    schedule: Literal["constant", "inf-net"] = "constant"
    augmentation: Literal["flips", "none"] = "flips"
    stretched: bool = False


@dataclass(frozen=True)
class Network:
    """One row.

    features: channels of the input and at each resolution, of 1/1, 1/2, ...: the input's sides are multiples of
        2^(len(features) - 1).
    backbone: timm's name of the encoder that `build` takes `pretrained` weights for, None for none.
    """

    title: str
    build: Callable[..., nn.Module]
    features: tuple[int, ...]
    parameters: int
    backbone: str | None = None
    recipe: Recipe = Recipe()


INF_NET_RECIPE = Recipe(
    batch=24,
    epochs=EPOCHS,
    edges=True,
    scales=RATES,
    clip_value=0.5,
    schedule="inf-net",
    augmentation="none",
    stretched=True,
)
WIDTHS = (32, 64, 128, 256, 512)

NETWORKS = {
    "u-net": Network("U-Net", UNet, WIDTHS, 7_852_545),
    "attention-unet": Network("Attention-UNet", AttentionUNet, WIDTHS, 8_726_077),
    "gated-unet": Network("Gated-UNet", GatedUNet, (16, 32, 64, 128, 256), 2_636_756),
    "dense-unet": Network(
        "Dense-UNet", DenseUNet, (3, 96, 384, 768, 2112, 2208), 26_472_000 + 23_055_713, "densenet161"
    ),
    "u-net++": Network("U-Net++", NestedUNet, WIDTHS, 9_163_329),
    "inf-net": Network(
        "Inf-Net",
        partial(InfNet, imagenet_scale=True),
        (3, 64, 256, 512, 1024, 2048),
        31_072_721,
        "res2net50d",
        INF_NET_RECIPE,
    ),
}
