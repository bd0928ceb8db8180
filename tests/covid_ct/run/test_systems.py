import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from covidct.errors import InputError
from covidct.networks.plain_unet import plain_unet
from covidct.run.building import (
    build_model,
    build_relation_loss,
    count_parameters,
    dual_width,
    start_from,
    trained_groups,
    two_encoders,
)
from covidct.run.config import Config
from covidct.run.systems import STARTS, SYSTEMS, system
from covidct.slices.presets import PRESETS
from covidct.training.segmentation_loss import segmentation_loss
from covidct.volumes.presets import PRESETS as VOLUME_PRESETS

from relcons import DualEncoderUNet

CONFIG = Config(
    dataset="covid_semiseg",
    data="",
    source=(),
    method="ours",
    preset="cpu",
    fold=0,
    seed=3,
    **{**PRESETS["cpu"], "precision": "32", "size": (16, 16), "features_per_stage": (4, 6, 8), "steps": 10},
)

GROUPS = {
    "unet": {"target", "decoder"},
    "pretrain": {"target", "decoder"},
    "finetune": {"target", "decoder"},
    "multi-encoder": {"target", "decoder"},
    "baseline": {"target", "decoder"},
    "general": {"general", "target", "decoder"},
    "target": {"target", "decoder"},
    "ours": {"general", "target", "decoder"},
    "ours-un": {"general", "target", "decoder"},
    "supervised-general": {"general", "target", "decoder"},
    "self-taught": {"target", "decoder"},
    "reconstruct": {"target", "decoder"},
}
TABLE_V = ("u-net", "attention-unet", "gated-unet", "dense-unet", "u-net++", "inf-net", "semi-inf-net")
FROZEN = ("multi-encoder", "baseline", "target")


def of(method: str) -> Config:
    return replace(CONFIG, method=method)


def test_the_table_is_the_papers() -> None:
    assert set(SYSTEMS) == {*GROUPS, *TABLE_V}

    def those(fact: str) -> set[str]:
        return {name for name, entry in SYSTEMS.items() if getattr(entry, fact)}

    assert those("needs_source") == {"pretrain", "general", "ours", "ours-un", "supervised-general"}
    assert those("needs_unlabelled") == {"ours-un", "semi-inf-net", "self-taught", "reconstruct"}
    assert those("slices_alone") == {*TABLE_V, "ours-un", "supervised-general", "self-taught", "reconstruct"}
    assert those("staged") == {"semi-inf-net", "self-taught"}
    assert those("tested") == set(SYSTEMS) - {"pretrain", "reconstruct"}
    assert STARTS == ("pretrain", "reconstruct")


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(
        InputError, match="'best' is unknown; take one of unet, pretrain, finetune, multi-encoder, baseline, "
    ):
        system("best")


def test_parameters_of_table_ii() -> None:
    net = plain_unet(PRESETS["paper"]["features_per_stage"])
    assert sum(p.numel() for p in net.parameters()) == 29_966_118
    model = DualEncoderUNet(net, general="reset", fusion="concat")
    assert sum(p.numel() for p in model.parameters()) == 43_543_878


def test_parameters_of_table_i() -> None:
    paper = VOLUME_PRESETS["paper"]
    net = plain_unet(paper["features_per_stage"], axes=3, strides=paper["strides"], kernel_sizes=paper["kernel_sizes"])
    assert sum(p.numel() for p in net.parameters()) == 30_702_693
    model = DualEncoderUNet(net, general="reset", fusion="concat")
    assert sum(p.numel() for p in model.parameters()) == 45_118_405


def test_a_multi_encoder_is_wider_only_where_maps_are_joined() -> None:
    """The decoder of Table I: maps of both encoders go in at every stage, and stages give what they gave."""
    paper = VOLUME_PRESETS["paper"]
    features, kernels = paper["features_per_stage"], paper["kernel_sizes"]
    net = plain_unet(features, axes=3, strides=paper["strides"], kernel_sizes=kernels)
    single = sum(p.numel() for p in net.parameters())
    encoder = sum(p.numel() for p in net.encoder.parameters())
    every = tuple(range(len(features)))
    model = DualEncoderUNet(net, general="reset", fusion="concat", fuse_levels=every)
    joined = sum(features[level] ** 2 * math.prod(kernels[level]) for level in every[:-1])
    upsampling = features[-1] * features[-2] * math.prod(paper["strides"][-1])
    assert sum(p.numel() for p in model.parameters()) == single + encoder + joined + upsampling


