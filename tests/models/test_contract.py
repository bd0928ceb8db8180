"""The shared tester over every supported network."""

from collections.abc import Callable
from functools import partial

import pytest
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from tests.models.contract import (
    CHECKS,
    parameters_are_disjoint_and_complete,
    starts_as_the_single_network,
    whole_method_moves_every_trainable_parameter,
)
from tests.models.networks import (
    SMP,
    SWIN,
    Case,
    dna_case,
    monai_case,
    nested_case,
    own_case,
    smp_case,
    smp_net,
    timm_case,
)

# Networks that are large however they are built, and the others in their further dimension.
LARGE = [
    monai_case("DynUNet", 2),
    monai_case("SegResNet", 3),
    monai_case("BasicUNet", 3),
    monai_case("UNet", 3),
    monai_case("AttentionUnet", 3),
    *[
        case
        for axes in (2, 3)
        for case in (
            monai_case("FlexibleUNet", axes, side=32),
            monai_case("SwinUNETR", axes, side=32),
            monai_case("VNet", axes),
        )
    ],
]

NETWORKS = [
    *[smp_case(architecture) for architecture in SMP],
    smp_case("FPN", "tu-test_convnext"),
    smp_case("Segformer", "mit_b0"),
    smp_case("UPerNet", **SWIN),
    smp_case("Unet", "resnet18", encoder_depth=3, decoder_channels=(16, 12, 8)),
    smp_case("Unet", "tu-test_efficientnet", aux_params={"classes": 3}),
    *[
        dna_case(kind, axes, deep_supervision)
        for kind in (PlainConvUNet, ResidualEncoderUNet)
        for axes in (2, 3)
        for deep_supervision in (True, False)
    ],
    monai_case("SegResNet", 2),
    monai_case("BasicUNet", 2),
    monai_case("DynUNet", 3),
    *[monai_case("DynUNet", axes, deep_supervision=True, deep_supr_num=2) for axes in (2, 3)],
    monai_case("UNet", 2),
    monai_case("AttentionUnet", 2),
    timm_case("test_resnet"),
    *[own_case(axes) for axes in (1, 2, 3)],
    *[nested_case(axes) for axes in (1, 2, 3)],
    *LARGE,
]

FULL_SIZE = [
    Case(f"{architecture}-{encoder}", partial(smp_net, architecture, encoder), (1, side, side))
    for architecture in SMP
    for encoder in ("resnet18", "tu-resnet18", "tu-convnext_atto", "mit_b0")
    for side in [128 if architecture == "PAN" else 64]
    if (architecture, encoder) not in {("UnetPlusPlus", "mit_b0"), ("Linknet", "mit_b0")}  # smp refuses them
]


# All checks of the large networks take a quarter of an hour: tests/long/large_networks.py.
OF_LARGE = (
    starts_as_the_single_network,
    whole_method_moves_every_trainable_parameter,
    parameters_are_disjoint_and_complete,
)
PAIRS = [
    pytest.param(case, check, marks=[pytest.mark.slow] if case in LARGE else [], id=f"{case}-{check.__name__}")
    for case in NETWORKS
    for check in (OF_LARGE if case in LARGE else CHECKS)
]


@pytest.mark.parametrize(("case", "check"), PAIRS)
def test_contract(case: Case, check: Callable[[Case], None]) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [starts_as_the_single_network, whole_method_moves_every_trainable_parameter],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("case", FULL_SIZE, ids=str)
def test_full_size(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
