"""The published folder layout of COVID-SemiSeg."""

import shutil

import pytest
from covidct.ct.picture import check_slices, load_slice
from covidct.errors import InputError
from covidct.sets.covid_semiseg import read_covid_semiseg

DOCTOR = "Dataset/TrainingSet/LungInfection-Train/Doctor-label"


def test_all_parts(tmp_path, write_covid):
    write_covid(tmp_path, ["10", "2", "0"], ["7"], ["Data-1_coronacases_org_001_17"])
    data = read_covid_semiseg(tmp_path)
    assert [item.name for item in data.train] == ["0", "2", "10"]
    assert [item.mask_path.name for item in data.train] == ["0.png", "2.png", "10.png"]
    assert [(item.name, item.path.parent.parent.name) for item in data.test] == [("7", "LungInfection-Test")]
    (unlabelled,) = data.unlabelled
    assert unlabelled.name == "Data-1_coronacases_org_001_17"
    assert unlabelled.scan == "Data-1_coronacases_org_001"
    assert unlabelled.mask_path is None
    check_slices((*data.train, *data.test, *data.unlabelled))


def test_optional_folders(tmp_path, write_covid):
    data = read_covid_semiseg(write_covid(tmp_path, ["1"]))
    assert data.test == ()
    assert data.unlabelled == ()


@pytest.mark.parametrize("given", ["outer", "outer/covid", "outer/covid/Dataset"])
def test_three_roots(tmp_path, write_covid, given):
    write_covid(tmp_path / "outer" / "covid", ["1"])
    assert len(read_covid_semiseg(tmp_path / given).train) == 1


def test_edge_and_macos_files_are_ignored(tmp_path, write_covid):
    write_covid(tmp_path, ["1"])
    (tmp_path / DOCTOR / "Edge").mkdir()
    (tmp_path / DOCTOR / "Edge" / "99.png").write_bytes(b"no image for this one")
    for folder in ("Imgs", "GT"):
        (tmp_path / DOCTOR / folder / "._1.png").write_bytes(b"macOS")
    assert [item.name for item in read_covid_semiseg(tmp_path).train] == ["1"]


def test_wrong_path(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist; give the folder that holds"):
        read_covid_semiseg(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file is a file; give the folder"):
        read_covid_semiseg(tmp_path / "file")


def test_another_folder_says_what_it_looked_for_and_found(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(
        InputError,
        match=r"is not COVID-SemiSeg: looked for TrainingSet/LungInfection-Train/Doctor-label .*, found holiday; give",
    ):
        read_covid_semiseg(tmp_path)
    with pytest.raises(InputError, match=r"found nothing"):
        read_covid_semiseg(tmp_path / "holiday")


def test_two_data_sets(tmp_path, write_covid):
    for name in ("a", "b"):
        write_covid(tmp_path / name, ["1"])
    with pytest.raises(InputError, match=r"holds 2 data sets \(.*a/Dataset, .*b/Dataset\); give one"):
        read_covid_semiseg(tmp_path)


def test_empty_folder(tmp_path, write_covid):
    write_covid(tmp_path, ["1"])
    (tmp_path / DOCTOR / "Imgs" / "1.png").unlink()
    with pytest.raises(InputError, match=r"Doctor-label/Imgs is empty: no \.jpg, .* in it; unpack"):
        read_covid_semiseg(tmp_path)


def test_missing_folder(tmp_path, write_covid):
    write_covid(tmp_path, ["1"])
    shutil.rmtree(tmp_path / DOCTOR / "GT")
    with pytest.raises(InputError, match=r"Doctor-label/GT is missing"):
        read_covid_semiseg(tmp_path)


def test_image_without_mask(tmp_path, write_covid):
    write_covid(tmp_path, ["1", "2"])
    (tmp_path / DOCTOR / "GT" / "2.png").unlink()
    with pytest.raises(InputError, match=r"Imgs/2\.png has no mask: .*GT/2\.png is missing; add it"):
        read_covid_semiseg(tmp_path)


def test_mask_without_image(tmp_path, write_covid):
    write_covid(tmp_path, ["1", "2"])
    (tmp_path / DOCTOR / "Imgs" / "2.png").unlink()
    with pytest.raises(InputError, match=r"GT/2\.png has no image: .*Imgs/2\.jpg is missing; add it"):
        read_covid_semiseg(tmp_path)


def test_real_slices(real_data):
    data = read_covid_semiseg(real_data / "covid_semiseg")
    assert len(data.train) == 50
    assert len(data.unlabelled) == 1600
    assert len({item.scan for item in data.unlabelled}) == 20
    check_slices(data.train)
    shares = sorted(load_slice(item)[1].mean() for item in data.train)
    assert shares[0] == pytest.approx(0.009, abs=5e-4)
    assert shares[-1] == pytest.approx(0.387, abs=5e-4)
