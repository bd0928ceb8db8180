import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from covidct.errors import InputError
from covidct.run.config import Config, differences, read_config
from covidct.run.precision import resolve_precision
from covidct.slices.presets import PRESETS

CONFIG = Config(
    dataset="covid_semiseg",
    data="/data",
    source=("/a", "/b"),
    method="ours",
    preset="demo",
    fold=None,
    seed=1,
    **PRESETS["demo"],
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
    assert (config.relation_peak, config.relation_power, config.precision) == (0.1, 1, "16")


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
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changes)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is missing: .* is not a run folder"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CONFIG.to_json()[:50], "cannot be read"),
        ("[1]", "holds list, not the fields"),
        ('{"epochs": 3}', r"unknown fields \['epochs'\], missing fields \['batch_size'"),
        (json.dumps({**asdict(CONFIG), "steps": 0}), "config.json: --steps must be 1 or more"),
        (json.dumps({**asdict(CONFIG), "steps": "many"}), "config.json: .*steps"),
        (json.dumps({**asdict(CONFIG), "steps": True}), "config.json: steps is True"),
        (json.dumps({**asdict(CONFIG), "size": 96}), "config.json: .*size"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(path)


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
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", cuda=False) == expected
