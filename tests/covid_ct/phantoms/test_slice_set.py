import json
import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
from covidct.errors import InputError
from covidct.phantoms import chests, slice_set
from covidct.phantoms.anatomy import Patient, lung_depth
from covidct.phantoms.chests import KINDS, Chest, source_case, target_slice
from covidct.phantoms.sections import normal_section
from covidct.phantoms.slice_set import (
    TESTING,
    TRAINING,
    phantom_root,
    phantom_sources,
    write_phantom_sources,
    write_phantoms,
)
from covidct.phantoms.texture import Field, Grid, Scanner
from covidct.sets.covid_semiseg import read_covid_semiseg
from PIL import Image

SMALL = {"labelled": 2, "test": 1, "source": 3, "unlabelled": 2}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def section_at(level: float, spacing: float = 1.5, seed: int = 3):
    patient = Patient.draw(np.random.default_rng(seed))
    axis = (np.arange(-190, 190, spacing)).astype(np.float32)
    return normal_section(patient, Grid(axis, axis, level * patient.height, spacing, 2.0))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantom"), seed=0, **SMALL)


@pytest.fixture
def quick(monkeypatch):
    """Makes `phantom_root` write a small set."""
    monkeypatch.setattr(slice_set, "write_phantoms", partial(write_phantoms, **SMALL))


# Writing


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(small, tmp_path):
    again = contents(write_phantoms(tmp_path / "again", seed=0, **SMALL))
    other = contents(write_phantoms(tmp_path / "other", seed=1, **SMALL))
    assert again == contents(small)
    assert again.keys() == other.keys()
    assert all(again[name] != other[name] for name in again)


def test_fewer_pictures_are_the_same_pictures(small, tmp_path):
    fewer = contents(write_phantoms(tmp_path, seed=0, labelled=1, test=1, source=1, unlabelled=1))
    fewer.pop("phantom.json")
    assert fewer == {name: data for name, data in contents(small).items() if name in fewer}


def test_unlabelled_slices_are_read_as_such(small):
    found = read_covid_semiseg(small / "target")
    assert [item.name for item in found.unlabelled] == ["phantom_00_0", "phantom_00_1"]
    assert {item.mask_path for item in found.unlabelled} == {None}
    labelled = {item.path.read_bytes() for item in (*found.train, *found.test)}
    assert not labelled & {item.path.read_bytes() for item in found.unlabelled}


def test_layout_and_published_names(small):
    train, test = small / TRAINING, small / TESTING
    assert {path.name for path in (train / "Imgs").iterdir()} == {"0.jpg", "1.jpg"}
    for folder in (train / "GT", train / "Edge"):
        assert {path.name for path in folder.iterdir()} == {"0.png", "1.png"}
    assert {path.name for path in test.iterdir()} == {"Imgs", "GT"}
    assert [path.name for path in (test / "Imgs").iterdir()] == ["6.jpg"]
    assert {path.name for path in (small / "source").iterdir()} == {"nodule_000", "mass_001", "effusion_002"}
    assert json.loads((small / "phantom.json").read_text())["seed"] == 0


def test_masks_are_0_and_255_and_edges_run_along_their_border(small):
    for name in ("0", "1"):
        picture, mask, edge = (
            read(small / TRAINING / folder / f"{name}.{suffix}")
            for folder, suffix in (("Imgs", "jpg"), ("GT", "png"), ("Edge", "png"))
        )
        assert picture.shape == mask.shape == edge.shape
        assert picture.dtype == np.uint8
        assert set(np.unique(mask)) == set(np.unique(edge)) == {0, 255}
        on_border = mask[edge > 0]
        assert 0.3 < (on_border > 0).mean() < 0.7
        inner = mask[1:-1, 1:-1] > 0
        for shifted in (mask[:-2, 1:-1], mask[2:, 1:-1], mask[1:-1, :-2], mask[1:-1, 2:]):
            assert (edge[1:-1, 1:-1] > 0)[inner & (shifted == 0)].all()


def test_progress_counts_every_picture(tmp_path):
    calls = []
    few = {"labelled": 1, "test": 1, "source": 1, "unlabelled": 2}
    write_phantoms(tmp_path, **few, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_more_slices_than_names_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"labelled must be 0 to 50, .* got 51"):
        write_phantoms(tmp_path, labelled=51)
    assert list(tmp_path.iterdir()) == []


