"""The gap between two data sets' relations, by hand, by loops, and what it says of encoders that learn nothing."""

import copy
import itertools

import pytest
import torch
from torch import nn

from relcons import GramRelation, RelationGaps, SampleRelation, plot, relation_gap, relation_gaps
from relcons.functional import relation_matrix


class Fixed(nn.Module):
    """Returns matrices as they come in, one an image: `(B, 1, 2, 2)` -> `(B, 2, 2)`."""

    def forward(self, images):
        return images


def given(*matrices):
    return [torch.tensor(matrices, dtype=torch.float64)[:, None]]


def direct(features):
    return features[:, 0]


@pytest.fixture
def relation():
    module = nn.Identity()
    module.forward = direct
    return module


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU())


def images(count, seed, scale=1.0):
    return scale * torch.rand(count, 1, 16, 14, generator=torch.Generator().manual_seed(seed))


def test_by_hand(relation):
    """||R||^2 is 2, 2 and 2, 8; means are I and [[1.5, 0], [0, 1.5]]."""
    one, two = [[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 2.0]]
    found = relation_gap(Fixed(), given(one, one), given(one, two), relation=relation, bootstrap=0, noise=False)
    # Mean norms 2 and 5, so a scale of 3.5; pairs of b are 2 apart, pairs across 0 or 2.
    assert found.within_a == 0
    assert found.within_b == pytest.approx((2 / 3.5) ** 0.5)
    assert found.between == pytest.approx((1 / 3.5) ** 0.5)
    # 1 - (0 + 2) / 2: what b's spread explains is no gap.
    assert found.gap == 0
    assert (found.interval, found.noise, found.moved) == (None, None, None)
    assert found.rank_a == pytest.approx(2)
    apart = relation_gap(Fixed(), given(one, one), given(two, two), relation=relation, bootstrap=0, noise=False)
    assert apart.gap == apart.between == pytest.approx((2 / 5) ** 0.5)


def test_as_a_loop_over_pairs(encoder):
    a, b = images(7, 0), images(5, 1, scale=3.0)
    encoder.eval()
    found = relation_gap(encoder, a.split(3), b.split(2), bootstrap=0, noise=False)
    of_a, of_b = ([relation_matrix(encoder(x[None]).detach().double()) for x in each] for each in (a, b))

    def mean(pairs):
        distances = [float((p - q).square().sum()) for p, q in pairs]
        return sum(distances) / len(distances)

    scale = sum(sum(float(r.square().sum()) for r in each) / len(each) for each in (of_a, of_b)) / 2
    between, within_a, within_b = (
        mean(itertools.product(of_a, of_b)),
        mean(itertools.combinations(of_a, 2)),
        mean(itertools.combinations(of_b, 2)),
    )
    assert found.between == pytest.approx((between / scale) ** 0.5, rel=1e-5)
    assert found.within_a == pytest.approx((within_a / scale) ** 0.5, rel=1e-5)
    assert found.within_b == pytest.approx((within_b / scale) ** 0.5, rel=1e-5)
    wanted = max(0.0, between - (within_a + within_b) / 2) / scale
    assert found.gap == pytest.approx(wanted**0.5, rel=1e-4, abs=1e-6)


def test_two_halves_of_one_set_have_no_gap_and_two_sets_have_one(encoder):
    encoder.eval()
    same = relation_gap(encoder, images(40, 0).split(8), images(40, 1).split(8), noise=False)
    apart = relation_gap(encoder, images(40, 0).split(8), (images(40, 1) ** 4 - 2).split(8), noise=False)
    assert same.interval[0] == 0
    assert same.gap < 0.2 * apart.gap
    low, high = apart.interval
    assert 0 < low < apart.gap < high


