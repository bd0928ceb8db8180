"""Batches depend on (seed, stream, step, index) alone, and come as asked for."""

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from covidct.ct.picture import Slice, load_slice
from covidct.errors import InputError
from covidct.sets.covid_semiseg import read_covid_semiseg
from covidct.slices import sampling
from covidct.slices.sampling import SliceSamples, normalise, resize_image
from covidct.training.batches import numbered_loader
from PIL import Image

ASKED = {"stream": "target", "size": (32, 24), "resize": True, "batch_size": 2, "seed": 0, "workers": 0}


@pytest.fixture
def slices(tmp_path, write_covid):
    return read_covid_semiseg(write_covid(tmp_path, [str(n) for n in range(7)], [], ["scan_1", "scan_2"])).train


def loader(slices, *, first_step, steps, **changed):
    asked = ASKED | changed
    at = {name: asked.pop(name) for name in ("workers", "rank", "world_size") if name in asked}
    joined_batch = asked.pop("batch_size") * at.get("world_size", 1)
    samples = SliceSamples(slices, joined_batch=joined_batch, **asked)
    return numbered_loader(samples, first_step=first_step, steps=steps, **at)


def batches(slices, first_step=0, steps=4, **changed):
    return list(loader(slices, first_step=first_step, steps=steps, **changed))


def same(one, two) -> bool:
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("resize", [True, False])
def test_what_comes(slices, resize):
    found = loader(slices, first_step=0, steps=3, resize=resize)
    assert len(found) == 3
    for batch in found:
        assert set(batch) == {"image", "mask"}
        for value in batch.values():
            assert value.shape == (2, 1, 32, 24)
            assert value.dtype == torch.float32
        assert set(batch["mask"].unique().tolist()) <= {0, 1}


def test_workers_change_nothing(slices):
    # Larger than what torch splits over threads (32,768 elements): the threads must change nothing either.
    changed = {"size": (224, 192), "steps": 5}
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = batches(slices, workers=0, **changed)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    for workers in (1, 2):
        assert same(batches(slices, workers=workers, **changed), expected)


def test_resume_goes_on(slices):
    whole = batches(slices, steps=6)
    assert same(batches(slices, first_step=4, steps=6), whole[4:])
    assert batches(slices, first_step=6, steps=6) == []


def test_steps_seeds_and_streams_differ(slices):
    first, second = batches(slices, steps=2)
    assert not torch.equal(first["image"], second["image"])
    assert not torch.equal(first["image"][0], first["image"][1])
    assert not same(batches(slices, seed=1, steps=1), [first])
    assert not same(batches(slices, stream="source", steps=1), [first])


def test_ranks_share_the_joined_batch(slices):
    joined = batches(slices, batch_size=4, resize=False)
    shares = [batches(slices, batch_size=2, rank=rank, world_size=2, resize=False) for rank in (0, 1)]
    for step, batch in enumerate(joined):
        assert torch.equal(torch.cat([share[step]["image"] for share in shares]), batch["image"])


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_are_untouched(slices, workers):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    batches(slices, workers=workers, steps=2)
    assert states() == before


def test_global_generators_do_not_matter(slices):
    expected = batches(slices)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    assert same(batches(slices), expected)