# Pictures


def test_sizes_and_areas_are_spread_like_the_real_ones():
    slices = [target_slice(0, index) for index in range(24)]
    shares = np.array([mask.mean() for _, mask in slices])
    heights, widths = np.array([picture.shape for picture, _ in slices]).T
    assert shares.min() == pytest.approx(0.025, abs=0.021)
    assert 0.25 < shares.max() < 0.5
    assert 0.05 < np.median(shares) < 0.2
    assert heights.min() >= 180
    assert heights.max() <= 420
    assert widths.min() >= 130
    assert len(set(heights)) > 12


def test_infection_lies_in_the_lungs_and_is_brighter_than_they_are(monkeypatch):
    kept = []
    original = chests.normal_section

    def keep(*arguments):
        kept.append(original(*arguments))
        return kept[-1]

    monkeypatch.setattr(chests, "normal_section", keep)
    for index in range(8):
        picture, mask = target_slice(2, index)
        lung = kept[-1].lung > 0.5
        assert mask.any()
        assert (mask & lung).sum() > 0.9 * mask.sum()
        assert np.median(picture[mask]) > np.median(picture[lung & ~mask]) + 15


def test_one_threshold_does_not_segment_the_infection():
    # Vessels, mediastinum and chest wall have the brightness of consolidation, faint ground glass nearly that of lung.
    slices = [target_slice(0, index) for index in range(10)]
    best = max(
        np.mean([2 * ((p > low) & mask).sum() / ((p > low).sum() + mask.sum()) for p, mask in slices])
        for low in range(60, 200, 10)
    )
    assert best < 0.6


def test_the_front_is_at_the_left_and_the_patients_right_at_the_top():
    section = section_at(0.74)
    grid, liver = section.grid, section.lung < 0.1
    right, left = grid.x < -40, grid.x > 40
    # The liver's dome rises in the right lung; the spine is at the back.
    assert liver[right][:, np.abs(grid.y) < 40].mean() > liver[left][:, np.abs(grid.y) < 40].mean() + 0.05
    bone = section.hu > 300
    middle = np.abs(grid.x) < 30
    assert bone[middle][:, grid.y > 40].sum() > 2 * bone[middle][:, grid.y < -60].sum()


# Tissues


@pytest.mark.parametrize("level", [0.25, 0.5, 0.7])
def test_tissues_have_their_hu(level):
    section = section_at(level)
    lung = section.hu[section.lung > 0.999]
    assert -930 < np.median(lung) < -780
    assert (section.hu > 500).sum() > 50, "cortical bone"
    assert ((section.hu > -130) & (section.hu < -80)).mean() > 0.05, "fat"
    assert ((section.hu > 20) & (section.hu < 80)).mean() > 0.05, "soft tissue"
    assert section.hu[:, 0].max() < -990, "air in front of the body"
    assert section.hu.min() >= -1000
    assert section.hu.max() < 1000


def test_there_is_an_open_trachea_above_and_two_main_bronchi_below_its_division():
    trachea, bronchi = section_at(0.3), section_at(0.44)
    for section, places in ((trachea, [(-1, 10)]), (bronchi, [(-24, 12), (24, 15)])):
        for x, y in places:
            nearest = np.argmin((section.x - x) ** 2 + (section.y - y) ** 2)
            assert section.hu.ravel()[nearest] < -950
            assert section.lung.ravel()[nearest] < 0.01


def test_the_lungs_change_smoothly_with_the_level():
    # What a volume will need: neighbouring slices of one patient agree.
    near, next_to, far = (section_at(level).lung > 0.5 for level in (0.5, 0.505, 0.75))
    assert (near ^ next_to).sum() < 0.03 * near.sum()
    assert (near ^ far).sum() > 0.1 * near.sum()


def test_lung_depth_agrees_between_points_and_pictures():
    section = section_at(0.5)
    depth = lung_depth(section.patient, section.x[::7, ::7], section.y[::7, ::7], np.full((37, 37), 0.5))
    clear = np.abs(depth) > 6
    assert clear.sum() > 800
    assert ((depth > 0) == (section.lung[::7, ::7] > 0.5))[clear].mean() > 0.98


