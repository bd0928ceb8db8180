"""The networks of Table V beside the paper's own: how each is built, what it takes, and its recipe."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from covidct.networks.attention_unet import AttentionUNet
from covidct.networks.dense_unet import DenseUNet
from covidct.networks.gated_unet import GatedUNet
from covidct.networks.inf_net import InfNet
from covidct.networks.inf_net_training import RATES
from covidct.networks.nested_unet import NestedUNet
from covidct.networks.unet import UNet


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Adam on slices of `size` x `size`.

    The baselines' is published nowhere; this one, with flips, is the same for the five.

    rates: sizes that every batch is trained at, one step each, in parts of `size`.
    clamp: bound of each entry of the gradient (`torch.nn.utils.clip_grad_value_`), None for no bound.
    imagenet_input: slices in 0 to 1 are normalised by `backbone.imagenet_input`.
    flips: whether slices are mirrored at random.
    """

    size: int = 352
    learning_rate: float = 1e-4
    batch: int = 16
    epochs: int = 100
    loss: Literal["dice and cross entropy", "inf-net"] = "dice and cross entropy"
    rates: tuple[float, ...] = (1.0,)
    clamp: float | None = None
    imagenet_input: bool = False
    flips: bool = True


@dataclass(frozen=True)
class Network:
    """One row. `backbone`: timm's name of the encoder that `build` takes `pretrained` weights for, None for none."""

    title: str
    build: Callable[..., nn.Module]
    divisor: int
    parameters: int
    backbone: str | None = None
    recipe: Recipe = Recipe()


# The release counts epochs 1 to 99.
INF_NET_RECIPE = Recipe(batch=24, epochs=99, loss="inf-net", rates=RATES, clamp=0.5, imagenet_input=True, flips=False)

NETWORKS = {
    "unet": Network("U-Net", UNet, UNet.divisor, 7_852_545),
    "nested-unet": Network("U-Net++", NestedUNet, NestedUNet.divisor, 9_163_329),
    "attention-unet": Network("Attention-UNet", AttentionUNet, AttentionUNet.divisor, 8_726_077),
    "gated-unet": Network("Gated-UNet", GatedUNet, GatedUNet.divisor, 2_636_756),
    "dense-unet": Network("Dense-UNet", DenseUNet, DenseUNet.divisor, 26_472_000 + 23_055_713, "densenet161"),
    "inf-net": Network("Inf-Net", InfNet, InfNet.divisor, 31_072_721, "res2net50d", INF_NET_RECIPE),
}