def test_generators_are_put_back_after_an_error(slices):
    samples = SliceSamples(slices, **{k: ASKED[k] for k in ("stream", "size", "resize", "seed")}, joined_batch=2)
    for item in slices:
        item.path.unlink()
    before = torch.get_rng_state()
    with pytest.raises(InputError):
        samples[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sample_twice_is_the_same(slices):
    """The kept slices are not augmented in place."""
    samples = SliceSamples(slices[:1], stream="target", size=(40, 36), resize=True, joined_batch=2, seed=0)
    first = [samples[number]["image"] for number in range(20)]
    assert all(torch.equal(samples[number]["image"], image) for number, image in enumerate(first))


def test_cases_are_drawn_uniformly(slices):
    drawn = SliceSamples(slices, stream="target", size=(40, 36), resize=True, joined_batch=1, seed=0, augment="none")
    known = {
        torch.from_numpy(normalise(load_slice(item)[0].astype(np.uint8))).numpy().tobytes(): item for item in slices
    }
    names = [known[drawn[number]["image"][0].numpy().tobytes()].name for number in range(700)]
    counts = [names.count(item.name) for item in slices]
    assert min(counts) > 70
    assert max(counts) < 130


@pytest.fixture
def spot(tmp_path):
    """One large slice with a single lesion pixel."""
    image = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    mask = np.zeros(image.shape, dtype=np.uint8)
    mask[222, 111] = 255
    Image.fromarray(image).save(tmp_path / "i.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    return (Slice("i", tmp_path / "i.png", tmp_path / "m.png", "i"),)


@pytest.mark.parametrize(("batch_size", "forced"), [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (8, 3)])
def test_last_samples_have_lesion(spot, batch_size, forced):
    """nnU-Net's rule: from round(B (1 - .33)) on; B = 1 gives round(.67) = 1, none."""
    found = loader(spot, first_step=0, steps=12, augment="none", resize=False, batch_size=batch_size)
    has = torch.stack([batch["mask"].amax((1, 2, 3)) for batch in found])
    assert has[:, batch_size - forced :].eq(1).all()
    assert has[:, : batch_size - forced].mean() < 0.2 or forced == batch_size


def test_patches_are_the_slices_pixels(spot):
    image = normalise(load_slice(spot[0])[0])
    samples = SliceSamples(
        spot, stream="t", size=(21, 31), resize=False, joined_batch=1, seed=0, oversample_foreground=1, augment="none"
    )
    sample = samples[0]
    np.testing.assert_array_equal(sample["image"][0], image[212:233, 96:127])
    assert sample["mask"].nonzero().tolist() == [[0, 10, 15]]


def test_small_slices_are_padded_with_the_mean(slices):
    samples = SliceSamples(slices, stream="t", size=(60, 50), resize=False, joined_batch=1, seed=0, augment="none")
    sample = samples[0]
    assert sample["image"].shape == (1, 60, 50)
    inside = sample["image"][0] != 0
    assert inside.any(1).sum() == 40
    assert inside.any(0).sum() == 36
    assert sample["mask"][0][~inside].eq(0).all()


def test_resized_mask_follows_the_image(slices):
    samples = SliceSamples(slices, stream="t", size=(80, 72), resize=True, joined_batch=1, seed=0, augment="none")
    sample = samples[3]
    bright = sample["image"] > 1.5
    assert (bright == (sample["mask"] == 1)).float().mean() > 0.98
    assert sample["mask"].sum() == pytest.approx(4 * 10 * 11, rel=0.05)


def test_without_masks(slices):
    unlabelled = [Slice(item.name, item.path, None, item.scan) for item in slices]
    for resize in (True, False):
        assert [set(batch) for batch in batches(unlabelled, resize=resize, steps=2)] == [{"image"}] * 2


@pytest.fixture
def unlabelled(tmp_path, write_covid):
    """Three slices that are read as stored and three that are converted."""
    names = [f"{family}_00{n}_7" for family in ("Data-1_coronacases_org", "scan") for n in (1, 2, 3)]
    return read_covid_semiseg(write_covid(tmp_path / "un", ["1"], [], names)).unlabelled


@pytest.mark.parametrize("resize", [True, False])
def test_the_unlabelled_stream_keeps_the_rules(unlabelled, resize):
    changed = {"stream": "unlabelled", "resize": resize, "steps": 6}
    expected = batches(unlabelled, **changed)
    assert [set(batch) for batch in expected] == [{"image"}] * 6
    assert same(batches(unlabelled, **changed, workers=2), expected)
    assert same(batches(unlabelled, **changed, first_step=4), expected[4:])
    shares = [batches(unlabelled, **changed, batch_size=1, rank=rank, world_size=2) for rank in (0, 1)]
    for step, batch in enumerate(expected):
        assert torch.equal(torch.cat([share[step]["image"] for share in shares]), batch["image"])
    assert not same(batches(unlabelled, **changed, seed=1), expected)


def test_the_unlabelled_stream_draws_for_itself(slices):
    """The same slices under the same augmentation, and neither stream changes the other."""
    bare = [Slice(item.name, item.path, None, item.scan) for item in slices]
    target, unlabelled = (batches(bare, stream=stream) for stream in ("target", "unlabelled"))
    assert not same(target, unlabelled)
    assert same([{"image": batch["image"]} for batch in batches(slices)], target)


def test_converted_slices_are_sampled_converted(unlabelled):
    for item in unlabelled:
        sample = SliceSamples([item], stream="u", size=(40, 36), resize=True, joined_batch=1, seed=0, augment="none")[0]
        grey = load_slice(item)[0].round().astype(np.uint8)
        np.testing.assert_array_equal(sample["image"][0], normalise(grey))
    stored = [replace(item, convert=None) for item in unlabelled]
    assert [same(batches([a], steps=1), batches([b], steps=1)) for a, b in zip(unlabelled, stored, strict=True)] == [
        item.convert is None for item in unlabelled
    ]


def test_slices_are_kept_and_let_go(slices, monkeypatch):
    monkeypatch.setattr(sampling, "KEPT", 3)
    samples = SliceSamples(slices, stream="t", size=(32, 24), resize=True, joined_batch=1, seed=0)
    expected = [samples[number]["image"] for number in range(30)]
    assert len(samples._kept) == 3
    assert torch.equal(samples[0]["image"], expected[0])


def test_samples_can_be_sent_to_workers(slices):
    samples = SliceSamples(slices, stream="t", size=(32, 24), resize=False, joined_batch=1, seed=0)
    assert torch.equal(pickle.loads(pickle.dumps(samples))[5]["image"], samples[5]["image"])


@pytest.mark.parametrize("workers", [0, 2])
def test_error_in_a_worker_arrives_clean(slices, workers):
    for item in slices:
        item.mask_path.unlink()
    with pytest.raises(
        InputError, match=r"^\S+GT/\d\.png, the mask of \S+, is missing; put it back or remove the image$"
    ):
        batches(slices, workers=workers)


def test_no_slices():
    with pytest.raises(InputError, match=r"no slices for the target stream"):
        batches(())


def test_masks_for_a_part(slices):
    mixed = (*slices[:2], Slice("x", slices[0].path, None, "x"))
    with pytest.raises(InputError, match=r"2 of 3 slices of the target stream have a mask; all or none must"):
        batches(mixed)


def test_negative_seed(slices):
    with pytest.raises(InputError, match=r"--seed must be 0 or more, got -1"):
        batches(slices, seed=-1)


def test_normalise():
    image = np.array([[0, 0], [0, 200]], dtype=np.uint8)
    result = normalise(image)
    assert result.dtype == np.float32
    assert result.mean() == pytest.approx(0, abs=1e-6)
    assert result.std() == pytest.approx(1)
    assert not normalise(np.full((3, 3), 7.0)).any()


def test_resize_image():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resize_image(image, (4, 4)) is image
    # Averages where it shrinks: a single bright pixel does not vanish.
    spot = torch.zeros(1, 1, 64, 64)
    spot[..., 33, 33] = 1
    assert resize_image(spot, (8, 8)).sum() == pytest.approx(1 / 64, rel=0.2)


def test_real_slices(real_data):
    slices = read_covid_semiseg(real_data / "covid_semiseg").train
    (batch,) = batches(slices, steps=1, size=(224, 192), batch_size=8)
    assert batch["image"].isfinite().all()
    assert batch["image"].mean().abs() < 0.5
    assert 0.01 < batch["mask"].mean() < 0.5