def test_vessels_brighten_the_lungs_in_few_places():
    level = 0.5
    rng = np.random.default_rng(0)
    chest = Chest.draw(rng, level)
    axis = np.arange(-170, 170, 1.0).astype(np.float32)
    section = normal_section(chest.patient, Grid(axis, axis, level * chest.patient.height, 1.0, 2.0))
    before = section.hu.copy()
    chest.paint_vessels(section)
    inside = section.lung > 0.9
    changed = (section.hu - before)[inside] > 200
    assert 0.01 < changed.mean() < 0.2
    assert (section.hu >= before).all()
    assert np.array_equal(section.hu[section.lung == 0], before[section.lung == 0])


# Texture


def test_fields_have_mean_0_and_deviation_1_and_are_smooth():
    axis = np.arange(-200, 200, 2.0, dtype=np.float32)
    grid = Grid(axis, axis, 31.0, 2.0, 1.0)
    values = [Field(np.random.default_rng(seed), 20)(grid) for seed in range(8)]
    assert abs(np.mean(values)) < 0.05
    assert np.std(values) == pytest.approx(1, abs=0.05)
    field = Field(np.random.default_rng(0), 20)
    here = field(grid)
    assert np.abs(field(Grid(axis, axis, 31.5, 2.0, 1.0)) - here).max() < 0.3
    assert np.abs(np.diff(here, axis=0)).max() < 1.2
    half = field(Grid(axis[50:90], axis[10:], 31.0, 2.0, 1.0))
    np.testing.assert_allclose(half, here[50:90, 10:], atol=1e-5)


def test_noise_has_the_asked_deviation_and_a_grain():
    scanner = Scanner(noise=25.0, blur=0.8, grain=2.0, sharpening=0.5, streaks=0.0)
    axis = np.arange(-150, 150, 1.0, dtype=np.float32)
    noise = scanner.scan(np.random.default_rng(0), np.zeros((300, 300), np.float32), Grid(axis, axis, 0.0, 1.0, 1.0))
    assert noise.std() == pytest.approx(25, rel=1e-3)
    power = np.abs(np.fft.rfft2(noise)) ** 2
    frequency = np.hypot(np.fft.fftfreq(300)[:, None], np.fft.rfftfreq(300)[None])
    middle = power[(frequency > 0.25) & (frequency < 0.4)].mean()
    assert power[(frequency > 0) & (frequency < 0.03)].mean() < 0.1 * middle, "white noise is no scanner's"


# Source cases


@pytest.mark.parametrize("index", range(6))
def test_source_cases_hold_their_lesion_inside_the_chest(index):
    hu, mask, affine = source_case(4, index)
    kind = KINDS[index % 3]
    assert hu.dtype == np.int16
    assert hu.shape[:2] == (256, 256)
    assert hu.shape == mask.shape
    assert set(np.unique(mask)) == {0, 1}
    assert nibabel.aff2axcodes(affine) == ("L", "P", "S")
    low, high = {"nodule": (-250, 110), "mass": (-50, 110), "effusion": (-40, 60)}[kind]
    assert low < np.median(hu[mask > 0]) < high
    size = mask.sum(axis=(0, 1)).max() * abs(affine[0, 0] * affine[1, 1])
    smallest, largest = {"nodule": (15, 900), "mass": (400, 5000), "effusion": (300, 12000)}[kind]
    assert smallest < size < largest
    if kind == "effusion":
        columns = np.nonzero(mask)[1]
        assert (columns > 128).mean() > 0.6, "water settles at the back"


def test_source_cases_of_one_kind_differ():
    first, second = source_case(0, 0), source_case(0, 6)
    assert first[0].shape != second[0].shape or (first[0] != second[0]).any()
    assert not np.array_equal(first[2], second[2])


def test_source_files_keep_hu_mask_and_orientation(small):
    for folder in (small / "source").iterdir():
        ct, lesion = nibabel.load(folder / "ct.nii.gz"), nibabel.load(folder / "lesion.nii.gz")
        hu = np.asarray(ct.dataobj)
        assert ct.get_data_dtype() == np.int16
        assert lesion.get_data_dtype() == np.uint8
        assert hu.shape == lesion.shape
        np.testing.assert_array_equal(ct.affine, lesion.affine)
        assert nibabel.aff2axcodes(ct.affine) == ("L", "P", "S")
        assert ct.header.get_zooms()[0] == pytest.approx(1.44, abs=0.07)
        body, air = (hu > -300).mean(), (hu < -900).mean()
        assert body > 0.3
        assert air > 0.1


