from dataclasses import fields, replace
from typing import Any

import pytest
from covidct.arguments import Arguments
from covidct.errors import InputError
from covidct.run.ablations import CHOICES, asked_choices, caption, departures
from covidct.run.building import dual_width
from covidct.run.config import Config
from covidct.run.results import NAMED
from covidct.run.systems import SYSTEMS

from tests.covid_ct.fabricated_runs import config

NOTHING = dict.fromkeys(choice.argument for choice in CHOICES)


def of(method: str, **changes: Any) -> Config:
    return config(volumes=False, method=method, **changes)


def test_a_choice_is_a_field_an_option_and_named_in_results() -> None:
    arguments, configs = ({field.name for field in fields(kind)} for kind in (Arguments, Config))
    for choice in CHOICES:
        assert choice.argument in arguments
        assert choice.field in configs
        assert choice.field in NAMED
        assert any(choice.acts(entry) for entry in SYSTEMS.values())


def test_what_is_not_given_is_the_papers() -> None:
    assert asked_choices(NOTHING, of("ours")) == {}
    asked = asked_choices(NOTHING | {"reduction": "mean", "levels": (-1, 2), "ramp_power": 2.0}, of("ours"))
    assert asked == {"relation_reduction": "mean", "relation_levels": (-1, 2), "relation_power": 2.0}


def test_a_draw_is_of_target_cases() -> None:
    with pytest.raises(InputError, match="--target-draw says which draw of --target-cases"):
        asked_choices(NOTHING | {"target_draw": 1}, of("unet"))
    # Of a run that is gone on with, the config has them.
    assert asked_choices(NOTHING | {"target_draw": 1}, of("unet", target_cases=4)) == {"target_draw": 1}
    assert "draw 1" in caption(of("unet", target_cases=4, target_draw=1))
    assert "draw" not in caption(of("unet", target_cases=4))


def test_the_general_encoders_rate_is_said_where_it_acts() -> None:
    slow = of("ours", general_rate=0.005)
    assert "general encoder's rate x 0.005" in caption(slow)
    assert departures(slow) == ""
    assert "rate" not in caption(replace(slow, route="joint"))
    with pytest.raises(InputError, match="--general-rate changes nothing under --route joint"):
        asked_choices(NOTHING | {"general_rate": 0.1, "route": "joint"}, of("ours"))


def test_which_slice_of_a_scan_is_said_where_slices_are_drawn() -> None:
    asked = asked_choices(NOTHING | {"source_policy": "max_area", "source_cases": 4}, of("ours"))
    assert caption(of("ours", **asked)).count("source slices 4, slice of each scan max_area") == 1
    assert "scan" not in caption(of("ours", source_cases=4))
    assert departures(of("ours", **asked)) == ""
    with pytest.raises(InputError, match="--source-policy changes nothing where all slices are taken"):
        asked_choices(NOTHING | {"source_policy": "max_area"}, of("ours"))
    with pytest.raises(InputError, match="--source-policy changes nothing in method baseline"):
        asked_choices(NOTHING | {"source_policy": "max_area", "source_cases": None}, of("baseline"))


def test_a_width_is_a_factor_or_that_of_two_encoders() -> None:
    assert asked_choices(NOTHING | {"width": "1.5"}, of("unet")) == {"width": 1.5}
    assert asked_choices(NOTHING | {"width": "dual"}, of("unet")) == {"width": dual_width(of("unet"))}
    with pytest.raises(InputError, match=r"--width must be a factor such as 1\.2, or dual, got 'wide'"):
        asked_choices(NOTHING | {"width": "wide"}, of("unet"))


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("unet", "width 1"),
        ("baseline", "fused levels -1, fusion concat, route paper, general encoder random at first"),
        (
            "ours",
            "reduction sum, lambda_G to 0.1, lambda_T to 0.1, ramp power 1, anchor no, levels -1, fused levels -1, "
            "fusion concat, route paper, general encoder random at first",
        ),
    ],
)
def test_a_caption_names_every_choice_that_acts(method: str, text: str) -> None:
    assert caption(of(method)) == text
    assert caption(of(method)).startswith("width") == (method == "unet")


def test_a_caption_says_where_the_general_encoder_came_from() -> None:
    assert caption(of("multi-encoder", init="runs/lesions")) == (
        "fused levels 0 1 2 3 4, fusion concat, route paper, general encoder from runs/lesions"
    )


@pytest.mark.parametrize("method", [*SYSTEMS, "supervised-general"])
def test_the_papers_systems_depart_in_nothing(method: str) -> None:
    assert departures(of(method)) == ""


def test_departures_are_those_that_act() -> None:
    older = {"relation_reduction": "row_mean", "relation_peak_general": 0.2}
    assert departures(of("ours", **older)) == "reduction row_mean, lambda_G to 0.2"
    assert departures(of("target", **older)) == "reduction row_mean"
    assert departures(of("baseline", **older)) == ""
    assert departures(of("unet", width=1.2)) == "width 1.2"
    assert departures(of("ours", relation_levels=(4,), fuse_levels=(4,))) == ""
    assert departures(replace(of("multi-encoder"), fuse_levels=(-1,))) == "fused levels -1"
    assert departures(of("multi-encoder", fuse_levels=(4, 3, 2, 1, 0))) == ""
