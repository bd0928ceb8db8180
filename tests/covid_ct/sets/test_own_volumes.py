"""Folders of the user's own volumes: what pairs with what, which values are lesion, and grey values."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from covidct.ct.volume import VolumeCase, load_volume
from covidct.errors import InputError
from covidct.sets.own_places import own_places
from covidct.sets.own_volumes import OwnVolumes, read_own_volumes, read_volume_source

Save = Callable[..., Path]
MASK = np.arange(4, dtype=np.uint8).reshape(2, 2, 1).repeat(3, axis=2)


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes empty files in a folder, which readers do not open, and gives the folder."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def read(root: Path, **options: Any) -> OwnVolumes:
    places = own_places(root)
    assert places is not None
    return read_own_volumes(places, **options)


def shown(cases: tuple[VolumeCase, ...]) -> list[tuple[str, str, str | None]]:
    return [(case.name, case.image.name, case.mask and case.mask.name) for case in cases]


def test_images_and_masks_pair_by_stem_whatever_their_format(touch: Callable[..., Path]) -> None:
    root = touch("images/2.nii.gz", "images/10.nrrd", "images/x.mha", "masks/2.nii", "masks/10_mask.mha", "masks/y.nii")
    found = read(root, patients=r"^\d")
    assert shown(found.train) == [("2", "2.nii.gz", "2.nii"), ("10", "10.nrrd", "10_mask.mha")]
    assert [case.patient for case in found.train] == ["2", "1"]
    assert any("1 file (x.mha) without a mask" in line for line in found.left_out)
    assert any("1 file (y.nii) without an image" in line for line in found.left_out)


def test_nnunets_raw_layout(touch: Callable[..., Path]) -> None:
    root = touch("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    touch("imagesTs/b_0000.nii.gz", "labelsTs/b.nii.gz")
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1, "y": 2, "ignore": 3}}))
    found = read(root)
    assert shown(found.train) == [("a", "a_0000.nii.gz", "a.nii.gz")]
    assert shown(found.test) == [("b", "b_0000.nii.gz", "b.nii.gz")]
    assert found.train[0].lesion_labels == (1, 2)
    assert read(root, labels=(2,)).train[0].lesion_labels == (2,)


def test_one_name_is_not_both_trained_and_tested_on(touch: Callable[..., Path]) -> None:
    root = touch("images/a.nii", "masks/a.nii", "test/images/a.nii", "test/masks/a.nii")
    with pytest.raises(InputError, match="a is the name of a volume to train on and of one to test on; rename"):
        read(root)


def test_any_folder_of_volumes_is_a_source(touch: Callable[..., Path]) -> None:
    root = touch("flat/a.nii.gz", "pairs/images/a.nii", "pairs/images/b.nii", "pairs/masks/a.nii", "beside/a.nii")
    touch("beside/a_mask.nii", "beside/a_lung.nii", "cases/one/ct.nii.gz", "cases/one/lesion.nii.gz")
    assert shown(read_volume_source(root / "flat")) == [("flat-a", "a.nii.gz", None)]
    assert shown(read_volume_source(root / "pairs")) == [("pairs-a", "a.nii", None), ("pairs-b", "b.nii", None)]
    touch("pairs/masks/b.nii")
    assert [mask for _, _, mask in shown(read_volume_source(root / "pairs"))] == ["a.nii", "b.nii"]
    assert shown(read_volume_source(root / "beside")) == [("beside-a", "a.nii", "a_mask.nii")]
    assert shown(read_volume_source(root / "cases")) == [("cases-one", "ct.nii.gz", "lesion.nii.gz")]


@pytest.fixture
def case(tmp_path: Path, save_volume: Save) -> Callable[..., VolumeCase]:
    """A function that saves an image and a mask and gives their case, as `read_own_volumes` has them."""

    def make(image: Any, mask: Any, labels: tuple[int, ...] = ()) -> VolumeCase:
        save_volume(tmp_path / "images/a.nii.gz", np.asarray(image))
        save_volume(tmp_path / "masks/a.nii.gz", np.asarray(mask))
        return read(tmp_path, labels=labels).train[0]

    return make


@pytest.mark.parametrize(
    ("mask", "labels", "lesion"),
    [(MASK, (), 9), (MASK * 85, (), 9), (MASK > 2, (), 3), (MASK, (2,), 3), (MASK, (1, 3), 6)],
)
def test_which_values_are_lesion(
    case: Callable[..., VolumeCase], mask: Any, labels: tuple[int, ...], lesion: int
) -> None:
    hu = np.linspace(-1000, 400, 12).reshape(2, 2, 3).astype(np.int16)
    found = load_volume(case(hu, mask.astype(np.uint8), labels)).mask
    assert found is not None
    assert found.sum() == lesion


def test_masks_hold_whole_numbers(case: Callable[..., VolumeCase]) -> None:
    hu = np.linspace(-1000, 400, 12).reshape(2, 2, 3).astype(np.int16)
    with pytest.raises(InputError, match=r"holds 0.5, expected whole numbers"):
        load_volume(case(hu, np.full((2, 2, 3), 0.5, dtype=np.float32)))


def test_values_that_are_no_hu_are_stretched(case: Callable[..., VolumeCase]) -> None:
    # 1000 voxels of 0 around 1001 of 100 to 1100: percentiles 0.5 and 99.5 of these are 105 and 1095.
    image = np.concatenate([np.zeros(1000), np.linspace(100, 1100, 1001)]).reshape(3, 23, 29).astype(np.float32)
    item = case(image, np.ones(image.shape, dtype=np.uint8))
    volume = load_volume(item)
    assert not volume.hu
    expected = np.clip((image - 105) * (255 / 990), 0, 255)
    np.testing.assert_allclose(np.sort(volume.image.ravel()), np.sort(expected.ravel()), atol=1e-3)
    with pytest.raises(InputError, match=r"neither HU .* nor a lung window"):
        load_volume(replace(item, intensity="hu", lesion_labels=None))


def test_hu_and_windows_are_taken_for_what_they_are(case: Callable[..., VolumeCase]) -> None:
    hu = np.array([-1250, -500, 250, 100], dtype=np.int16).repeat(3).reshape(2, 2, 3)
    volume = load_volume(case(hu, (hu > 0).astype(np.uint8)))
    assert volume.hu
    np.testing.assert_allclose(np.unique(volume.image), [0, 127.5, 229.5, 255])
    window = np.array([0, 20, 255, 100], dtype=np.int16).repeat(3).reshape(2, 2, 3)
    assert np.unique(load_volume(case(window, (window > 20).astype(np.uint8))).image).tolist() == [0, 20, 100, 255]
