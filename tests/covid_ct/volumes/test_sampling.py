"""Patches of volumes depend on (seed, stream, step, index) alone, and come as asked for."""

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from covidct.errors import InputError
from covidct.store.store import CaseStore, open_store
from covidct.training.batches import numbered_loader
from covidct.volumes.sampling import VolumeSamples

from tests.covid_ct.store_cases import plan, store

ASKED = {"stream": "target", "batch_size": 2, "seed": 0, "workers": 0}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return store(tmp_path_factory.mktemp("store"), 4)


def loader(stores, chosen, *, first_step, steps, **changed):
    asked = ASKED | changed
    at = {name: asked.pop(name) for name in ("workers", "rank", "world_size") if name in asked}
    joined_batch = asked.pop("batch_size") * at.get("world_size", 1)
    samples = VolumeSamples(stores, plan=chosen, joined_batch=joined_batch, **asked)
    return numbered_loader(samples, first_step=first_step, steps=steps, **at)


def batches(stores, first_step=0, steps=4, patch_size=(8, 24, 24), **changed):
    chosen = plan(stores[0], patch_size)
    return list(loader(stores, chosen, first_step=first_step, steps=steps, **changed))


def same(one, two) -> bool:
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, two, strict=True)
    )


# (8, 32, 32): four times longer in the plane, so turned in it alone.
@pytest.mark.parametrize("patch_size", [(8, 24, 24), (8, 32, 32)])
@pytest.mark.parametrize("augment", [True, False])
def test_what_comes(cases, patch_size, augment):
    for batch in batches([cases], patch_size=patch_size, augment=augment, steps=8):
        assert set(batch) == {"image", "mask"}
        for value in batch.values():
            assert value.shape == (2, 1, *patch_size)
            assert value.dtype == torch.float32
            assert value.isfinite().all()
        assert set(batch["mask"].unique().tolist()) <= {0, 1}