def test_rows_of_table_i() -> None:
    """Table I, from conv1 to conv10: 1 x 3 x 3 at full resolution on both sides, a bottleneck of 7 x 5 x 6."""
    config = Config(
        dataset="covid-ct-20",
        data="",
        source=(),
        method="ours",
        preset="paper",
        fold=0,
        seed=0,
        **VOLUME_PRESETS["paper"],
    )
    assert [size // divisor for size, divisor in zip(config.size, config.divisors, strict=True)] == [7, 5, 6]
    narrow = replace(config, features_per_stage=(2, 2, 2, 2, 2, 2))
    net = build_model(replace(narrow, method="unet"))
    kernels = [stage[0].convs[0].conv.kernel_size for stage in net.encoder.stages]
    assert kernels == [(1, 3, 3), *[(3, 3, 3)] * 5]
    assert [stage.convs[0].conv.kernel_size for stage in net.decoder.stages] == [*[(3, 3, 3)] * 4, (1, 3, 3)]
    assert [up.stride for up in net.decoder.transpconvs] == [(1, 2, 2), *[(2, 2, 2)] * 3, (1, 2, 2)]


@pytest.mark.parametrize("axes", [2, 3])
def test_what_starts_from_an_earlier_run(axes: int) -> None:
    at = {"size": (16,) * axes}
    trained = build_model(replace(of("pretrain"), seed=8, **at))
    for method in GROUPS:
        model, fresh = (build_model(replace(of(method), **at)) for _ in range(2))
        start_from(model, trained, method)
        changed = {
            name for name, value in model.state_dict().items() if not torch.equal(value, fresh.state_dict()[name])
        }
        weights = {name for name in changed if name.endswith("conv.weight")}
        if method in ("finetune", "self-taught"):
            assert torch.equal(
                model.decoder.stages[0].convs[0].conv.weight, trained.decoder.stages[0].convs[0].conv.weight
            )
            assert not any(".seg_layers." in name for name in changed)
            assert not torch.equal(model.decoder.seg_layers[0].weight, trained.decoder.seg_layers[0].weight)
        elif method == "multi-encoder":
            assert weights
            assert all(name.startswith("general_encoders.0.") for name in changed)
            for (name, weight), own in zip(
                trained.encoder.named_parameters(), model.general_encoder.parameters(), strict=True
            ):
                assert torch.equal(weight, own), name
            assert not any(p.requires_grad for p in model.general_encoder.parameters())
        elif method in ("unet", "pretrain", "reconstruct"):
            assert not changed
        else:
            dual = two_encoders(model)
            assert dual is not None
            changed = {name.removeprefix("model.") for name in changed}
            assert weights
            assert all(name.startswith("general_encoders.0.") for name in changed)
            own = dual.general_encoder.state_dict()
            assert all(torch.equal(value, own[name]) for name, value in trained.encoder.state_dict().items())
            assert any(p.requires_grad for p in dual.general_encoder.parameters()) == SYSTEMS[method].trains_general


def test_another_network_to_start_from_is_refused() -> None:
    trained = build_model(replace(of("pretrain"), features_per_stage=(4, 6, 10)))
    for method in ("finetune", "multi-encoder"):
        with pytest.raises(
            InputError, match="--init: the run's network is not like this one; train both with the same"
        ):
            start_from(build_model(of(method)), trained, method)


def test_a_multi_encoder_fuses_every_level() -> None:
    model = build_model(of("multi-encoder"))
    assert model.fusion.levels == (0, 1, 2)
    assert build_model(of("ours")).fusion.levels == (2,)
    assert build_model(replace(of("multi-encoder"), fuse_levels=(-1,))).fusion.levels == (2,)


def test_what_the_paper_leaves_open_is_built_as_it_says() -> None:
    paper = build_model(CONFIG)
    assert (paper.levels, paper.fusion.levels, paper.route) == ((2,), (2,), "paper")
    other = build_model(replace(CONFIG, relation_levels=(-1, 0), fuse_levels=(1, 2), fusion="project", route="joint"))
    assert (other.levels, other.fusion.levels, other.route) == ((2, 0), (1, 2), "joint")
    # As wide as the single network's, which keeps a reference to its encoder.
    single = build_model(of("unet")).decoder.state_dict()
    own = {name: value.shape for name, value in other.decoder.state_dict().items()}
    assert own == {name: value.shape for name, value in single.items() if not name.startswith("encoder.")}


@pytest.mark.parametrize("method", ["baseline", "target", "multi-encoder"])
def test_the_joint_route_trains_the_general_encoder(method: str) -> None:
    assert set(trained_groups(build_model(replace(of(method), route="joint")))) == {"general", "target", "decoder"}


@pytest.mark.parametrize("method", SYSTEMS)
def test_parameters_are_counted_without_making_them(method: str) -> None:
    assert count_parameters(of(method)) == sum(p.numel() for p in build_model(of(method)).parameters())


def test_width_is_a_factor_on_every_stage() -> None:
    config = replace(of("unet"), width=1.26)
    assert config.widths == (5, 8, 10)
    assert [stage[0].convs[0].conv.out_channels for stage in build_model(config).encoder.stages] == [5, 8, 10]
    assert replace(of("unet"), width=0.01).widths == (1, 1, 1)


@pytest.mark.parametrize(
    ("preset", "dual"),
    [(PRESETS["demo"], 1_943_268), (PRESETS["paper"], 43_543_878), (VOLUME_PRESETS["paper"], 45_118_405)],
)
def test_the_width_of_two_encoders_has_their_parameters(preset: dict[str, Any], dual: int) -> None:
    """Nearer than the widths beside it, and within half a percent of the count of Table I, or II."""
    config = Config(
        dataset="covid_semiseg",
        data="",
        source=(),
        method="unet",
        preset="paper",
        fold=0,
        seed=0,
        **{**preset, "precision": "32"},
    )
    width = dual_width(config)

    def off(width: float) -> int:
        found = replace(config, width=width)
        net = plain_unet(found.widths, axes=found.axes, strides=found.strides, kernel_sizes=found.kernel_sizes)
        return abs(sum(p.numel() for p in net.parameters()) - dual)

    with torch.device("meta"):
        assert off(width) < 0.005 * dual
        assert off(width) <= min(off(width - 0.001), off(width + 0.001))


def test_the_bottleneck_of_preset_cpu_is_table_iis() -> None:
    net = plain_unet(PRESETS["cpu"]["features_per_stage"])
    assert net.encoder(torch.zeros(1, 1, *PRESETS["cpu"]["size"]))[-1].shape[2:] == (7, 6)


def test_weights_are_nnunets_he_initialisation() -> None:
    torch.manual_seed(0)
    net = plain_unet((32, 64, 128))
    weight = net.encoder.stages[2][0].convs[1].conv.weight
    assert weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / (128 * 9)) ** 0.5, rel=0.02)
    assert all(not p.any() for name, p in net.named_parameters() if name.endswith("conv.bias"))


