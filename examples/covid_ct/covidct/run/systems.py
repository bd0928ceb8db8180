"""The paper's systems: what each method builds, starts from, freezes and adds to the segmentation loss."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import nn

from covidct.errors import InputError
from covidct.networks.plain_unet import plain_unet
from covidct.run.config import Config
from relcons import DualEncoderUNet, GaussianRampUp, GramRelation, RelationLoss

Start = Literal["nothing", "network", "general encoder"]


@dataclass(frozen=True)
class System:
    """One row of a table. `general` and `target` are the relation losses; without L_G the general encoder is frozen.

    `start`: what takes the weights of an earlier run of method `pretrain`, the whole network or the general encoder;
    `needs_start`: it has to, instead of starting at random.
    `on_source`: trained on the source's lesions and labels instead of the target's.
    `fuse_all`: the general encoder's maps of every level enter the decoder, not its bottleneck alone.
    """

    title: str
    dual: bool = True
    general: bool = False
    target: bool = False
    start: Start = "nothing"
    needs_start: bool = False
    on_source: bool = False
    fuse_all: bool = False

    @property
    def needs_source(self) -> bool:
        """Whether training takes source images (X^n, lesions of other diseases)."""
        return self.general or self.on_source

    @property
    def relates(self) -> bool:
        """Whether it has a relation loss."""
        return self.general or self.target

    @property
    def pretrains(self) -> bool:
        """Whether it is, or has to start from, a pre-training on lesions."""
        return self.on_source or self.needs_start


SYSTEMS = {
    "unet": System("single network (nnUNet)", dual=False),
    "pretrain": System("single network trained on the source's lesions", dual=False, on_source=True),
    "finetune": System(
        "single network that starts from one pre-trained on the source",
        dual=False,
        start="network",
        needs_start=True,
    ),
    "multi-encoder": System(
        "frozen encoder pre-trained on the source beside a new one (Wang et al. 2020)",
        start="general encoder",
        needs_start=True,
        fuse_all=True,
    ),
    "baseline": System("frozen general encoder, no relation loss", start="general encoder"),
    "general": System("general consistency L_G", general=True, start="general encoder"),
    "target": System("frozen general encoder, target consistency L_T", target=True, start="general encoder"),
    "ours": System("the paper's method, L_G + L_T", general=True, target=True, start="general encoder"),
}


def system(method: str) -> System:
    """The entry of `method`; InputError naming the known ones."""
    if method not in SYSTEMS:
        raise InputError(f"--method {method!r} is unknown; take one of {', '.join(SYSTEMS)}")
    return SYSTEMS[method]


def build_model(config: Config) -> nn.Module:
    """The method's network, its weights drawn from `config.seed` alone."""
    chosen = system(config.method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net: nn.Module = plain_unet(
            config.widths, axes=config.axes, strides=config.strides, kernel_sizes=config.kernel_sizes
        )
        if not chosen.dual:
            return net
        model = DualEncoderUNet(
            net,
            general="reset",
            fusion=config.fusion,
            levels=config.relation_levels,
            fuse_levels=fused_levels(config),
            route=config.route,
        )
    # Under route "joint" the segmentation loss trains it, whatever the relation losses do.
    model.freeze_general(not chosen.general and config.route == "paper")
    return model


def fused_levels(config: Config) -> tuple[int, ...]:
    """The stages at which the general encoder's maps enter the decoder."""
    if config.fuse_levels:
        return config.fuse_levels
    return tuple(range(len(config.features_per_stage))) if system(config.method).fuse_all else (-1,)


@lru_cache(maxsize=64)
def count_parameters(config: Config) -> int:
    """Parameters of the method's network, heads of deep supervision and a frozen general encoder among them."""
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(config).parameters())


def dual_width(config: Config) -> float:
    """The width at which the single network of `config` has the parameters of the paper's two encoders.

    To three decimals: that whose number of parameters is nearest to that of method `ours`.
    """
    wanted = count_parameters(replace(config, method="ours", fuse_levels=(), fusion="concat", width=1.0))

    def parameters(thousandths: int) -> int:
        return count_parameters(replace(config, width=thousandths / 1000))

    # Less than the whole network comes with the general encoder, so less than twice the parameters.
    low, high = 1000, 2000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle) < wanted else (low, middle)
    return min(low, high, key=lambda width: abs(parameters(width) - wanted)) / 1000


def start_from(model: nn.Module, trained: nn.Module, method: str) -> None:
    """Give `model` the weights of `trained`, a single network of method `pretrain`, where `method` takes them.

    All but the segmentation heads, as nnU-Net's own transfer does; of two encoders, the general one takes the
    encoder's. InputError where the two networks differ.
    """
    if system(method).start == "nothing":
        return
    taken = {name: value for name, value in trained.state_dict().items() if ".seg_layers." not in name}
    into = model
    if isinstance(model, DualEncoderUNet):
        into, taken = model.general_encoder, dict(trained.get_submodule("encoder").state_dict())
    present = {name: value.shape for name, value in into.state_dict().items() if ".seg_layers." not in name}
    if present != {name: value.shape for name, value in taken.items()}:
        raise InputError(
            "--init: the run's network is not like this one; train both with the same --preset and --width, and on "
            "volumes or on slices both"
        )
    into.load_state_dict(taken, strict=False)


def build_relation_loss(config: Config) -> RelationLoss | None:
    """The method's relation loss with the paper's ramp-up, or None."""
    chosen = system(config.method)
    if not (chosen.general or chosen.target):
        return None
    peaks = {"general": config.relation_peak_general, "target": config.relation_peak_target}
    peak = max(peaks[name] for name in peaks if getattr(chosen, name))
    # One weight for both; a term whose own is smaller has a share of it.
    shares = {name: own / peak if peak else 1.0 for name, own in peaks.items()}
    return RelationLoss(
        weight=GaussianRampUp(config.steps, peak=peak, power=config.relation_power),
        general=chosen.general and shares["general"],
        target=chosen.target and shares["target"],
        relation=GramRelation(sync=True),
        reduction=config.relation_reduction,
    )


def trained_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters that are trained, under `general`, `target` and `decoder`; groups without any are left out."""
    if isinstance(model, DualEncoderUNet):
        groups = {group["name"]: list(group["params"]) for group in model.parameter_groups()}
    else:
        encoder = list(model.get_submodule("encoder").parameters())
        known = {id(parameter) for parameter in encoder}
        # The decoder of dynamic-network-architectures keeps a reference to the encoder.
        rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
        groups = {"target": encoder, "decoder": rest}
    trained = {name: [p for p in parameters if p.requires_grad] for name, parameters in groups.items()}
    return {name: parameters for name, parameters in trained.items() if parameters}


def clip_sets(model: nn.Module, groups: dict[str, list[nn.Parameter]]) -> list[list[str]]:
    """Names of the `groups` of `trained_groups` whose gradients are clipped together; a single network's all are."""
    if not isinstance(model, DualEncoderUNet):
        return [list(groups)]
    sets = [{id(parameter) for parameter in parameters} for parameters in model.clip_sets()]
    named = [[name for name, parameters in groups.items() if id(parameters[0]) in joined] for joined in sets]
    return [names for names in named if names]
