import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from covidct.errors import InputError
from covidct.run.config import Config, differences, read_config
from covidct.run.precision import resolve_precision
from covidct.slices.presets import PRESETS

from tests.covid_ct.plain_demo import DEMO

CONFIG = Config(
    dataset="covid_semiseg",
    data="/data",
    source=("/a", "/b"),
    method="ours",
    preset="demo",
    fold=None,
    seed=1,
    **DEMO,
)


def test_json_and_back(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(CONFIG.to_json())
    assert read_config(path) == CONFIG


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_configs(preset: str) -> None:
    values = {**PRESETS[preset], "precision": "32"}
    config = replace(CONFIG, preset=preset, **values)
    assert config.steps == PRESETS[preset]["steps"]


def test_the_paper_preset_is_the_papers() -> None:
    config = replace(CONFIG, **PRESETS["paper"])
    assert (config.size, config.batch_size, config.resize, config.steps) == ((448, 384), 2, False, 250_000)
    assert config.features_per_stage == (32, 64, 128, 256, 480, 480, 480)
    assert (config.learning_rate, config.momentum, config.nesterov, config.weight_decay) == (0.01, 0.99, True, 3e-5)
    assert (config.clip, config.poly, config.oversample_foreground) == (12, 0.9, 0.33)
    assert (config.relation_reduction, config.relation_power, config.precision) == ("sum", 1, "16")
    assert (config.relation_peak_general, config.relation_peak_target) == (0.1, 0.1)
    assert (config.relation_levels, config.fusion, config.route, config.width) == ((-1,), "concat", "paper", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps must be 1 or more, got 0"),
        ({"fold": 5}, "--fold must be 0 to 4, got 5; leave it out for the published split"),
        ({"fold": -1}, "--fold must be 0 to 4, got -1"),
        ({"seed": -1}, "--seed must be 0 or more, got -1"),
        ({"precision": "64"}, "--precision must be one of 32, bf16, 16, got '64'"),
        ({"size": (100, 96)}, "size 100 x 96 .* multiples of 16 x 16, at least 32 x 32; take 96 x 96"),
        ({"size": (16, 16)}, "at least 32 x 32; take 32 x 32"),
        ({"relation_reduction": "max"}, "--reduction must be 'sum', 'row_mean' or 'mean', got 'max'"),
        ({"relation_peak_general": -0.1}, "--peak-general must be 0 or more, got -0.1"),
        ({"relation_peak_target": float("inf")}, "--peak-target must be a finite number"),
        ({"fusion": "add"}, "--fusion must be 'concat' or 'project', got 'add'"),
        ({"route": "both"}, "--route must be 'paper' or 'joint', got 'both'"),
        ({"width": 0.0}, "--width must be more than 0, got 0"),
        ({"relation_levels": ()}, "--levels must have at least 1 item"),
        ({"relation_levels": (5,)}, r"--levels must be from -5 to 4, the encoder's stages; got \(5,\)"),
        ({"fuse_levels": (-6,)}, r"--fuse-levels must be from -5 to 4"),
        ({"fuse_levels": (0, 4, -1)}, r"--fuse-levels names a stage twice: \(0, 4, -1\)"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changes)


def test_an_older_config_is_read_as_it_was(tmp_path: Path) -> None:
    """One peak for both terms, and none of the later fields."""
    path, values = tmp_path / "config.json", asdict(CONFIG)
    for name in ("relation_peak_general", "relation_peak_target", "relation_levels", "fuse_levels", "fusion"):
        del values[name]
    del values["route"], values["width"]
    path.write_text(json.dumps(values | {"relation_peak": 0.2, "relation_reduction": "row_mean"}))
    config = read_config(path)
    assert config == replace(CONFIG, relation_reduction="row_mean", relation_peak_general=0.2, relation_peak_target=0.2)
    path.write_text(json.dumps(values | {"relation_peak_general": 0.1}))
    with pytest.raises(InputError, match=r"missing fields \['relation_peak_target'\]"):
        read_config(path)
    path.write_text(json.dumps(values | {"relation_peak": "high"}))
    with pytest.raises(InputError, match=r"relation_peak_general must be a valid number, got 'high'"):
        read_config(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is missing: .* is not a run folder"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CONFIG.to_json()[:50], "config.json is damaged: it is not JSON"),
        ("[1]", r"config.json is damaged: it must be an object, got \[1\]"),
        ('{"epochs": 3}', r"unknown fields \['epochs'\], missing fields \['batch_size'"),
        (
            json.dumps({**asdict(CONFIG), "steps": 0}),
            "json is damaged: steps must be 1 or more, got 0; put it back",
        ),
        (
            json.dumps({**asdict(CONFIG), "steps": "many"}),
            "json is damaged: steps must be a valid integer, got 'many'",
        ),
        (
            json.dumps({**asdict(CONFIG), "steps": True}),
            "json is damaged: steps must be a valid integer, got True",
        ),
        (json.dumps({**asdict(CONFIG), "size": 96}), "json is damaged: size must be a valid array, got 96"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(path)


WRONG: dict[str, Any] = {
    "fold": 7,
    "seed": -1,
    "batch_size": 0,
    "size": [96],
    "features_per_stage": [],
    "precision": "64",
    "flips": 1,
    "workers": -1,
    "learning_rate": -0.01,
    "momentum": -1,
    "weight_decay": float("nan"),
    "clip": 0,
    "poly": float("inf"),
    "oversample_foreground": 1.5,
    "relation_peak_general": float("-inf"),
    "relation_reduction": "max",
    "relation_power": 0,
    "fusion": "add",
    "route": "none",
    "width": 0,
    "strides": [[0, 1]],
    "kernel_sizes": [[2, 2]],
}


def test_every_wrong_field_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(CONFIG) | WRONG))
    with pytest.raises(InputError) as caught:
        read_config(path)
    text = str(caught.value)
    assert "\n" not in text
    for name in WRONG:
        assert text.count(f"; {name}") + text.count(f": {name}") == 1, name
    assert "features_per_stage must have at least 2 items, got []" in text
    assert "momentum must be 0 or more, got -1" in text
    assert "kernel_sizes[0][0] must be odd, got 2" in text
    assert "fold must be 0 to 4, got 7; leave it out" in text
    assert "weight_decay must be a finite number, got nan" in text


@pytest.mark.parametrize("size", [[], [96], [96, 96, 96, 96], [-96, 96], [0, 0], [96.0, 96]])
def test_sizes_that_no_network_has(tmp_path: Path, size: list[float]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(CONFIG) | {"size": size}))
    with pytest.raises(InputError, match=r"config\.json is damaged: size\S* must "):
        read_config(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": [[2, 2]]}, r"strides must have 5 items, one a stage .* of 2 numbers each"),
        ({"kernel_sizes": [[3, 3, 3]] * 5}, r"kernel_sizes must have 5 items, .* of 2 numbers each"),
        ({"momentum": 0, "size": [100, 96]}, r"size 100 x 96 .*; nesterov must be false where momentum is 0"),
        ({"size": [100, 96]}, r"size 100 x 96 does not fit a network of 5 stages"),
    ],
)
def test_fields_that_do_not_fit_together(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(CONFIG) | changes))
    with pytest.raises(InputError, match=rf"config\.json is damaged: {message}.*; put it back as train\.py wrote it"):
        read_config(path)


