"""Blocks hidden from images, for reconstruction: as many as asked for, and by their numbers alone."""

import numpy as np
import pytest
import torch
from covidct.sets.covid_semiseg import read_covid_semiseg
from covidct.slices.sampling import SliceSamples
from covidct.training.batches import numbered_loader
from covidct.training.masking import MaskedSamples, hidden_blocks, hide, reconstruction_loss


@pytest.fixture
def samples(tmp_path, write_covid):
    slices = read_covid_semiseg(write_covid(tmp_path, ["1"], [], [f"scan_{n}" for n in range(6)])).unlabelled
    return SliceSamples(slices, stream="unlabelled", size=(32, 24), resize=True, joined_batch=2, seed=0)


def masked(samples, first_step=0, steps=3, workers=0):
    hidden = MaskedSamples(samples, block=4, ratio=0.5)
    return list(numbered_loader(hidden, first_step=first_step, steps=steps, workers=workers))


def same(one, two) -> bool:
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, two, strict=True)
    )


def test_what_comes(samples):
    for step, batch in enumerate(masked(samples)):
        assert set(batch) == {"image", "whole", "hidden"}
        assert all(value.shape == (2, 1, 32, 24) and value.dtype == torch.float32 for value in batch.values())
        assert torch.equal(batch["whole"], torch.stack([samples[2 * step + index]["image"] for index in (0, 1)]))
        assert torch.equal(batch["image"], batch["whole"] * (1 - batch["hidden"]))
        assert set(batch["hidden"].unique().tolist()) == {0, 1}
        assert batch["hidden"].mean() == pytest.approx(0.5, abs=0.1)


def test_workers_and_resume_change_nothing(samples):
    expected = masked(samples, steps=5)
    assert same(masked(samples, steps=5, workers=2), expected)
    assert same(masked(samples, first_step=3, steps=5), expected[3:])


def test_steps_places_seeds_and_streams_differ(samples):
    def hidden(stream="unlabelled", seed=0):
        of = SliceSamples(samples.slices, stream=stream, size=(32, 24), resize=True, joined_batch=2, seed=seed)
        found = MaskedSamples(of, block=4, ratio=0.5)
        return [found[number]["hidden"] for number in range(4)]

    seen = [mask.numpy().tobytes() for mask in (*hidden(), *hidden(seed=1), *hidden(stream="target"))]
    assert len(set(seen)) == 12


def test_global_generators_are_untouched_and_do_not_matter(samples):
    expected = masked(samples)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state()
    assert same(masked(samples), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_masks_of_lesions_are_left_out(tmp_path, write_covid):
    train = read_covid_semiseg(write_covid(tmp_path, ["1", "2"])).train
    of = SliceSamples(train, stream="target", size=(32, 24), resize=True, joined_batch=1, seed=0)
    assert set(MaskedSamples(of, block=8, ratio=0.5)[0]) == {"image", "whole", "hidden"}


@pytest.mark.parametrize("size", [(64, 48), (63, 50), (16, 24, 20)])
@pytest.mark.parametrize("ratio", [0.25, 0.6])
def test_ratio(size, ratio):
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        hidden = hidden_blocks(size, block=8, ratio=ratio, rng=rng)
        assert hidden.shape == size
        assert hidden.dtype == torch.bool
        shares.append(hidden.float().mean().item())
    assert np.mean(shares) == pytest.approx(ratio, abs=0.03)


def test_blocks_are_whole_and_start_anywhere():
    rng = np.random.default_rng(0)
    seams = set()
    for _ in range(100):
        hidden = hidden_blocks((40, 48), block=8, ratio=0.5, rng=rng).int()
        changes = hidden.diff(dim=0).abs().sum(1).nonzero()[:, 0]
        assert len({int(place) % 8 for place in changes}) == 1
        seams.add(int(changes[0]) % 8)
    assert seams == set(range(8))


def test_every_pixel_is_hidden_as_often():
    rng = np.random.default_rng(0)
    total = sum(hidden_blocks((24, 24), block=8, ratio=0.5, rng=rng).float() for _ in range(2000)) / 2000
    assert total.min() > 0.44
    assert total.max() < 0.56


@pytest.mark.parametrize(("ratio", "bound"), [(1e-6, "any"), (1 - 1e-6, "all")])
def test_something_is_hidden_and_something_shown(ratio, bound):
    rng = np.random.default_rng(0)
    for _ in range(50):
        hidden = hidden_blocks((8, 8), block=4, ratio=ratio, rng=rng)
        assert hidden.any() if bound == "any" else not hidden.all()


def test_faults(samples):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"block must be 1 or more, got 0"):
        hidden_blocks((8, 8), block=0, ratio=0.5, rng=rng)
    for ratio in (0, 1, -0.5, float("nan")):
        with pytest.raises(ValueError, match=r"ratio must lie between 0 and 1, got"):
            MaskedSamples(samples, block=4, ratio=ratio)
    with pytest.raises(ValueError, match=r"an image of \(1, 1\) has one block of 8; take smaller blocks"):
        hidden_blocks((1, 1), block=8, ratio=0.5, rng=rng)


def test_hide_and_loss():
    """Worked by hand: errors of 1 and 3 where it is hidden, of 100 where it is shown."""
    whole = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    hidden = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert hide(whole, hidden).tolist() == [[[[0, 2], [3, 0]]]]
    prediction = torch.tensor([[[[2.0, 102.0], [-97.0, 7.0]]]], requires_grad=True)
    loss = reconstruction_loss(prediction, whole, hidden)
    assert loss.item() == 5
    loss.backward()
    assert prediction.grad.tolist() == [[[[1, 0], [0, 3]]]]
    half = reconstruction_loss(torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16), whole, hidden)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx((299**2 + 296**2) / 2)
