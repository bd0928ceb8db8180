"""Source and target slices of Tables V and VI: seeded, balanced, a lesion slice a scan."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from covidct.ct.picture import Slice
from covidct.errors import InputError
from covidct.slices.draw import draw_source, draw_target
from PIL import Image


def made(dataset, scans, each=3):
    """`each` slices of every of `scans` scans."""
    return [
        Slice(f"{scan}_{z}", Path(f"{dataset}/{scan}_{z}.png"), Path(f"{dataset}/{scan}_{z}_mask.png"), f"{scan}")
        for scan in (f"scan{n}" for n in range(scans))
        for z in range(each)
    ]


def of(dataset, scans, each=3):
    return [
        Slice(item.name, item.path, item.mask_path, item.scan, dataset=dataset) for item in made(dataset, scans, each)
    ]


MSD, NSCLC = of("/data/msd", 63), of("/data/nsclc", 78)


def test_one_slice_a_scan_and_the_sets_balanced():
    """The paper's 100 of Table V: 50 each, from scans that are called the same in both sets."""
    found = draw_source([*MSD, *NSCLC], 100, 0)
    assert Counter(item.dataset for item in found) == {"/data/msd": 50, "/data/nsclc": 50}
    assert len({(item.dataset, item.scan) for item in found}) == 100
    assert [item for item in (*MSD, *NSCLC) if item in found] == list(found)


@pytest.mark.parametrize(
    ("sizes", "count", "shares"),
    [
        ((63, 78), 101, (51, 50)),
        ((3, 78), 20, (3, 17)),
        ((2, 9, 4), 11, (2, 5, 4)),
        ((60,), 60, (60,)),
        ((4, 4), 1, (1, 0)),
    ],
)
def test_shares(sizes, count, shares):
    sets = [of(f"/data/{n}", size) for n, size in enumerate(sizes)]
    found = Counter(item.dataset for item in draw_source([item for each in sets for item in each], count, 0))
    assert tuple(found[f"/data/{n}"] for n in range(len(sizes))) == shares


def test_the_seed_draws_and_nothing_else():
    slices = [*MSD, *NSCLC]
    first = draw_source(slices, 60, 1)
    assert draw_source(slices, 60, 1) == first
    assert set(draw_source(slices[::-1], 60, 1)) == set(first)
    elsewhere = [
        Slice(item.name, item.path, item.mask_path, item.scan, dataset=f"/other/{Path(item.dataset).name}")
        for item in slices
    ]
    assert [item.name for item in draw_source(elsewhere, 60, 1)] == [item.name for item in first]
    assert set(draw_source(slices, 60, 2)) != set(first)
    assert set(draw_source(slices, 40, 1)) < set(first)


def test_slices_and_scans_are_drawn_evenly():
    slices = of("/data/one", 10)
    scans, places = Counter(), Counter()
    for seed in range(300):
        for item in draw_source(slices, 4, seed):
            scans[item.scan] += 1
            places[item.name[-1]] += 1
    assert all(90 < scans[f"scan{n}"] < 150 for n in range(10))
    assert all(340 < places[z] < 460 for z in "012")


def test_largest_area(tmp_path):
    slices = []
    for scan in ("a", "b", "c"):
        for z, area in enumerate((3, 9, 9, 5)):
            image, mask = tmp_path / f"{scan}{z}.png", tmp_path / f"{scan}{z}_mask.png"
            Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(image)
            Image.fromarray(np.repeat([255, 0], [area, 100 - area]).astype(np.uint8).reshape(10, 10)).save(mask)
            slices.append(Slice(f"{scan}{z}", image, mask, scan))
    found = draw_source(slices, 2, 0, policy="max_area")
    assert {item.name[1] for item in found} == {"1"}
    assert [item.scan for item in found] == [item.scan for item in draw_source(slices, 2, 0)]


def test_largest_area_needs_masks(tmp_path):
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png has no mask; the largest lesion of s cannot be told"):
        draw_source([Slice("a", tmp_path / "a.png", None, "s")], 1, 0, policy="max_area")


def test_too_few_scans():
    with pytest.raises(
        InputError, match=r"^--source-cases 6 needs slices with lesion from 6 scans, found 5 \(2 in /a, 3 in /b\); take"
    ):
        draw_source([*of("/a", 2), *of("/b", 3)], 6, 0)
    with pytest.raises(InputError, match=r"found 4; take fewer, or add scans to --source$"):
        draw_source(of("/a", 4), 60, 0)
    with pytest.raises(InputError, match=r"--source-cases must be 1 or more, got 0"):
        draw_source(MSD, 0, 0)


def test_target():
    slices = [Slice(str(n), Path(f"{n}.jpg"), Path(f"{n}.png"), str(n)) for n in range(50)]
    found = draw_target(slices, 10, 0)
    assert len(set(found)) == 10
    assert [item for item in slices if item in found] == list(found)
    assert set(draw_target(slices[::-1], 10, 0)) == set(found)
    assert set(draw_target(slices, 10, 1)) != set(found)
    assert set(draw_target(slices, 5, 0)) < set(found)
    assert draw_target(slices, 50, 0) == tuple(slices)


def test_too_few_targets():
    slices = [Slice(str(n), Path(f"{n}.jpg"), Path(f"{n}.png"), str(n)) for n in range(8)]
    with pytest.raises(InputError, match=r"^--target-cases 10 needs 10 labelled slices, found 8; take fewer$"):
        draw_target(slices, 10, 0)
    with pytest.raises(InputError, match=r"--target-cases must be 1 or more, got -1"):
        draw_target(slices, -1, 0)
