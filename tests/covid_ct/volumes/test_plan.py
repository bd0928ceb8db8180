"""The plan of a run on volumes: kept, compared, mended."""

import json
from dataclasses import asdict, dataclass, replace

import pytest
from covidct.errors import InputError
from covidct.results import is_finished
from covidct.run.config import Config
from covidct.run.folder import result_files
from covidct.store.preprocess import Plan
from covidct.volumes.plan import check_start, keep_plan, read_plan, write_plan
from covidct.volumes.presets import PRESETS
from covidct.volumes.records import is_record, origin, record, recorded

PLAN = Plan((5.0, 0.8, 0.8), (16, 64, 64), low=1.5, high=240.0, mean=120.25, std=30.5)


def config_of(**changes):
    values = PRESETS["demo"] | {"dataset": "covid-ct-20", "data": "", "source": (), "preset": "demo", "seed": 0}
    return Config(**values | {"method": "unet", "fold": 0} | changes)


@pytest.mark.parametrize("before", [None, b"", b'{"spacing": 1}'])
def test_a_missing_or_damaged_plan_is_written(tmp_path, before):
    if before is not None:
        (tmp_path / "plan.json").write_bytes(before)
    keep_plan(tmp_path, PLAN)
    assert read_plan(tmp_path) == PLAN


WRONG = {"spacing": [0, -1, 1e-6], "patch_size": [16, 0, 64], "low": float("nan"), "std": -1, "more": 2}


def test_every_wrong_field_is_named_at_once(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(asdict(PLAN) | WRONG))
    with pytest.raises(InputError) as caught:
        read_plan(tmp_path)
    for part in (
        "spacing[0] must be 0.01 or more, got 0; ",
        "patch_size[1] must be 1 or more, got 0; ",
        "low must be a finite number, got nan; ",
        "std must be 0 or more, got -1; ",
        "more is not known; ",
        "restore it with train.py --resume",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("changes", [{"spacing": [5.0, 0.8]}, {"spacing": [5.0, 0.8, 1e-6]}, {"patch_size": [8] * 4}])
def test_plans_that_no_volume_has(tmp_path, changes):
    (tmp_path / "plan.json").write_text(json.dumps(asdict(PLAN) | changes))
    with pytest.raises(InputError, match=r"plan\.json is damaged: (spacing|patch_size)"):
        read_plan(tmp_path)


def test_a_run_keeps_its_plan(tmp_path):
    write_plan(tmp_path, PLAN)
    keep_plan(tmp_path, PLAN)
    with pytest.raises(InputError, match=r"plan\.json is not the plan of .* now: mean 120\.25 there, 121\.0 now; put"):
        keep_plan(tmp_path, replace(PLAN, mean=121.0))
    assert read_plan(tmp_path) == PLAN


def test_a_run_without_its_plan_is_not_finished(tmp_path):
    config = config_of()
    for path in result_files(tmp_path, config):
        path.touch()
    assert not (tmp_path / "plan.json").exists()
    assert not is_finished(tmp_path, config)
    write_plan(tmp_path, PLAN)
    assert is_finished(tmp_path, config)


def test_a_start_of_another_fold_or_plan(tmp_path):
    (tmp_path / "config.json").write_text(config_of(method="pretrain", fold=1).to_json())
    write_plan(tmp_path, PLAN)
    config = config_of(method="finetune", fold=1, init=str(tmp_path))
    check_start(config, PLAN)
    with pytest.raises(InputError, match=r"is a run of fold 1, this one is of fold 2: .* the pre-training of fold 2"):
        check_start(replace(config, fold=2), PLAN)
    with pytest.raises(
        InputError, match=r"by another plan: spacing \(5\.0, 0\.8, 0\.8\) there, \(4\.0, 0\.8, 0\.8\) now"
    ):
        check_start(config, replace(PLAN, spacing=(4.0, 0.8, 0.8)))


def test_a_record_of_another_plan_is_computed_anew(tmp_path):
    (tmp_path / "model.safetensors").touch()
    came_from = origin(tmp_path, {"plan": {"spacing": PLAN.spacing}}, ())
    record(tmp_path / "one.json", came_from, {"dsc": 0.5})
    assert recorded(tmp_path / "one.json", dict[str, float], came_from) == {"dsc": 0.5}
    other = origin(tmp_path, {"plan": {"spacing": (1.0, 1.0, 1.0)}}, ())
    assert recorded(tmp_path / "one.json", dict[str, float], other) is None


NESTED = "[" * 100_000


@pytest.mark.parametrize(
    "text", ["{}", "null", "3", "", NESTED, '{"origin": ' + NESTED, '{"result": 1, "origin": null}', "\x00\xff"]
)
def test_a_damaged_record_is_none(tmp_path, text):
    path = tmp_path / "one.json"
    path.write_text(text)
    assert recorded(path, dict[str, float], {}) is None
    assert not is_record(path)


@pytest.mark.parametrize("result", [{}, [], {"dsc": "much"}, {"dsc": True}, {"nsd": 0.5}, None])
def test_a_record_of_another_result_is_computed_anew_and_ours(tmp_path, result):
    @dataclass
    class Result:
        dsc: float

    path = tmp_path / "one.json"
    path.write_text(json.dumps({"result": result, "origin": {"weights": "a"}}))
    assert recorded(path, Result, {"weights": "a"}) is None
    assert is_record(path)
    record(path, {"weights": "a"}, {"dsc": 1})
    assert recorded(path, Result, {"weights": "a"}) == Result(1.0)