def test_the_interval_covers_about_as_often_as_it_says(relation):
    """Sets whose true gap is known: entries of mean 0 and 1, in 40 draws."""
    random = torch.Generator().manual_seed(5)
    hits = 0
    for seed in range(40):
        a, b = (torch.randn(30, 1, 2, 2, generator=random, dtype=torch.float64) + shift for shift in (0.0, 1.0))
        found = relation_gap(Fixed(), [a], [b], relation=relation, noise=False, seed=seed)
        # ||mean difference||^2 = 4 over mean norms (4 + 8) / 2.
        hits += found.interval[0] <= (4 / 6) ** 0.5 <= found.interval[1]
    assert 33 <= hits <= 40


def test_the_rank_is_that_of_the_first_relations():
    maps = images(40, 0).expand(-1, 3, -1, -1).clone()
    maps[32:] = images(8, 1).repeat(1, 3, 1, 1) * torch.rand(8, 3, 16, 14)
    assert relation_gap(nn.Identity(), maps.split(9), [maps], noise=False, bootstrap=0).rank_a == pytest.approx(1)


def test_a_few_batches_have_an_interval(encoder):
    """Of four batches one sample in 55 is empty."""
    found = relation_gap(encoder, images(16, 0).split(4), images(16, 1).split(4), relation=GramRelation())
    low, high = found.interval
    assert 0 <= low <= found.gap <= high < 1


def test_wide_relations_are_sketched_for_the_interval_alone(monkeypatch):
    a, b = (torch.randn(30, 70, 4, 4, generator=torch.Generator().manual_seed(seed)) + 0.2 * seed for seed in (0, 1))

    def ask(sketch):
        monkeypatch.setattr("relcons.gap.summaries.SKETCH", sketch)
        return relation_gap(nn.Identity(), a.split(8), b.split(8), noise=False)

    exact, sketched = ask(70 * 70), ask(4096)
    for name in ("between", "within_a", "within_b", "gap"):
        assert getattr(sketched, name) == pytest.approx(getattr(exact, name), rel=1e-6)
    assert sketched.interval != exact.interval
    width = exact.interval[1] - exact.interval[0]
    assert sketched.interval == pytest.approx(exact.interval, abs=0.15 * width)


def test_a_collapsed_encoder_and_an_idle_one(encoder):
    """Distances tell a collapse, to noise as well; weights that stayed tell an idle encoder."""
    start = copy.deepcopy(encoder.state_dict())
    a, b = images(12, 0).split(4), images(12, 1).split(4)
    idle = relation_gap(encoder, a, b, start=start, bootstrap=0)
    assert idle.moved == 0
    assert min(idle.within_a, idle.noise) > 0.01
    with torch.no_grad():
        encoder[3].weight.mul_(1e-6)
        encoder[3].bias.fill_(1.0)
    flat = relation_gap(encoder, a, b, start=start, bootstrap=0)
    assert flat.moved > 0.5
    assert max(flat.within_a, flat.within_b, flat.between, flat.noise) < 1e-3


def test_modes_and_statistics_stay(encoder):
    encoder.train()
    before = copy.deepcopy(encoder.state_dict())
    first = relation_gap(encoder, images(8, 0).split(4), images(8, 1).split(4), bootstrap=0)
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert first != relation_gap(encoder.eval(), images(8, 0).split(4), images(8, 1).split(4), bootstrap=0)


def test_batches_are_units_where_the_relation_is_of_batches(encoder):
    encoder.eval()
    a, b = images(12, 0), images(9, 1)
    found = relation_gap(encoder, a.split(4), b.split(3), relation=GramRelation(), bootstrap=0, noise=False)
    of = [[relation_matrix(encoder(x).detach().double()) for x in each] for each in (a.split(4), b.split(3))]
    between = sum(float((p - q).square().sum()) for p, q in itertools.product(*of)) / 9
    norms = [sum(float(r.square().sum()) for r in each) / len(each) for each in of]
    assert found.between == pytest.approx((between / (sum(norms) / 2)) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: (x, None), lambda x: [x, "label"], lambda x: {"image": x, "mask": None}]
)
def test_batches_come_in_many_shapes(encoder, wrap):
    encoder.eval()
    plain = relation_gap(encoder, images(6, 0).split(3), images(6, 1).split(3), bootstrap=5)
    assert (
        relation_gap(encoder, map(wrap, images(6, 0).split(3)), map(wrap, images(6, 1).split(3)), bootstrap=5) == plain
    )


