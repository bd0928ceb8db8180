"""Folders of the user's own pictures: what pairs with what, what is left out, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from covidct.ct.own_picture import read_any_depth
from covidct.ct.picture import load_slice, read_size
from covidct.errors import InputError
from covidct.sets.folds import draw_folds, own_folds
from covidct.sets.own_folder import read_own_pictures, read_own_source, read_own_unlabelled
from covidct.sets.own_places import kind_of, own_places
from covidct.sets.patients import patients_of
from PIL import Image

Write = Callable[..., Path]


@pytest.fixture
def write() -> Write:
    """A function that saves an array as a picture, 6 x 4 pixels of 0, 10, 20, ... by default, and gives its path."""

    def save(path: Path, values: object = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = np.arange(0, 240, 10, dtype=np.uint8).reshape(6, 4) if values is None else np.asarray(values)
        shown = shown.astype(np.uint8) if shown.dtype == np.int64 else shown
        Image.fromarray(shown).save(path)
        return path

    return save


def read(root: Path, **options: object):
    places = own_places(root)
    assert places is not None
    return read_own_pictures(places, **options)


def mask_of(root: Path, values: object, name: str = "a.png", labels: tuple[int, ...] = ()) -> list[list[bool]]:
    Image.fromarray(np.asarray(values)).save(root / "masks" / name)
    (item,) = read(root, labels=labels).train
    mask = load_slice(item)[1]
    assert mask is not None
    return mask.tolist()


# Pairs


def test_images_and_masks_pair_by_stem_whatever_their_format(write: Write, tmp_path: Path) -> None:
    for name in ("images/2.jpg", "images/10.tif", "images/c.PNG", "images/alone.png", "masks/2.png", "masks/10.tiff"):
        write(tmp_path / name)
    write(tmp_path / "masks/c_mask.png")
    write(tmp_path / "masks/nobody.png")
    found = read(tmp_path)
    pairs = [(item.name, item.path.name, item.mask_path and item.mask_path.name) for item in found.train]
    assert pairs == [("2", "2.jpg", "2.png"), ("10", "10.tif", "10.tiff"), ("c", "c.PNG", "c_mask.png")]
    assert [line.partition(": ")[2] for line in found.left_out] == [
        "1 file (alone.png) without a mask; add them, or move the images to unlabelled/",
        "1 file (nobody.png) without an image; add the images",
    ]


def test_what_lies_beside_is_found(write: Write, tmp_path: Path) -> None:
    for name in ("images/a.png", "masks/a.png", "test/images/b.png", "test/masks/b.png", "unlabelled/u.png"):
        write(tmp_path / name)
    found = read(tmp_path)
    assert [item.name for item in found.test] == ["b"]
    assert [(item.name, item.mask_path) for item in found.unlabelled] == [("u", None)]
    assert own_places(tmp_path).source is None


def test_folders_that_lie_elsewhere(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "here/x.png")
    write(tmp_path / "there/x.png")
    write(tmp_path / "more/u.png")
    places = own_places(None, tmp_path / "here", tmp_path / "there")
    found = read_own_pictures(places, unlabelled=tmp_path / "more")
    assert [item.name for item in found.train] == ["x"]
    assert [item.name for item in found.unlabelled] == ["u"]


def test_nnunets_raw_layout(write: Write, tmp_path: Path) -> None:
    values = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    for name in ("imagesTr/a_0000.png", "imagesTr/a_0001.png", "imagesTs/t_0000.png"):
        write(tmp_path / name, [[0, 9], [8, 7]])
    write(tmp_path / "labelsTr/a.png", values)
    description = {"labels": {"background": 0, "lesion": [1, 2], "ignore": 3}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    found = read(tmp_path)
    assert [(item.name, item.path.name) for item in found.train] == [("a", "a_0000.png")]
    assert load_slice(found.train[0])[1].tolist() == [[False, True], [True, False]]
    assert found.test == ()
    said = "\n".join(found.left_out)
    assert "imagesTs: no labelsTs beside it" in said
    assert "(a_0001.png): further channels" in said
    assert "label 3 to be ignored: it counts as background" in said
    write(tmp_path / "labelsTs/t.png", values)
    assert [item.name for item in read(tmp_path).test] == ["t"]


def test_none_where_the_folder_is_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "Dataset").mkdir()
    assert own_places(tmp_path) is None
    assert own_places(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (("images/a.png",), r"images needs the folder of its masks: .* has no folder masks \(found images\)"),
        (("masks/a.png",), r"masks needs the folder of its images: .* has no folder images .*--images DIR"),
        (("imagesTr/a.png",), r"has imagesTr and no labelsTr \(found imagesTr\); put the masks of imagesTr there"),
        (("images/a.png", "masks/b.png"), r"no image of .* has a mask .* 1 file \(a.png\) and 1 file \(b.png\)"),
        (("images/a.png", "images/a.jpg", "masks/a.png"), "a.png and a.jpg have the same stem; remove one"),
    ],
)
def test_a_faulty_layout(write: Write, tmp_path: Path, made: tuple[str, ...], message: str) -> None:
    for name in made:
        write(tmp_path / name)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_folders_that_are_not_there(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "images/a.png")
    with pytest.raises(InputError, match=r"--images .*nowhere does not exist; give the folder of the images"):
        own_places(None, tmp_path / "nowhere", tmp_path)
    with pytest.raises(InputError, match=r"--masks .*a.png is a file; give the folder of the masks"):
        own_places(None, tmp_path, tmp_path / "images/a.png")
    with pytest.raises(InputError, match=r"images needs the folder of its masks: it is given alone, or .*--masks DIR"):
        own_places(None, tmp_path / "images")
    with pytest.raises(InputError, match=r"nowhere does not exist; give a folder of pictures"):
        read_own_unlabelled(tmp_path / "nowhere")


def test_the_kind_is_told_by_the_files(write: Write, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images/notes.txt").touch()
    with pytest.raises(InputError, match=r"images holds no picture .* and no volume .* found notes.txt"):
        kind_of(own_places(tmp_path))
    (tmp_path / "images/a.nii.gz").touch()
    assert kind_of(own_places(tmp_path)) == "own-volumes"
    write(tmp_path / "images/b.png")
    with pytest.raises(InputError, match=r"holds both 1 pictures and 1 volumes"):
        kind_of(own_places(tmp_path))


# Source


def test_any_folder_of_pictures_is_a_source(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "flat/a.png")
    assert [(item.name, item.mask_path) for item in read_own_source(tmp_path / "flat")] == [("a", None)]
    write(tmp_path / "pairs/images/a.png")
    write(tmp_path / "pairs/images/b.png")
    masks = [write(tmp_path / "pairs/masks/a.png")]
    assert [item.mask_path for item in read_own_source(tmp_path / "pairs")] == [None, None]
    masks.append(write(tmp_path / "pairs/masks/b.png"))
    assert [item.mask_path for item in read_own_source(tmp_path / "pairs")] == masks
    (tmp_path / "volumes/case").mkdir(parents=True)
    assert read_own_source(tmp_path / "volumes") is None


# Grey values and labels


@pytest.mark.parametrize("values", [[[0, 1], [4000, 1000]], [[-1024, -1023], [2976, -24]], [[0.0, 0.001], [4.0, 1.0]]])
def test_pictures_of_any_depth(tmp_path: Path, values: list[list[float]]) -> None:
    dtype = np.float32 if isinstance(values[0][0], float) else np.int32 if values[0][0] < 0 else np.uint16
    Image.fromarray(np.array(values, dtype=dtype)).save(tmp_path / "a.tif")
    scale = 255 / (max(map(max, values)) - min(map(min, values)))
    expected = [[(value - min(map(min, values))) * scale for value in row] for row in values]
    np.testing.assert_allclose(read_any_depth(tmp_path / "a.tif"), expected, rtol=1e-6)


def test_eight_bits_stay_as_they_are(write: Write, tmp_path: Path) -> None:
    image = read_any_depth(write(tmp_path / "a.png", np.array([[3, 7], [9, 200]], dtype=np.uint8)))
    assert image.tolist() == [[3, 7], [9, 200]]


def test_faults_of_deep_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.array([[1, np.nan]], dtype=np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(InputError, match=r"nan.tif has 1 pixels that are NaN"):
        read_any_depth(tmp_path / "nan.tif")
    Image.fromarray(np.full((2, 2), 700, dtype=np.uint16)).save(tmp_path / "flat.png")
    with pytest.raises(InputError, match=r"flat.png: every pixel is 700"):
        read_any_depth(tmp_path / "flat.png")


def test_masks_of_any_labels(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "images/a.png", np.array([[1, 2, 3, 4]], dtype=np.uint8))
    (tmp_path / "masks").mkdir()
    assert mask_of(tmp_path, np.array([[0, 255, 0, 255]], dtype=np.uint8)) == [[False, True, False, True]]
    assert mask_of(tmp_path, np.array([[0, 1, 0, 1]], dtype=np.uint8)) == [[False, True, False, True]]
    assert mask_of(tmp_path, np.array([[False, True, False, True]])) == [[False, True, False, True]]
    labels = np.array([[0, 1, 2, 300]], dtype=np.uint16)
    assert mask_of(tmp_path, labels) == [[False, True, True, True]]
    assert mask_of(tmp_path, labels, labels=(2, 300)) == [[False, False, True, True]]


def test_a_palette_of_colours_holds_label_numbers(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "images/a.png", np.array([[1, 2, 3]], dtype=np.uint8))
    (tmp_path / "masks").mkdir()
    numbers = Image.new("P", (3, 1))
    numbers.putdata([0, 1, 2])
    numbers.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    numbers.save(tmp_path / "masks/a.png")
    (item,) = read(tmp_path, labels=(2,)).train
    assert load_slice(item)[1].tolist() == [[False, False, True]]


def test_a_jpeg_is_a_mask_only_of_two_values(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "images/a.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    (tmp_path / "masks").mkdir()
    square = np.zeros((16, 16), dtype=np.uint8)
    square[5:12, 3:9] = 255
    assert mask_of(tmp_path, square, "a.jpg") == (square > 0).tolist()
    with pytest.raises(InputError, match=r"a.jpg is a JPEG .* without --labels; save the masks as PNG"):
        mask_of(tmp_path, square, "a.jpg", labels=(255,))
    with pytest.raises(InputError, match=r"a.jpg is a JPEG"):
        mask_of(tmp_path, square // 4, "a.jpg")


def test_a_mask_of_another_size(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "images/a.png")
    write(tmp_path / "masks/a.png", np.eye(4, dtype=np.uint8))
    (item,) = read(tmp_path).train
    with pytest.raises(InputError, match=r"is 4 x 4 pixels .* is 4 x 6; a mask must have the size of its image"):
        load_slice(item)


def test_the_size_is_that_of_the_picture_as_it_is_shown(tmp_path: Path) -> None:
    turned = Image.new("L", (5, 3))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.jpg", exif=exif)
    assert read_size(tmp_path / "a.jpg") == (5, 3)
    turned.save(tmp_path / "b.jpg")
    assert read_size(tmp_path / "b.jpg") == (3, 5)


# Patients and folds


def test_patients_by_an_expression() -> None:
    assert patients_of(["p1_a", "p1_b", "p22_a"], r"^p(\d+)") == {"p1_a": "1", "p1_b": "1", "p22_a": "22"}
    assert patients_of(["x-1", "x-2"], r"^\w") == {"x-1": "x", "x-2": "x"}
    assert patients_of(["a", "b"], "") == {"a": "a", "b": "b"}
    with pytest.raises(InputError, match=r"--patients '\\\\d\+' finds no patient in the name b; write one"):
        patients_of(["a1", "b"], r"\d+")
    with pytest.raises(InputError, match=r"--patients '\(' is no regular expression"):
        patients_of(["a"], "(")


def test_patients_by_a_list(tmp_path: Path) -> None:
    (tmp_path / "who.csv").write_text("image,patient\na.png,P 1\nb,P 1\nc.nii.gz,P 2\nd.1,P 3\n")
    rule = str(tmp_path / "who.csv")
    assert patients_of(["a", "b", "c", "d.1"], rule) == {"a": "P 1", "b": "P 1", "c": "P 2", "d.1": "P 3"}
    with pytest.raises(InputError, match=r"who.csv lists no patient of e; add a line `e,PATIENT`"):
        patients_of(["a", "e"], rule)
    with pytest.raises(InputError, match=r"none.csv cannot be read .No such file"):
        patients_of(["a"], str(tmp_path / "none.csv"))


def test_a_patient_is_not_both_trained_and_tested_on(write: Write, tmp_path: Path) -> None:
    for name in ("images/p1_a.png", "masks/p1_a.png", "test/images/p1_b.png", "test/masks/p1_b.png"):
        write(tmp_path / name)
    assert [item.scan for item in read(tmp_path).test] == ["p1_b"]
    with pytest.raises(InputError, match=r"patient p1 is both in .*images and in .*test/images"):
        read(tmp_path, patients=r"^(p\d)")


def test_a_patient_stays_in_one_fold() -> None:
    owners = {f"{patient}{number}": patient for patient in "abcdefg" for number in range(2 if patient < "d" else 3)}
    folds = draw_folds(owners, 5, seed=0)
    assert sorted(name for fold in folds for name in fold) == sorted(owners)
    homes = {
        patient: [k for k, fold in enumerate(folds) if any(name[0] == patient for name in fold)]
        for patient in "abcdefg"
    }
    assert all(len(home) == 1 for home in homes.values())
    assert draw_folds(dict(reversed(owners.items())), 5, seed=0) == folds
    assert draw_folds(owners, 5, seed=1) != folds


def test_fewer_patients_make_fewer_folds() -> None:
    assert own_folds(40, 4) == 5
    assert own_folds(3, 2) == 3
    with pytest.raises(InputError, match=r"--fold must be 0 to 2, got 3: there are 3 patients"):
        own_folds(3, 3)
    with pytest.raises(InputError, match=r"at least 2 patients, found 1; add some, or test images"):
        own_folds(1, 0)