def test_a_run_of_the_first_version(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    younger = ("strides", "kernel_sizes", "init", "store")
    path.write_text(json.dumps({name: value for name, value in asdict(CONFIG).items() if name not in younger}))
    assert read_config(path) == CONFIG


def test_a_field_with_a_default_is_no_field_to_leave_out(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({name: value for name, value in asdict(CONFIG).items() if name != "momentum"}))
    with pytest.raises(InputError, match=r"unknown fields none, missing fields \['momentum'\]; train again"):
        read_config(path)


def test_whole_numbers_may_stand_for_others(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(CONFIG) | {"clip": 12}))
    assert read_config(path) == CONFIG


def test_differences_name_the_fields() -> None:
    assert differences(CONFIG, {"method": "ours", "seed": 1}) == []
    assert differences(CONFIG, {"method": "unet", "seed": 2}) == [
        "method is 'ours' in the run, 'unet' was asked for",
        "seed is 1 in the run, 2 was asked for",
    ]


@pytest.mark.parametrize(("asked", "cuda"), [("32", False), ("bf16", False), ("16", True)])
def test_an_explicit_precision_stays(asked: str, cuda: bool) -> None:
    assert resolve_precision(asked, cuda=cuda) == asked


def test_16_bits_need_cuda() -> None:
    with pytest.raises(InputError, match=r"needs a CUDA device .* take --precision 32 or bf16"):
        resolve_precision("16", cuda=False)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"architecture": "aarch64", "bf16": True}, "bf16"),
        ({"avx512_f": True, "avx512_bf16": False}, "32"),
        ({}, "32"),
    ],
)
def test_bf16_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)  # torch before 2.10 has none
    assert resolve_precision("auto", cuda=False) == expected
