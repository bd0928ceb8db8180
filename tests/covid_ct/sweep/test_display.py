import io
import json

import pytest
from covidct.run.plan import Training
from covidct.sweep.display import Display
from covidct.sweep.runs import last_words, share_done
from covidct.sweep.schedule import State
from rich.console import Console

from tests.covid_ct.fabricated_runs import config

A, B, C, D = (Training(name, ()) for name in "abcd")


@pytest.fixture
def said(tmp_path):
    """A display of four runs outside a terminal, a clock to set, and what it has said."""
    console = Console(file=io.StringIO(), width=120)
    clock = [1000.0]
    display = Display(console, tmp_path, 4, clock_now=lambda: clock[0])

    def show(seconds, state):
        clock[0] = 1000.0 + seconds
        before = console.file.tell()
        display.show(state)
        return console.file.getvalue()[before:].splitlines()

    return show


def log(run, *steps):
    """A run of 600 steps that has logged some."""
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text(config(volumes=False).to_json())
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in steps))


def test_what_begins_ends_and_fails_is_said_once(said):
    assert said(0, State([B, C, D], {}, ["a"])) == ["1 of 4 runs are finished already"]
    assert said(1, State([D], {"b": B, "c": C}, ["a"])) == ["b begun", "c begun"]
    assert said(2, State([D], {"b": B, "c": C}, ["a"])) == []
    assert said(3, State([], {"c": C, "d": D}, ["a"], {"b": "no lung"})) == ["d begun", "b failed: no lung"]
    assert said(4, State([], {"d": D}, ["a", "c"], {"b": "no lung"})) == ["c finished"]


def test_now_and_then_the_time_left_is_said(said, tmp_path):
    said(0, State([B, C, D], {}, ["a"]))
    said(10, State([C, D], {"b": B}, ["a"]))
    log(tmp_path / "b", 10, 300)
    # Half a run in 70 seconds, and two and a half are left.
    assert said(70, State([C, D], {"b": B}, ["a"])) == ["1 of 4 runs over, 1 running, left about 0:05:50"]
    assert said(71, State([C, D], {"b": B}, ["a"])) == []
    assert said(140, State([D], {"c": C}, ["a", "b"])) == ["b finished", "c begun"]
    assert said(210, State([D], {"c": C}, ["a", "b"])) == ["2 of 4 runs over, 1 running, left about 0:07:00"]


def test_a_terminal_has_a_bar_for_every_run_that_runs(tmp_path):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Display(console, tmp_path, 4) as display:
        display.show(State([C, D], {"[a]": A, "b": B}))
        display.show(State([D], {"b": B, "c": C}, ["[a]"], {}))
        bars = [task.description for task in display.bars.tasks]
    assert bars == ["runs", "  b", "  c"]
    assert "1 of 4 runs over, 2 running" in console.file.getvalue()
    assert "[a]" in console.file.getvalue()


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0.0), ('{"step": 150}\n{"ste', 0.25), ('{"step": 150}\n{"step": 600}\n', 1.0), ("x" * 9000, 0.0)],
    ids=["none", "half-a-line", "all", "damaged"],
)
def test_how_far_a_run_is(tmp_path, text, share):
    log(tmp_path / "a")
    (tmp_path / "a" / "metrics.jsonl").write_text(text)
    assert share_done(tmp_path / "a") == share


def test_a_run_that_has_not_begun_is_nowhere(tmp_path):
    assert share_done(tmp_path / "a") == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step 3\nerror: the disk is full\n\n", "the disk is full"),
        ("error: one\nerror: two\nmore\n", "two"),
        ("Traceback\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("", "no output"),
    ],
    ids=["error", "last-error", "traceback", "nothing"],
)
def test_the_last_words_of_a_run(tmp_path, text, words):
    (tmp_path / "log").write_text(text)
    assert last_words(tmp_path / "log") == words


def test_a_run_without_output(tmp_path):
    assert last_words(tmp_path / "log") == "no output"
