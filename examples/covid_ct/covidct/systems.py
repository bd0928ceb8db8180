"""The paper's systems: what each method builds, freezes and adds to the segmentation loss."""

from dataclasses import dataclass

import torch
from torch import nn

from covidct.config import Config
from covidct.errors import InputError
from covidct.networks.plain_unet import plain_unet
from relcons import DualEncoderUNet, GaussianRampUp, GramRelation, RelationLoss


@dataclass(frozen=True)
class System:
    """One row of a table. `general` and `target` are the relation losses; without L_G the general encoder is frozen."""

    title: str
    dual: bool = True
    general: bool = False
    target: bool = False

    @property
    def needs_source(self) -> bool:
        """Whether training takes a source batch (X^n, lesions of other diseases)."""
        return self.general


SYSTEMS = {
    "unet": System("single network (2D nnUNet)", dual=False),
    "baseline": System("frozen general encoder, no relation loss"),
    "general": System("general consistency L_G", general=True),
    "target": System("frozen general encoder, target consistency L_T", target=True),
    "ours": System("the paper's method, L_G + L_T", general=True, target=True),
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
        net = plain_unet(config.features_per_stage)
        if not chosen.dual:
            return net
        model = DualEncoderUNet(net, general="reset", fusion="concat")
    model.freeze_general(not chosen.general)
    return model


def build_relation_loss(config: Config) -> RelationLoss | None:
    """The method's relation loss with the paper's ramp-up, or None."""
    chosen = system(config.method)
    if not (chosen.general or chosen.target):
        return None
    weight = GaussianRampUp(config.steps, peak=config.relation_peak, power=config.relation_power)
    return RelationLoss(
        weight=weight,
        general=chosen.general,
        target=chosen.target,
        relation=GramRelation(sync=True),
        reduction=config.relation_reduction,
    )


def trained_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters that are trained, under `general`, `target` and `decoder`; groups without any are left out."""
    if isinstance(model, DualEncoderUNet):
        groups = {group["name"]: list(group["params"]) for group in model.parameter_groups()}
    else:
        encoder = list(model.encoder.parameters())
        known = {id(parameter) for parameter in encoder}
        # The decoder of dynamic-network-architectures keeps a reference to the encoder.
        rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
        groups = {"target": encoder, "decoder": rest}
    trained = {name: [p for p in parameters if p.requires_grad] for name, parameters in groups.items()}
    return {name: parameters for name, parameters in trained.items() if parameters}