@pytest.mark.parametrize("method", GROUPS)
def test_what_is_trained(method: str) -> None:
    model = build_model(of(method))
    groups = trained_groups(model)
    assert set(groups) == GROUPS[method]
    trained = [id(p) for parameters in groups.values() for p in parameters]
    assert len(trained) == len(set(trained))
    frozen = set(model.general_encoder.parameters()) if method in FROZEN else set()
    assert set(trained) == {id(p) for p in model.parameters()} - {id(p) for p in frozen}


@pytest.mark.parametrize("method", GROUPS)
def test_every_trained_parameter_gets_a_gradient(method: str) -> None:
    chosen, model, relation = system(method), build_model(of(method)), build_relation_loss(of(method))
    model.train()
    images, source = torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16) if chosen.general else None
    if chosen.supervised:
        logits, of_source = model(images, source=torch.randn(2, 1, 16, 16))
        extra = segmentation_loss(of_source, torch.ones(2, 1, 16, 16))
    elif relation is None:
        logits, extra = model(images), 0
    else:
        output = model(images, source=source, features=True)
        logits, extra = output.logits, relation(output)
    (segmentation_loss(logits, torch.ones(2, 1, 16, 16)) + extra).backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad


@pytest.mark.parametrize(("method", "general", "target"), [("general", 1, None), ("target", None, 1), ("ours", 1, 1)])
def test_relation_loss(method: str, general: float | None, target: float | None) -> None:
    peaks = {"relation_peak_general": 0.3, "relation_peak_target": 0.3}
    loss = build_relation_loss(replace(of(method), relation_power=2.0, **peaks))
    assert loss is not None
    assert (loss.general, loss.target, loss.reduction) == (general, target, "sum")
    assert (loss.schedule.total_steps, loss.schedule.peak, loss.schedule.power) == (10, 0.3, 2.0)
    assert build_relation_loss(replace(of(method), relation_reduction="row_mean")).reduction == "row_mean"


@pytest.mark.parametrize(
    ("method", "peaks", "weights"),
    [
        ("ours", (0.2, 0.05), (0.2, 0.05)),
        ("ours", (0.01, 0.04), (0.01, 0.04)),
        ("ours", (0.0, 0.04), (0.0, 0.04)),
        ("ours", (0.0, 0.0), (0.0, 0.0)),
        ("general", (0.02, 0.5), (0.02, None)),
        ("target", (0.5, 0.02), (None, 0.02)),
    ],
)
def test_each_term_has_a_weight_of_its_own(
    method: str, peaks: tuple[float, float], weights: tuple[float | None, float | None]
) -> None:
    config = replace(of(method), relation_peak_general=peaks[0], relation_peak_target=peaks[1])
    loss = build_relation_loss(config)
    assert loss is not None
    loss.step(config.steps)
    ends = [None if share is None else share * loss.current_weight.item() for share in (loss.general, loss.target)]
    assert ends == [None if weight is None else pytest.approx(weight, rel=1e-6) for weight in weights]


@pytest.mark.parametrize("method", ["unet", "pretrain", "finetune", "multi-encoder", "baseline"])
def test_no_relation_loss(method: str) -> None:
    assert build_relation_loss(of(method)) is None


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model(CONFIG).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second, other = build_model(CONFIG).state_dict(), build_model(replace(CONFIG, seed=4)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_general_and_target_encoder_start_apart() -> None:
    model = build_model(CONFIG)
    weights = [e.stages[0][0].convs[0].conv.weight for e in (model.general_encoder, model.target_encoder)]
    assert not torch.equal(*weights)


def test_methods_of_one_seed_share_the_target_encoder() -> None:
    single, dual = build_model(of("unet")), build_model(CONFIG)
    pairs = zip(single.encoder.parameters(), dual.target_encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