# Cache


def test_the_cache_is_filled_once(quick, tmp_path, monkeypatch):
    root = phantom_root(tmp_path)
    assert root == tmp_path / "relcons" / "phantom-2d-v2-seed0"
    assert len(list((root / TRAINING / "Imgs").iterdir())) == 2

    def refuse(*arguments, **options):
        raise AssertionError("generated again")

    monkeypatch.setattr(slice_set, "write_phantoms", refuse)
    assert phantom_root(tmp_path) == root
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_the_default_cache_follows_xdg(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert phantom_root(seed=7) == tmp_path / "xdg" / "relcons" / "phantom-2d-v2-seed7"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert phantom_root(seed=7) == tmp_path / "home" / ".cache" / "relcons" / "phantom-2d-v2-seed7"


def _generate_slowly(cache: Path, started) -> None:
    phantom_root(cache, progress=lambda done, total: started.set() if done == 2 else None)


def test_a_killed_generation_is_not_taken_for_complete(quick, tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_generate_slowly, args=(tmp_path, started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (litter,) = (tmp_path / "relcons").iterdir()
    assert litter.name.startswith(".")
    root = phantom_root(tmp_path)
    assert json.loads((root / "phantom.json").read_text())["labelled"] == 2


def test_an_interrupted_generation_cleans_up(quick, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phantom_root(tmp_path, progress=stop)
    assert list((tmp_path / "relcons").iterdir()) == []


def test_abandoned_folders_are_removed_and_fresh_ones_left(quick, tmp_path):
    old, fresh = (tmp_path / "relcons" / f".phantom-2d-v2-seed0.{name}" for name in ("1-a", "2-b"))
    old.mkdir(parents=True)
    fresh.mkdir()
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    phantom_root(tmp_path)
    assert not old.exists()
    assert fresh.exists()


def test_of_two_generations_at_once_the_first_one_stays(quick, tmp_path):
    marks = []

    def other_process_wins(done, total):
        if done == total and not marks:
            marks.append("inner")
            (phantom_root(tmp_path) / "mark").touch()

    root = phantom_root(tmp_path, progress=other_process_wins)
    assert (root / "mark").exists()
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_a_set_without_its_manifest_is_made_anew(quick, tmp_path):
    root = phantom_root(tmp_path)
    (root / "phantom.json").unlink()
    (root / TRAINING / "Imgs" / "0.jpg").unlink()
    assert phantom_root(tmp_path) == root
    assert (root / TRAINING / "Imgs" / "0.jpg").is_file()


def test_an_unusable_cache_is_named(quick, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"phantom-2d-v2-seed0: .* \(Not a directory\); .*XDG_CACHE_HOME"):
        phantom_root(tmp_path / "file")


# Sources of one kind each


def test_source_sets_hold_one_kind_each_and_begin_with_the_cases_of_the_mixed_set(small, tmp_path):
    shown = []
    root = write_phantom_sources(tmp_path, cases=2, progress=lambda *progress: shown.append(progress))
    found = {
        folder.name: sorted(case.name for case in folder.iterdir()) for folder in root.iterdir() if folder.is_dir()
    }
    assert found == {
        "phantom-nodules": ["nodule_000", "nodule_003"],
        "phantom-masses": ["mass_001", "mass_004"],
        "phantom-effusions": ["effusion_002", "effusion_005"],
    }
    assert shown == [(done, 6) for done in range(1, 7)]
    for kind, case in (("nodules", "nodule_000"), ("masses", "mass_001"), ("effusions", "effusion_002")):
        assert contents(root / f"phantom-{kind}" / case) == contents(small / "source" / case)


def test_source_sets_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(slice_set, "write_phantom_sources", partial(write_phantom_sources, cases=1))
    folders = phantom_sources(tmp_path)
    assert [folder.name for folder in folders] == ["phantom-nodules", "phantom-masses", "phantom-effusions"]
    before = contents(tmp_path)
    monkeypatch.setattr(slice_set, "write_phantom_sources", None)
    assert phantom_sources(tmp_path) == folders
    assert contents(tmp_path) == before