def test_workers_change_nothing(cases):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = batches([cases], patch_size=(8, 72, 64), steps=5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    for workers in (1, 2):
        assert same(batches([cases], patch_size=(8, 72, 64), steps=5, workers=workers), expected)


def test_resume_goes_on(cases):
    whole = batches([cases], steps=6)
    assert same(batches([cases], first_step=4, steps=6), whole[4:])


def test_steps_seeds_and_streams_differ(cases):
    first, second = batches([cases], steps=2)
    assert not torch.equal(first["image"], second["image"])
    assert not torch.equal(first["image"][0], first["image"][1])
    assert not same(batches([cases], seed=1, steps=1), [first])
    assert not same(batches([cases], stream="source", steps=1), [first])


def test_ranks_share_the_joined_batch(cases):
    joined = batches([cases], batch_size=4)
    shares = [batches([cases], batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    for step, batch in enumerate(joined):
        assert torch.equal(torch.cat([share[step]["image"] for share in shares]), batch["image"])


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_are_untouched_and_do_not_matter(cases, workers):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    expected = batches([cases], workers=workers, steps=2)
    assert states() == before
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    assert same(batches([cases], workers=workers, steps=2), expected)


def test_data_sets_are_drawn_from_evenly(cases, tmp_path, monkeypatch):
    """Three cases of one set and one of another: half of the samples are the one's."""
    (other,) = store(tmp_path, 1, dataset="other")
    drawn = []

    def patch(case, corner, size, plan):
        drawn.append(case.name)
        return np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.int16)

    monkeypatch.setattr(CaseStore, "patch", patch)
    samples = VolumeSamples([cases[:3], [other]], plan=plan(cases), stream="s", joined_batch=1, seed=0, augment=False)
    for number in range(600):
        samples[number]
    assert 250 < drawn.count("other_0") < 350
    assert all(60 < drawn.count(f"test_{number}") < 140 for number in range(3))


@pytest.mark.parametrize(("batch_size", "forced"), [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2)])
def test_last_samples_have_lesion(tmp_path, batch_size, forced):
    """nnU-Net's rule: from round(B (1 - .33)) on; B = 1 gives round(.67) = 1, none."""
    (case,) = store(tmp_path, 1, shape=(12, 160, 160))
    has = torch.stack(
        [
            batch["mask"].amax((1, 2, 3, 4))
            for batch in batches([[case]], steps=16, augment=False, batch_size=batch_size, patch_size=(4, 16, 16))
        ]
    )
    assert has[:, batch_size - forced :].eq(1).all()
    assert has[:, : batch_size - forced].mean() < 0.3


def test_patches_are_the_volumes_voxels(cases):
    """Around a lesion voxel: nnU-Net's corner, and the values of the plan."""
    case = cases[0]
    chosen = plan([case], (5, 7, 9))
    samples = VolumeSamples(
        [[case]], plan=chosen, stream="t", joined_batch=1, seed=0, oversample_foreground=1, augment=False
    )
    image, label = np.pad(chosen.normalise(case.image()), 20), np.pad(case.mask(), 20)
    for number in range(5):
        sample = samples[number]
        boxes = [_box(place, (5, 7, 9)) for place in case.positions]
        matches = [box for box in boxes if np.array_equal(image[box], sample["image"][0])]
        assert matches
        np.testing.assert_array_equal(sample["mask"][0], label[matches[0]])


def _box(voxel, size):
    """The box around a voxel that does not begin before the volume, where 20 voxels are padded."""
    starts = [max(place - length // 2, 0) + 20 for place, length in zip(voxel, size, strict=True)]
    return tuple(slice(start, start + length) for start, length in zip(starts, size, strict=True))


def test_volumes_smaller_than_the_patch_are_padded_with_the_mean(cases):
    (batch,) = batches([cases], steps=1, augment=False, patch_size=(20, 60, 50))
    for image, mask in zip(batch["image"], batch["mask"], strict=True):
        inside = image[0] != 0
        assert inside.any(2).any(1).sum() == 12
        assert inside.any(2).any(0).sum() == 40
        assert mask[0][~inside].eq(0).all()


def test_image_and_mask_move_together(cases):
    """The lesion is brighter than everything else wherever the augmentation takes it."""
    agreed = 0
    for batch in batches([cases], steps=12, patch_size=(8, 32, 32), batch_size=1, oversample_foreground=1):
        image, mask = batch["image"][0], batch["mask"][0] == 1
        if mask.any():
            assert image[mask].mean() > image[~mask].mean()
            agreed += 1
    assert agreed > 6


def test_without_masks(tmp_path, cases):
    unlabelled = store(tmp_path, 2, labelled=False)
    found = loader([unlabelled], plan(cases), first_step=0, steps=2)
    assert [set(batch) for batch in found] == [{"image"}] * 2


def test_samples_can_be_sent_to_workers(cases):
    samples = VolumeSamples([cases], plan=plan(cases), stream="t", joined_batch=1, seed=0)
    assert torch.equal(pickle.loads(pickle.dumps(samples))[5]["image"], samples[5]["image"])


@pytest.mark.parametrize("workers", [0, 2])
def test_error_in_a_worker_arrives_clean(tmp_path, workers):
    made = store(tmp_path, 2)
    chosen = plan(made)
    for case in open_store(tmp_path).cases:
        (case.folder / "image.b2nd").unlink()
    with pytest.raises(InputError, match=r"^\S+image\.b2nd cannot be read \(.+\); run prepare\.py again, which"):
        list(loader([made], chosen, first_step=0, steps=3, workers=workers))


def test_nothing_to_draw_from(cases):
    for stores, which in (([], "any"), ([cases, []], "one")):
        with pytest.raises(InputError, match=rf"^no cases for the target stream in {which} of its data sets; add "):
            loader(stores, plan(cases), first_step=0, steps=1)


def test_masks_for_a_part(cases, tmp_path):
    mixed = [cases, store(tmp_path, 1, labelled=False)]
    with pytest.raises(InputError, match=r"^4 of 5 cases of the target stream have a mask; all or none must$"):
        loader(mixed, plan(cases), first_step=0, steps=1)


def test_another_spacing(cases):
    other = replace(plan(cases), spacing=(1.25, 0.8, 0.8))
    with pytest.raises(InputError, match=r"was prepared at 2 x 1 x 1 mm, the plan is for 1\.25 x 0\.8 x 0\.8 mm; "):
        loader([cases], other, first_step=0, steps=1)


def test_negative_seed(cases):
    with pytest.raises(InputError, match=r"--seed must be 0 or more, got -1"):
        batches([cases], seed=-1)
