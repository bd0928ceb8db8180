from itertools import pairwise

import pytest
from covidct.errors import InputError
from covidct.networks.semi_inf_net import SemiInfNetPlan, semi_inf_net_stages

DOCTOR = ("1", "2", "3")
UNLABELLED = tuple(f"u{number}" for number in range(10))


def test_the_published_loop() -> None:
    names = [f"u{number}" for number in range(1600)]
    stages = list(semi_inf_net_stages([f"d{number}" for number in range(50)], names))
    rounds = stages[1:-2]
    assert [stage.kind for stage in (stages[0], *stages[-2:])] == ["supervised", "pseudo", "semi"]
    assert len(rounds) == 320
    assert {(r.kind, r.start, len(r.to_label), len(r.labelled)) for r in rounds} == {("round", "previous", 5, 50)}
    assert {(r.epochs, r.learning_rate, r.batch) for r in rounds} == {(9, 3e-4, 16)}
    assert [len(r.pseudo) for r in rounds] == list(range(5, 1601, 5))
    assert sorted(rounds[-1].pseudo) == sorted(names)


def test_pseudo_labels_accumulate() -> None:
    _, *rounds, _, _ = semi_inf_net_stages(DOCTOR, UNLABELLED, SemiInfNetPlan(group=3))
    assert [len(r.to_label) for r in rounds] == [3, 3, 3, 1]
    for before, after in pairwise(rounds):
        assert after.pseudo == before.pseudo + after.to_label
    assert rounds[0].pseudo == rounds[0].to_label
    assert all(r.labelled == DOCTOR for r in rounds)


def test_the_long_trainings() -> None:
    first, *rounds, pseudo, semi = semi_inf_net_stages(DOCTOR, UNLABELLED)
    assert (first.start, first.labelled, first.pseudo, first.to_label) == ("scratch", DOCTOR, (), ())
    assert (pseudo.start, pseudo.labelled, pseudo.pseudo) == ("scratch", (), rounds[-1].pseudo)
    assert (semi.start, semi.labelled, semi.pseudo) == ("previous", DOCTOR, ())
    for stage in (first, pseudo, semi):
        assert (stage.epochs, stage.learning_rate, stage.batch) == (None, None, None)


def test_a_shorter_loop() -> None:
    plan = SemiInfNetPlan(group=2, epochs=1, rounds=2, learning_rate=1e-3, batch=4)
    stages = list(semi_inf_net_stages(DOCTOR, UNLABELLED, plan))
    assert [stage.kind for stage in stages] == ["supervised", "round", "round", "pseudo", "semi"]
    assert (stages[2].epochs, stages[2].learning_rate, stages[2].batch) == (1, 1e-3, 4)
    assert len(stages[3].pseudo) == 4


def test_the_seed_alone_shuffles() -> None:
    one, again, other = (
        list(semi_inf_net_stages(DOCTOR, names, seed=seed))
        for names, seed in ((UNLABELLED, 1), (UNLABELLED[::-1], 1), (UNLABELLED, 2))
    )
    assert one == again
    assert one != other
    assert one[-2].pseudo != UNLABELLED


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "plan", "message"),
    [
        (DOCTOR, UNLABELLED, SemiInfNetPlan(group=0), "group of the pseudo-label loop is 0; give 1 or more"),
        (DOCTOR, UNLABELLED, SemiInfNetPlan(rounds=0), "rounds of the pseudo-label loop is 0"),
        (DOCTOR, UNLABELLED, SemiInfNetPlan(epochs=-1), "epochs of the pseudo-label loop is -1"),
        (DOCTOR, UNLABELLED, SemiInfNetPlan(batch=0), "batch of the pseudo-label loop is 0"),
        (DOCTOR, (), None, "has 3 labelled and 0 unlabelled slices; it needs both"),
        ((), UNLABELLED, None, "has 0 labelled and 10 unlabelled slices"),
        (("u3",), UNLABELLED, None, "u3 is among the labelled and the unlabelled slices; take it out"),
        (DOCTOR, UNLABELLED, SemiInfNetPlan(rounds=3), "3 rounds of 5 .* were asked for, and 10 slices make 2; ask"),
    ],
)
def test_refused(
    labelled: tuple[str, ...], unlabelled: tuple[str, ...], plan: SemiInfNetPlan | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        semi_inf_net_stages(labelled, unlabelled, plan)
