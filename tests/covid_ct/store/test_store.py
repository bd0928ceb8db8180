"""What is stored comes back, patch by patch, whole or not at all, and the same bytes each time."""

import hashlib
import json
import pickle

import blosc2
import numpy as np
import pytest
from covidct.ct.labels import OUTSIDE
from covidct.errors import InputError
from covidct.files import remove_leftovers
from covidct.store import lesion_samples
from covidct.store import store as module
from covidct.store.chunks import read_array
from covidct.store.preprocess import Plan
from covidct.store.store import StoreSettings, begin_store, intensity_of, open_store

from tests.covid_ct.store_cases import SPACING, plan, save, store, volume

AS_STORED = Plan(SPACING, (8, 8, 8), low=0, high=255, mean=0, std=1)


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_what_is_stored_comes_back(tmp_path):
    given = volume(1)
    begin_store(tmp_path, StoreSettings("test", SPACING))
    save(tmp_path, "a", given)
    (case,) = open_store(tmp_path).cases
    assert (case.name, case.patient, case.shape) == ("a", "a", (12, 40, 36))
    assert case.image().dtype == np.float32
    # Eighths: a sixteenth off at most.
    np.testing.assert_allclose(case.image(), given.image, atol=1 / 16, rtol=0)
    np.testing.assert_array_equal(case.mask(), given.mask)
    assert case.lesion_voxels == given.mask.sum()
    np.testing.assert_array_equal(case.positions, np.argwhere(given.mask))
    assert case.is_intact()


@pytest.mark.parametrize("corner", [(0, 0, 0), (3, 10, 7), (-2, -5, -6), (8, 38, 30), (-20, 0, 0), (12, 40, 36)])
def test_patch_is_padding_then_slicing(tmp_path, corner):
    (case,) = store(tmp_path, 1)
    chosen, size = plan([case]), (7, 9, 11)
    image = np.pad(chosen.normalise(case.image()), 30)
    label = np.pad(case.mask().astype(np.int16), 30, constant_values=OUTSIDE)
    box = tuple(slice(c + 30, c + 30 + s) for c, s in zip(corner, size, strict=True))
    found = case.patch(corner, size, chosen)
    np.testing.assert_array_equal(found[0], image[box])
    np.testing.assert_array_equal(found[1], label[box])
    assert found[0].dtype == np.float32


def test_a_patch_touches_few_chunks(tmp_path, monkeypatch):
    """Damage elsewhere in the file is not noticed, so elsewhere is not read."""
    begin_store(tmp_path, StoreSettings("test", SPACING))
    given = volume(0, shape=(64, 256, 256), labelled=False)
    case = save(tmp_path, "a", given)
    path = case.folder / "image.b2nd"
    stored = blosc2.open(str(path), mode="r")
    assert stored.schunk.nchunks == 8
    offset = len(path.read_bytes()) // 2
    damaged = bytearray(path.read_bytes())
    damaged[offset : offset + 4000] = bytes(4000)
    path.write_bytes(damaged)
    image, label = case.patch((2, 3, 4), (10, 20, 20), AS_STORED)
    np.testing.assert_allclose(image, given.image[2:12, 3:23, 4:24], atol=1 / 16)
    assert label is None
    assert not case.is_intact()


def test_the_same_bytes_each_time(tmp_path):
    for name in ("one", "two"):
        store(tmp_path / name, 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 11


def test_checksums_are_of_the_files(tmp_path):
    (case,) = store(tmp_path, 1)
    expected = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in case.folder.iterdir()
        if path.name != "case.json"
    }
    assert case.checksums == expected
    mask = case.folder / "mask.b2nd"
    mask.write_bytes(mask.read_bytes()[:-1] + b"x")
    assert not case.is_intact()
    mask.unlink()
    assert not case.is_intact()


def test_many_positions_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr(lesion_samples, "KEPT_POSITIONS", 50)
    (case,) = store(tmp_path, 1)
    assert case.lesion_voxels > 50
    assert len(np.unique(case.positions, axis=0)) == 50
    mask = case.mask()
    assert all(mask[tuple(place)] for place in case.positions)


def test_lesion_values_keep_the_distribution(tmp_path):
    begin_store(tmp_path, StoreSettings("test", SPACING))
    given = volume(2)
    case = save(tmp_path, "a", given)
    values = np.sort(given.image[given.mask])
    low, high, mean, std = intensity_of([case])
    assert low == pytest.approx(np.percentile(values, 0.5), abs=0.5)
    assert high == pytest.approx(np.percentile(values, 99.5), abs=0.5)
    assert mean == pytest.approx(values.mean(), rel=1e-3)
    assert std == pytest.approx(values.std(), rel=1e-2)


def test_every_case_counts_alike(tmp_path):
    begin_store(tmp_path, StoreSettings("test", SPACING))
    small, large = volume(0), volume(1)
    small.mask[:] = False
    small.mask[0, 0, :2] = True
    small.image[small.mask], large.image[large.mask] = 100, 200
    cases = [save(tmp_path, "a", small), save(tmp_path, "b", large)]
    assert intensity_of(cases) == pytest.approx((100, 200, 150, 50))


