import pytest
from covidct.errors import InputError
from covidct.run.lock import OWNER, locked
from covidct.run.plan import Training
from covidct.sweep import schedule
from covidct.sweep.schedule import carry_out


class Scripted:
    """Ends every training at the look after its start, well unless it is named in `bad`; notes what happened when."""

    def __init__(self, root, fill, bad=(), begun=(), refused=()):
        self.root, self.fill, self.bad, self.refused = root, fill, bad, refused
        self.earlier, self.open, self.starts, self.most = list(begun), [], [], 0

    def begun(self):
        self.open += self.earlier
        return self.earlier

    def start(self, training):
        if training.run in self.refused:
            raise InputError("no such partition")
        self.starts.append(training.run)
        self.open.append(training.run)
        self.most = max(self.most, len(self.open))

    def ended(self):
        over, self.open = self.open, []
        for run in over:
            if run not in self.bad:
                self.fill(self.root / run)
        return over

    def why(self, run):
        return f"{run} was bad"


@pytest.fixture
def go(tmp_path, fill):
    def carry(trainings, at_once=2, show=lambda state: None, pause=lambda: None, **script):
        workers = Scripted(tmp_path / "runs", fill, **script)
        return workers, carry_out(trainings, tmp_path / "runs", workers, at_once, show, pause)

    return carry


A, B, C = (Training(name, ()) for name in "abc")
FROM_A = Training("after-a", (), start="a")


def test_all_are_carried_out_so_many_at_a_time(go):
    workers, state = go([A, B, C])
    assert (workers.starts, workers.most) == (["a", "b", "c"], 2)
    assert (sorted(state.finished), state.failed) == (["a", "b", "c"], {})


def test_one_at_a_time(go):
    assert go([A, B, C], at_once=1)[0].most == 1


def test_what_starts_from_another_waits_and_others_do_not_wait_for_it(go):
    assert go([A, FROM_A, B, C])[0].starts == ["a", "b", "after-a", "c"]


def test_a_failure_is_told_and_takes_along_only_what_starts_from_it(go):
    workers, state = go([A, FROM_A, B], bad=("a",))
    assert workers.starts == ["a", "b"]
    assert state.failed == {"a": "a was bad", "after-a": "it starts from a, which failed"}
    assert state.finished == ["b"]


def test_what_cannot_be_submitted_has_failed(go):
    _, state = go([A, B], refused=("a",))
    assert (state.failed, state.finished) == ({"a": "no such partition"}, ["b"])


def test_what_is_finished_is_not_done_again(go, tmp_path, fill):
    fill(tmp_path / "runs" / "a")
    workers, state = go([A, FROM_A])
    assert workers.starts == ["after-a"]
    assert sorted(state.finished) == ["a", "after-a"]


def test_a_run_that_lacks_a_result_goes_on(go, tmp_path, fill):
    (fill(tmp_path / "runs" / "a") / "curves.png").unlink()
    assert go([A])[0].starts == ["a"]


def test_what_an_earlier_sweep_has_given_out_is_not_given_out_again(go):
    workers, state = go([A, B, C], at_once=1, begun=("b", "c"))
    assert workers.starts == ["a"]
    assert sorted(state.finished) == ["a", "b", "c"]


def test_a_run_in_which_another_process_trains_is_left_to_it(go, tmp_path, fill, monkeypatch):
    held = {tmp_path / "runs" / "a"}
    monkeypatch.setattr(schedule, "holder", lambda run: "somebody" if run in held else None)
    looks = []

    def pause():
        looks.append(None)
        if len(looks) == 3:
            fill(held.pop())

    workers, state = go([A, B], pause=pause)
    assert workers.starts == ["b"]
    assert sorted(state.finished) == ["a", "b"]


def test_the_holder_is_seen_in_the_folder(tmp_path):
    with locked(tmp_path):
        assert schedule.holder(tmp_path) is not None
        owner = (tmp_path / OWNER).read_text()
    assert schedule.holder(tmp_path) is None
    # As a killed process leaves it, whose number another one has by now.
    (tmp_path / OWNER).write_text(owner)
    assert schedule.holder(tmp_path) is None


def test_every_state_is_shown(go):
    shown = []
    go([A, B], at_once=1, show=lambda state: shown.append((len(state.waiting), list(state.running), state.finished[:])))
    assert shown == [(2, [], []), (1, ["a"], []), (0, ["b"], ["a"]), (0, [], ["a", "b"])]
