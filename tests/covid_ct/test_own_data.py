"""train.py, evaluate.py and predict.py on a folder of the user's own, called as a user calls them."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import evaluate
import nibabel
import numpy as np
import predict
import pytest
import torch
import train
from covidct.ct.picture import load_slice, read_pixels, read_size
from covidct.errors import exit_on_input_error
from covidct.run.config import read_config
from covidct.run.recommended import recommended
from covidct.sets.covid_semiseg import read_covid_semiseg
from covidct.sets.own_folder import read_own_pictures
from covidct.sets.own_places import own_places
from covidct.slices.data import slices_to_test
from covidct.slices.own import fitted_size
from PIL import Image

Call = Callable[..., str]
QUICK = ("--preset", "demo", "--steps", "2")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """A function that runs a script from an empty current folder, which must end with `code`, and gives what it says.

    Where it ends with 2, the one message on stderr.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(script: Any, *arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *arguments])
        if code:
            with pytest.raises(SystemExit) as exit_:
                exit_on_input_error(script.main)
            assert exit_.value.code == code
        else:
            exit_on_input_error(script.main)
        said = capsys.readouterr()
        if code == 2:
            assert said.err.count("\n") == 1
            return said.err
        return said.out

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six pairs of 40 x 70 pixels, two each of three patients: 16-bit pictures, and masks of the values 0, 1, 2."""
    rng = np.random.default_rng(0)
    for name in ("p1_a", "p1_b", "p2_a", "p2_b", "p3_a", "p3_b"):
        save_pair(tmp_path / "data", name, rng)
    return tmp_path / "data"


def save_pair(root: Path, name: str, rng: np.random.Generator, images: str = "images", masks: str = "masks") -> None:
    image = rng.integers(1000, 1400, (40, 70)).astype(np.uint16)
    mask = np.zeros((40, 70), dtype=np.uint8)
    mask[10:20, 15:40], mask[25:32, 50:60] = 1, 2
    image[mask > 0] += 900
    for folder, values in ((images, image), (masks, mask)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / folder / f"{name}.png")


def save_pictures(folder: Path, count: int) -> None:
    """Pictures of 8 bits without masks, of another shape than those of `data`."""
    folder.mkdir(parents=True)
    for number in range(count):
        values = np.random.default_rng(number).integers(0, 255, (30, 34), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"s{number}.jpg")


def test_one_command_then_scores_and_masks(call: Call, data: Path) -> None:
    shown = call(train, "--data", "data", "--labels", "1", "--patients", "^(p.)", *QUICK)
    assert "6 labelled pictures, no source or unlabelled images: method unet, one network and its labels" in shown
    assert "to train on: 4 pictures of 70 x 40 pixels (width x height), 16 bits, mask values 0 1 2, 4 with" in shown
    assert "lesion: 1" in shown
    assert "cross-validation, fold 0" in shown
    run = Path("runs/data-unet-fold0-seed0")
    metrics = json.loads((run / "metrics.json").read_text())
    assert len({image["name"][:2] for image in metrics["images"]}) == 1
    assert [image["truth_pixels"] for image in metrics["images"]] == [250, 250]
    config = read_config(run / "config.json")
    # The demo's 112 x 96 pixels hold the whole picture: 40 x 70, to multiples of 16 and 32 at least.
    assert (config.size, config.labels, config.dataset) == ((32, 64), (1,), "own")
    assert "0.5" in call(evaluate, str(run))
    assert "6 of 6 masks written" in call(predict, str(run), "data/images", "--output", "masks")
    mask = read_pixels(Path("masks/p1_a.png"))
    assert mask.shape == (40, 70)
    assert set(np.unique(mask)) <= {0, 255}


def test_folds_hold_every_picture_out_once(call: Call, data: Path) -> None:
    call(train, "--data", "data", "--patients", "^(p.)", "--fold", "2", *QUICK)
    config = read_config(Path("runs/data-unet-fold2-seed0/config.json"))
    folds = [[item.name for item in slices_to_test(replace(config, fold=fold))] for fold in range(3)]
    assert sorted(folds) == [["p1_a", "p1_b"], ["p2_a", "p2_b"], ["p3_a", "p3_b"]]
    message = call(train, "--data", "data", "--patients", "^(p.)", "--fold", "3", *QUICK, code=2)
    assert "--fold must be 0 to 2, got 3: there are 3 patients" in message


def test_source_and_test_folders(call: Call, data: Path) -> None:
    save_pictures(data / "source", 3)
    save_pair(data, "t", np.random.default_rng(9), "test/images", "test/masks")
    shown = call(train, "--data", "data", *QUICK)
    assert "6 labelled pictures and source images: method ours, whose relation losses take these" in shown
    assert "6 slices to train on, 1 to test on, 3 source" in shown
    run = Path("runs/data-ours-test-seed0")
    assert read_config(run / "config.json").source == (str(data / "source"),)
    assert [image["name"] for image in json.loads((run / "metrics.json").read_text())["images"]] == ["t"]
    assert (run / "relations.png").is_file()


def test_unlabelled_pictures(call: Call, data: Path) -> None:
    save_pictures(data / "unlabelled", 3)
    shown = call(train, "--data", "data", *QUICK)
    assert "6 labelled pictures and unlabelled pictures: method self-taught, one network that learns" in shown
    assert "4 slices to train on, 2 to test on\n" in shown
    assert "stage 3 of 3: its own labels, 4 slices and 3 with labels of its own" in shown
    save_pictures(Path("elsewhere"), 2)
    # A copy of what is tested on, which must not be learnt from.
    tested = json.loads(Path("runs/data-self-taught-fold0-seed0/metrics.json").read_text())["images"][0]["name"]
    Path("elsewhere/copy.png").write_bytes((data / f"images/{tested}.png").read_bytes())
    shown = call(train, "--data", "data", "--source", "data/unlabelled", "--unlabelled", "elsewhere", *QUICK)
    assert "method self-taught takes no source images: --source is not used" in shown
    assert "left out: 1 unlabelled pictures that show what a test picture shows" in shown


def test_folders_that_lie_elsewhere(call: Call, data: Path) -> None:
    (data / "images").rename("pictures")
    (data / "masks").rename("truth")
    call(train, "--images", "pictures", "--masks", "truth", *QUICK)
    assert json.loads(Path("runs/pictures-unet-fold0-seed0/metrics.json").read_text())["count"] == 2


def test_nnunets_raw_layout(call: Call, data: Path) -> None:
    (data / "masks").rename(data / "labelsTr")
    (data / "images").rename(data / "imagesTr")
    for path in sorted((data / "imagesTr").iterdir()):
        path.rename(path.with_name(f"{path.stem}_0000.png"))
    (data / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "lesion": 2, "other": 1}}))
    assert "mask values 0 1 2" in call(train, "--data", "data", "--labels", "2", *QUICK)
    images = json.loads(Path("runs/data-unet-fold0-seed0/metrics.json").read_text())["images"]
    assert {image["truth_pixels"] for image in images} == {70}


def test_a_run_goes_on_with_its_settings(call: Call, data: Path) -> None:
    call(train, "--data", "data", "--patients", "^(p.)", "--labels", "1", *QUICK)
    again = ("--data", "data", *QUICK, "--resume", "--output", "runs/data-unet-fold0-seed0")
    assert "This run is finished" in call(train, *again, "--patients", "^(p.)", "--labels", "1")
    assert "labels is (1,) in the run, (2,) was asked for" in call(train, *again, "--labels", "2", code=2)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ("", ("--labels", "3"), "no mask of the 4 pictures to train on has lesion (3): their values are 0 1 2"),
        ("", ("--labels", "1", "7"), "--labels 7 is in no mask: their values are 0 1 2"),
        ("", ("--labels", "0"), "--labels[0] must be 1 or more, got 0"),
        ("", ("--patients", "x"), "--patients 'x' finds no patient in the name p1_a"),
        (
            "",
            ("--method", "ours"),
            "method ours needs source images (X^n): give --source with one or more folders of slices (or put",
        ),
        ("", ("--dataset", "own-volumes"), "--dataset own-volumes and data/images holds what own is of"),
        ("", ("--store", "x"), "--store is for --dataset covid-ct-20; leave it out: volumes"),
        ("masks", ("--method", "ours"), "data/images needs the folder of its masks: data has no folder masks"),
        ("images/p1_a.png", ("--method", "ours"), "needs source images"),
    ],
)
def test_faults(call: Call, data: Path, change: str, arguments: tuple[str, ...], message: str) -> None:
    if change:
        (data / change).rename("away")
    assert message in call(train, "--data", "data", *QUICK, *arguments, code=2)
    assert not Path("runs").exists()


def test_a_damaged_picture_is_named_before_training(call: Call, data: Path) -> None:
    damaged = data / "masks/p2_a.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert re.search(r"masks/p2_a.png cannot be read as a picture", call(train, "--data", "data", *QUICK, code=2))
    assert not Path("runs").exists()


def test_the_data_may_move(call: Call, data: Path) -> None:
    call(train, "--data", "data", *QUICK)
    data.rename("moved")
    assert "--data with a folder" in call(evaluate, "runs/data-unet-fold0-seed0", code=2)
    assert "data-unet" in call(evaluate, "runs/data-unet-fold0-seed0", "--data", "moved")


def test_what_is_for_ones_own_images_alone(call: Call, tmp_path: Path) -> None:
    message = call(train, "--dataset", "own", "--data", str(tmp_path), code=2)
    assert "--dataset own needs --data with a folder that has images/ and masks/" in message
    message = call(train, "--labels", "1", code=2)
    assert "--labels is for images of your own, and the data set is phantom; leave it out" in message


@pytest.fixture
def volumes(tmp_path: Path, chest: Callable[..., Any], save_volume: Any) -> Path:
    """Four chests of 4 x 40 x 48 voxels with their masks, and two without masks as the source."""
    hu, lesion = chest()
    for name in "abcd":
        save_volume(tmp_path / f"scans/images/{name}.nii.gz", hu)
        save_volume(tmp_path / f"scans/masks/{name}.nii.gz", lesion)
    for name in "xy":
        save_volume(tmp_path / f"scans/source/{name}.nii.gz", hu)
    return tmp_path / "scans"


@pytest.mark.slow
def test_volumes_from_one_command_to_masks(call: Call, volumes: Path, save_volume: Any) -> None:
    shown = call(train, "--data", "scans", *QUICK)
    assert "4 labelled volumes and source images: method ours" in shown
    assert (
        "to train on: 3 volumes of 4 x 40 x 48 voxels (z y x), HU, brought to 3 x 2 x 2 mm; mask values 0 1, 3" in shown
    )
    assert "3 volumes to train on, 1 to test on, 2 source" in shown
    run = Path("runs/scans-ours-fold0-seed0")
    (scored,) = json.loads((run / "metrics.json").read_text())["volumes"]
    # 5 x 6 x 2 voxels of 2 x 2 x 3 mm.
    assert scored["truth_ml"] == pytest.approx(0.72)
    assert "scans-ours" in call(evaluate, str(run))
    assert "4 of 4 volumes written" in call(predict, str(run), "scans/images", "--output", "masks")
    assert nibabel.load("masks/a.nii.gz").shape == nibabel.load("scans/images/a.nii.gz").shape
    # A mask that is drawn again is prepared again, and the rest is kept.
    values = np.zeros((48, 40, 4), dtype=np.uint8)
    values[31:33, 22:24, 1] = 3
    for name in "abcd":
        save_volume(volumes / f"masks/{name}.nii.gz", values)
    assert "mask values 0 3, 3 with lesion" in call(train, "--data", "scans", "--method", "unet", *QUICK)
    message = call(train, "--data", "scans", "--method", "unet", "--labels", "2", *QUICK, code=2)
    assert "no mask of the 3 volumes to train on has lesion (2): their values are 0 3; say which" in message


@pytest.mark.slow
def test_a_damaged_volume_is_named_before_training(call: Call, volumes: Path) -> None:
    damaged = volumes / "masks/c.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert str(damaged) in call(train, "--data", str(volumes), "--method", "unet", *QUICK, code=2)
    assert not Path("runs").exists()


def test_real_slices_are_read_as_those_of_their_set(real_data: Path, tmp_path: Path) -> None:
    published = read_covid_semiseg(real_data / "covid_semiseg").train
    for item in published:
        for folder, path in (("images", item.path), ("masks", item.mask_path)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / path.name).symlink_to(path)
    places = own_places(tmp_path)
    assert places is not None
    own = read_own_pictures(places).train
    assert [item.name for item in own] == [item.name for item in published]
    for mine, theirs in zip(own[::7], published[::7], strict=True):
        for one, other in zip(load_slice(mine), load_slice(theirs), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_real_slices_in_the_users_layout(call: Call, real_data: Path, tmp_path: Path) -> None:
    for item in read_covid_semiseg(real_data / "covid_semiseg").train[:12]:
        for folder, path in (("images", item.path), ("masks", item.mask_path)):
            (tmp_path / "slices" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "slices" / folder / path.name).write_bytes(path.read_bytes())
    shown = call(train, "--data", "slices", "--source", str(real_data / "lidc"), "--preset", "cpu", "--steps", "2")
    assert "12 labelled pictures and source images: method ours" in shown
    run = Path("runs/slices-ours-fold0-seed0")
    assert json.loads((run / "metrics.json").read_text())["count"] == 3
    assert "12 of 12 masks written" in call(predict, str(run), "slices/images", "--output", "masks")
    for path in Path("slices/images").iterdir():
        assert read_size(Path("masks") / f"{path.stem}.png") == read_size(path)


@pytest.mark.parametrize(
    ("pictures", "size", "divisors", "expected"),
    [
        # By hand: 43008 / 512^2 = 0.405^2, and 207.4 / 32 = 6.48.
        ([(512, 512)], (224, 192), (32, 32), (192, 192)),
        # Never larger than the pictures, which are 3.1 and 2.2 times 32.
        ([(100, 70)], (224, 192), (32, 32), (96, 64)),
        # The median's shape, 2 to 1: 1 / 2.29 of 672 x 336 is 293 x 147.
        ([(672, 336), (100, 336), (700, 300)], (224, 192), (32, 32), (288, 160)),
        ([(20, 20)], (112, 96), (16, 16), (32, 32)),
    ],
)
def test_the_input_has_the_shape_of_the_pictures(
    pictures: list[tuple[int, int]], size: tuple[int, int], divisors: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fitted_size(pictures, size, divisors) == expected


def test_what_is_recommended() -> None:
    taken = {
        (source, unlabelled, slices): recommended(1, source=source, unlabelled=unlabelled, slices=slices)
        for source in (False, True)
        for unlabelled in (False, True)
        for slices in (False, True)
    }
    assert {key: method for key, (method, _) in taken.items()} == {
        (False, False, False): "unet",
        (False, False, True): "unet",
        (False, True, False): "ours",
        (False, True, True): "self-taught",
        (True, False, False): "ours",
        (True, False, True): "ours",
        (True, True, False): "ours",
        (True, True, True): "self-taught",
    }
    assert taken[False, False, True][1].startswith("1 labelled picture, no source")
    assert taken[False, False, False][1].startswith("1 labelled volume, no source")
