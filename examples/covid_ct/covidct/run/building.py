"""What a config names, made: the method's network, its start, its relation losses, and its groups of parameters."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from covidct.errors import InputError
from covidct.networks.plain_unet import plain_unet
from covidct.networks.supervised_general import SupervisedGeneral
from covidct.run.config import Config
from covidct.run.systems import system
from relcons import DualEncoderUNet, GaussianRampUp, GramRelation, RelationAnchor, RelationLoss

# Of `Config.imagenet`: the weights that timm downloads.
TIMM = "timm"


def build_model(config: Config, *, imagenet: bool = False) -> nn.Module:
    """The method's network, its weights drawn from `config.seed` alone.

    imagenet: the encoder's are those that the config names, where it names some; for what is trained from now on.
    """
    chosen = system(config.method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if chosen.network is not None:
            net: nn.Module = chosen.network.build(**(_pretrained(config) if imagenet else {}))
            return net
        net = plain_unet(config.widths, axes=config.axes, strides=config.strides, kernel_sizes=config.kernel_sizes)
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
        # Under route "joint" the segmentation loss trains it, whatever its own losses do.
        model.freeze_general(not chosen.trains_general and config.route == "paper")
        return SupervisedGeneral(model, config.widths, axes=config.axes) if chosen.supervised else model


def _pretrained(config: Config) -> dict[str, bool | Path]:
    if not config.imagenet:
        return {}
    return {"pretrained": True if config.imagenet == TIMM else Path(config.imagenet)}


def two_encoders(model: nn.Module) -> DualEncoderUNet | None:
    """The model of two encoders in what `build_model` returned, if it is one."""
    inner = model.model if isinstance(model, SupervisedGeneral) else model
    return inner if isinstance(inner, DualEncoderUNet) else None


def fused_levels(config: Config) -> tuple[int, ...]:
    """The stages at which the general encoder's maps enter the decoder."""
    if config.fuse_levels:
        return config.fuse_levels
    return tuple(range(len(config.features_per_stage))) if system(config.method).fuse_all else (-1,)


def general_rate(config: Config) -> float:
    """The general encoder's learning rate as a part of the others'; of one that other losses train as well, 1."""
    return config.general_rate if system(config.method).general and config.route == "paper" else 1.0


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
    into, dual = model, two_encoders(model)
    if dual is not None:
        into, taken = dual.general_encoder, dict(trained.get_submodule("encoder").state_dict())
    present = {name: value.shape for name, value in into.state_dict().items() if ".seg_layers." not in name}
    if present != {name: value.shape for name, value in taken.items()}:
        raise InputError(
            "--init: the run's network is not like this one; train both with the same --preset and --width, and on "
            "volumes or on slices both"
        )
    into.load_state_dict(taken, strict=False)


def build_relation_loss(config: Config, model: nn.Module | None = None) -> RelationLoss | None:
    """The method's relation loss with the paper's ramp-up, or None; an anchored one holds to the weights of `model`."""
    chosen = system(config.method)
    if not (chosen.general or chosen.target):
        return None
    peaks = {"general": config.relation_peak_general, "target": config.relation_peak_target}
    peak = max(peaks[name] for name in peaks if getattr(chosen, name))
    dual = None if model is None else two_encoders(model)
    # One weight for both; a term whose own is smaller has a share of it.
    shares = {name: own / peak if peak else 1.0 for name, own in peaks.items()}
    return RelationLoss(
        weight=GaussianRampUp(config.steps, peak=peak, power=config.relation_power),
        general=chosen.general and shares["general"],
        target=chosen.target and shares["target"],
        relation=GramRelation(sync=True),
        reduction=config.relation_reduction,
        anchor=RelationAnchor(dual) if dual is not None and config.anchor else None,
    )


def trained_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters that are trained, under `general`, `target` and `decoder`; groups without any are left out."""
    dual = two_encoders(model)
    if dual is not None:
        groups = {group["name"]: list(group["params"]) for group in dual.parameter_groups()}
        if isinstance(model, SupervisedGeneral):
            groups["general"] += model.source_decoder.parameters()
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
    dual = two_encoders(model)
    if dual is None:
        return [list(groups)]
    sets = [{id(parameter) for parameter in parameters} for parameters in dual.clip_sets()]
    named = [[name for name, parameters in groups.items() if id(parameters[0]) in joined] for joined in sets]
    return [names for names in named if names]