def test_one_pass_of_so_many_batches(encoder):
    taken, done = [], []

    def endless(seed):
        for number in itertools.count():
            taken.append(seed)
            yield images(3, 10 * seed + number)

    encoder.eval()
    relation_gap(encoder, endless(0), endless(1), batches=2, bootstrap=0, progress=done.append)
    assert taken == [0, 0, 1, 1]
    assert done == [1, 2, 3, 4]


def test_a_list_of_maps_gives_its_last(encoder):
    class Pyramid(nn.Module):
        def forward(self, x):
            return [x, encoder(x)]

    encoder.eval()
    sets = images(6, 0).split(3), images(6, 1).split(3)
    assert relation_gap(Pyramid(), *sets, bootstrap=0) == relation_gap(encoder, *sets, bootstrap=0)


def test_several_sets(encoder):
    encoder.eval()
    sets = {"a": images(8, 0), "b": images(8, 1) - 1, "c": images(8, 2) ** 3}
    found = relation_gaps(encoder, {name: each.split(4) for name, each in sets.items()}, bootstrap=10)
    assert found.names == ("a", "b", "c")
    for (i, one), (j, two) in itertools.combinations(enumerate(sets.values()), 2):
        pair = relation_gap(encoder, one.split(4), two.split(4), bootstrap=0, noise=False)
        assert found.gap[i][j] == found.gap[j][i] == pytest.approx(pair.gap)
        assert found.interval[i][j] == pytest.approx(found.interval[j][i])
    assert [found.gap[i][i] for i in range(3)] == [0, 0, 0]
    figure = plot.relation_gaps(found)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0] == f"within\n{found.within[0]:.2f}"
    assert texts[1].startswith(f"{found.gap[0][1]:.3f}\n")
    bare = RelationGaps(("a", "b"), ((0.0, 0.0), (0.0, 0.0)), ((None, None), (None, None)), (0.1, 0.2))
    assert [text.get_text() for text in plot.relation_gaps(bare).axes[0].texts][1] == "0.000"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": []}, ValueError, "a has 0 relations, one an image"),
        ({"b": [torch.rand(1, 1, 16, 14)]}, ValueError, "b has 1 relations"),
        ({"a": [{"mask": 1}]}, TypeError, "a must give batches of images: .* got dict"),
        ({"a": torch.rand(4, 1, 16, 14)}, TypeError, r"a must be batches of images, got a tensor; give \[a\]"),
        ({"relation": SampleRelation()}, TypeError, "relation must be of what both sets share, got SampleRelation"),
        ({"batches": 0}, ValueError, "batches must be 1 or more, got 0"),
        ({"bootstrap": -1}, ValueError, "bootstrap must be 0 or more, got -1"),
        ({"bootstrap": 2.5}, TypeError, r"bootstrap must be a whole number, got 2\.5"),
        ({"start": {}}, ValueError, r"start is of another network: 0\.weight is missing"),
    ],
)
def test_refuses(encoder, change, error, message):
    arguments = {"a": images(4, 0).split(2), "b": images(4, 1).split(2), "bootstrap": 0} | change
    with pytest.raises(error, match=message):
        relation_gap(encoder, **arguments)


def test_relations_of_several_sizes_are_refused(relation):
    small, large = torch.rand(2, 1, 2, 2), torch.rand(2, 1, 3, 3)
    with pytest.raises(ValueError, match=r"relations must be of one size, got rows \{'a': 2, 'b': 3\}"):
        relation_gap(Fixed(), [small], [large], relation=relation, noise=False, bootstrap=0)
    with pytest.raises(ValueError, match="the relations of a set have 3 rows and others 2"):
        relation_gap(Fixed(), [small, large], [small], relation=relation, noise=False, bootstrap=0)
    with pytest.raises(ValueError, match="sets must be two or more, got 1"):
        relation_gaps(Fixed(), {"a": [small]})
