"""What a run on volumes may take as source, and what it says of that and of its test volumes."""

import io
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from covidct.errors import InputError
from covidct.run.config import Config
from covidct.sets.readers import read_volume_set
from covidct.sets.splits import source_split, volume_fold
from covidct.store.store import StoreSettings, begin_store
from covidct.volumes.data import read_volume_data
from covidct.volumes.presets import PRESETS
from covidct.volumes.sources import keep_sources
from covidct.volumes.wing import check_test_volumes
from rich.console import Console

from tests.covid_ct.store_cases import SPACING, save, store, volume, write_scans


@pytest.fixture
def config(tmp_path):
    """A pre-training for fold 0, whose target's store holds the fold's training scans."""
    begin_store(tmp_path / "target", StoreSettings("covid-ct-20", SPACING))
    for number, name in enumerate(volume_fold("covid-ct-20", 0)[0]):
        save(tmp_path / "target", name, volume(number))

    def make(*source):
        values = PRESETS["demo"] | {"dataset": "covid-ct-20", "data": "", "method": "pretrain", "preset": "demo"}
        folders = tuple(str(tmp_path / name) for name in source)
        return Config(**values, source=folders, store=str(tmp_path / "target"), fold=0, seed=0)

    return make


def test_sources_are_the_stores_of_other_lesions(config, tmp_path):
    one, two = store(tmp_path / "one", 2, "one"), store(tmp_path / "two", 1, "two")
    assert read_volume_data(config("one", "two")).training == (one, two)


def test_the_target_is_no_source(config):
    with pytest.raises(InputError, match="target is a store of covid-ct-20, the target itself, whose test volumes"):
        read_volume_data(config("target"))


def test_a_test_volume_is_no_source(config, tmp_path):
    store(tmp_path / "other", 1, "other")
    tested = volume_fold("covid-ct-20", 0)[1][3]
    save(tmp_path / "other", tested, volume(9))
    with pytest.raises(InputError, match=f"other holds {tested}, which this fold is tested on; give stores of other"):
        read_volume_data(config("other"))


def test_a_source_counts_once(config, tmp_path):
    store(tmp_path / "one", 1, "one")
    with pytest.raises(InputError, match="one is given twice; leave one out"):
        read_volume_data(config("one", "target/../one"))


def test_published_cases_that_a_source_lacks(config, tmp_path):
    published = source_split("nsclc-pe")[0]
    begin_store(tmp_path / "nsclc", StoreSettings("nsclc-pe", SPACING))
    for name in published[:2]:
        save(tmp_path / "nsclc", name, volume(0))
    save(tmp_path / "nsclc", published[2], volume(0, labelled=False))
    save(tmp_path / "nsclc", source_split("nsclc-pe")[1][0], volume(0))
    store(tmp_path / "other", 1, "other")
    partial, other = read_volume_data(config("nsclc", "other")).taken
    assert [case.name for case in partial.cases] == sorted(published[:2])
    assert (partial.missing, other.missing) == (published[2:], ())
    assert partial.describe() == (
        f"nsclc-pe: 2 of the 63 published training cases; {tmp_path / 'nsclc'} lacks 61: "
        f"{', '.join(published[2:7])}, ..."
    )
    assert other.describe() == "other: 1 case"
    keep_sources(tmp_path, (partial, other))
    first, second = json.loads((tmp_path / "sources.json").read_text())
    assert first == {
        "dataset": "nsclc-pe",
        "cases": sorted(published[:2]),
        "folder": str(tmp_path / "nsclc"),
        "missing": list(published[2:]),
    }
    assert second["missing"] == []


def test_a_run_keeps_its_source_cases(config, tmp_path):
    store(tmp_path / "one", 2, "one")
    taken = read_volume_data(config("one")).taken
    path = tmp_path / "sources.json"
    keep_sources(tmp_path, ())
    assert not path.exists()
    for before in ("", "[1", "{}"):
        path.write_text(before)
        keep_sources(tmp_path, taken)
        assert json.loads(path.read_text())[0]["cases"] == ["one_0", "one_1"]
    # The same cases from another place are the same.
    keep_sources(tmp_path, (replace(taken[0], folder=tmp_path / "moved"),))
    save(tmp_path / "one", "one_2", volume(2))
    with pytest.raises(InputError, match=r"sources\.json lists other cases than the sources of the run hold now; put"):
        keep_sources(tmp_path, read_volume_data(config("one")).taken)


def test_faults_of_test_volumes_are_said_before_training(tmp_path):
    write_scans(tmp_path)
    images, masks = tmp_path / "COVID-19-CT-Seg_20cases", tmp_path / "Infection_Mask"
    names = [f"coronacases_00{number}" for number in range(1, 6)]

    def write(folder, name, shape=(32, 32, 10), value=0, move=0):
        affine = np.diag([-1.0, -1.0, 2.0, 1.0])
        affine[0, 3] = move
        nib.save(nib.Nifti1Image(np.full(shape, value, dtype=np.int16), affine), folder / f"{name}.nii.gz")

    (images / f"{names[0]}.nii.gz").write_bytes(b"no volume")
    write(masks, names[1], value=7)
    write(masks, names[2], shape=(32, 10, 32))
    write(masks, names[3], move=9)
    cases = [case for case in read_volume_set("covid-ct-20", tmp_path).cases if case.name in names]
    console = Console(file=io.StringIO(), width=120)
    check_test_volumes([*cases[4:], replace(cases[4], name="bare", mask=None)], console)
    assert "error: bare: " in console.file.getvalue()
    console = Console(file=io.StringIO(), width=120)
    check_test_volumes(cases, console)
    shown = console.file.getvalue().splitlines()
    for line, name, fault in zip(
        shown[:4], names, ("cannot be read", "holds 7, expected 0", "its axes are swapped", "9.0 mm away"), strict=False
    ):
        assert line.startswith(f"error: {name}: ")
        assert fault in line
    assert shown[4:] == ["4 of 5 test volumes will not be scored, unless they are mended by then"]
    with pytest.raises(InputError, match="none of the 4 test volumes can be used; see the errors above"):
        check_test_volumes(cases[:4], console)


def test_sound_test_volumes_are_not_worth_a_word(tmp_path):
    console = Console(file=io.StringIO())
    check_test_volumes(read_volume_set("covid-ct-20", write_scans(tmp_path)).cases, console)
    check_test_volumes((), console)
    assert console.file.getvalue() == ""