def test_cases_without_lesion(tmp_path):
    (empty,) = store(tmp_path, 1, lesion=False)
    assert empty.positions.shape == (0, 3)
    assert (empty.lesion_voxels, empty.labelled) == (0, True)
    with pytest.raises(InputError, match=r"^none of the 1 training cases has a lesion; the grey values cannot be"):
        intensity_of([empty])
    (unlabelled,) = store(tmp_path / "u", 1, labelled=False)
    assert unlabelled.mask() is None
    assert unlabelled.patch((0, 0, 0), (2, 2, 2), AS_STORED)[1] is None


def test_a_case_is_whole_or_absent(tmp_path, monkeypatch):
    store(tmp_path, 1)
    before = contents(tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_array", fail)
    for name in ("test_0", "new"):
        with pytest.raises(OSError, match="No space"):
            save(tmp_path, name, volume(3))
    assert contents(tmp_path) == before


def test_leftovers_go(tmp_path):
    store(tmp_path, 1)
    before = contents(tmp_path)
    (tmp_path / ".new.99999999-abc").mkdir()
    (tmp_path / ".new.99999999-abc" / "image.b2nd").write_bytes(b"half")
    (tmp_path / ".store.json.99999999-abc.json").write_text("half")
    assert [case.name for case in open_store(tmp_path).cases] == ["test_0"]
    remove_leftovers(tmp_path)
    assert contents(tmp_path) == before


def test_begun_again_after_a_kill_while_it_was_begun(tmp_path):
    (tmp_path / ".store.json.99999999-abc.json").write_text("half")
    begin_store(tmp_path, StoreSettings("test", SPACING))
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def test_cases_by_name(tmp_path):
    store(tmp_path, 3)
    opened = open_store(tmp_path)
    assert [case.name for case in opened.named(["test_2", "test_0"])] == ["test_2", "test_0"]
    with pytest.raises(InputError, match=r"lacks 2 of 3 cases \(x, y\); run prepare\.py again for this folder$"):
        opened.named(["x", "test_1", "y"])


def test_a_case_can_be_sent_to_workers(tmp_path):
    (case,) = store(tmp_path, 1)
    again = pickle.loads(pickle.dumps(case))
    np.testing.assert_array_equal(again.image(), case.image())


def test_going_on_with_other_settings(tmp_path):
    store(tmp_path, 1)
    begin_store(tmp_path, StoreSettings("test", SPACING))
    with pytest.raises(
        InputError,
        match=r"was begun with spacing \(2\.0, 1\.0, 1\.0\), not \(1\.0, 1\.0, 1\.0\); give another --output",
    ):
        begin_store(tmp_path, StoreSettings("test", (1.0, 1.0, 1.0)))
    with pytest.raises(InputError, match=r"was begun with dataset test, not lits; give another"):
        begin_store(tmp_path, StoreSettings("lits", SPACING))


def test_output_in_use(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is neither empty nor a store; give another folder$"):
        begin_store(tmp_path, StoreSettings("test", SPACING))
    with pytest.raises(InputError, match=r"\(Not a directory\); a file stands in the place of its folder"):
        begin_store(tmp_path / "thesis.txt" / "store", StoreSettings("test", SPACING))


def test_no_store(tmp_path):
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"store\.json is missing: \S+ is no store; make one with prepare\.py$"):
            open_store(root)


def test_damaged_or_other_settings(tmp_path):
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(InputError, match=r"store\.json is damaged: it is not JSON .*; delete \S+ and run prepare\.py"):
        open_store(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(InputError, match=r"is a store of version 99, not 1; delete it and run prepare\.py again$"):
        open_store(tmp_path)


def test_damaged_case(tmp_path):
    (case,) = store(tmp_path, 1)
    (case.folder / "image.b2nd").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"image\.b2nd cannot be read \(.+\); run prepare\.py again"):
        case.image()
    (case.folder / "case.json").write_text("{}")
    with pytest.raises(InputError, match=r"case\.json is damaged: name is missing; .*; delete \S+ and run prepare"):
        open_store(tmp_path)


def test_nothing_but_plain_arrays_of_whole_numbers_is_opened(tmp_path):
    """The format also holds expressions, proxies and objects, which are computed or fetched when they are read."""
    blosc2.SChunk(data=bytes(100), urlpath=str(tmp_path / "chunk.b2nd"), mode="w")
    blosc2.asarray(np.ones((2, 3, 4)), urlpath=str(tmp_path / "floats.b2nd"))
    numbers = blosc2.asarray(np.ones((2, 3, 4), dtype=np.int16), urlpath=str(tmp_path / "numbers.b2nd"))
    (numbers + 1).save(str(tmp_path / "lazy.b2nd"))
    for name, what in (("chunk", "it holds a SChunk, not an array"), ("floats", "it holds a NDArray"), ("lazy", "")):
        with pytest.raises(InputError, match=rf"{name}\.b2nd cannot be read \(.*{what}.*\); run prepare\.py again"):
            read_array(tmp_path / f"{name}.b2nd")
    assert read_array(tmp_path / "numbers.b2nd").sum() == 24
