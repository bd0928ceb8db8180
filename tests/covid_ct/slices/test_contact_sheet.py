"""The contact sheet of labelled and unlabelled slices, and the table of their grey values."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from covidct.errors import InputError
from covidct.sets.covid_semiseg import read_covid_semiseg
from covidct.slices.contact_sheet import draw_contact_sheet, grey_values, groups_to_compare
from PIL import Image

SCRIPT = Path(__file__).parents[3] / "examples/covid_ct/contact_sheet.py"


@pytest.fixture
def folder(tmp_path, write_covid):
    names = ["Data-1_coronacases_org_001_1", "Data-1_coronacases_org_001_2", "scan_1"]
    return write_covid(tmp_path, ["1", "2"], [], names)


def test_groups(folder, tmp_path, write_covid):
    groups = groups_to_compare(read_covid_semiseg(folder))
    assert [(group.name, len(group.slices)) for group in groups] == [
        ("labelled", 2),
        ("unlabelled, kept", 1),
        ("unlabelled, as stored", 2),
        ("unlabelled, as read", 2),
    ]
    assert [bool(group.slices[0].convert) for group in groups] == [False, False, False, True]
    plain = write_covid(tmp_path / "plain", ["1"], [], ["scan_1"])
    assert [group.name for group in groups_to_compare(read_covid_semiseg(plain))] == ["labelled", "unlabelled, kept"]


def test_grey_values_by_hand(folder):
    """Halves of 40 and 80 against halves of 99 and 101: 59 and 21 apart, 40 on average."""
    data = read_covid_semiseg(folder)
    (kept,) = (item for item in data.unlabelled if not item.convert)
    for item, greys in ((data.train[0], [99, 101]), (data.train[1], [101, 99]), (kept, [40, 80])):
        Image.fromarray(np.repeat(greys, 720).reshape(40, 36).astype(np.uint8)).save(item.path)
    labelled, other = grey_values(groups_to_compare(data))[:2]
    assert (labelled.count, labelled.mean, labelled.distance) == (2, pytest.approx(100), 0)
    assert (other.count, other.mean, other.distance) == (1, pytest.approx(60), pytest.approx(40))


def test_drawn(folder, tmp_path):
    drawn = draw_contact_sheet(tmp_path / "sheet.png", groups_to_compare(read_covid_semiseg(folder)), columns=3)
    with Image.open(drawn) as picture:
        assert picture.format == "PNG"
        assert picture.width > 300
        assert picture.height > 700


def test_without_unlabelled(tmp_path, write_covid):
    with pytest.raises(
        InputError, match=r"there are no unlabelled slices; give a folder that has TrainingSet/\S+/Imgs"
    ):
        groups_to_compare(read_covid_semiseg(write_covid(tmp_path, ["1"])))


def test_command(folder, tmp_path):
    def call(*arguments):
        return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)

    done = call(folder, "--output", tmp_path / "sheet.png", "--columns", "2")
    assert done.returncode == 0, done.stderr
    assert "unlabelled, as read" in done.stdout
    assert (tmp_path / "sheet.png").is_file()
    wrong = call(folder, "--columns", "0")
    assert (wrong.returncode, wrong.stderr) == (2, "error: --columns must be 1 or more, got 0\n")


def test_real_slices(real_data):
    """The converted slices lie as near to the labelled ones as those do that need no conversion."""
    groups = groups_to_compare(read_covid_semiseg(real_data / "covid_semiseg"))
    every = [type(group)(group.name, group.slices[:: len(group.slices) // 40]) for group in groups]
    labelled, kept, stored, read = grey_values(every)
    assert stored.distance > 60
    assert read.distance < 20
    assert abs(read.mean - labelled.mean) < 20
    assert abs(kept.mean - labelled.mean) < 20
