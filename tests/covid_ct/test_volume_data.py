"""What a run on volumes may take as source."""

import pytest
from covidct.config import VOLUME_PRESETS, Config
from covidct.data.splits import volume_fold
from covidct.data.store import StoreSettings, begin_store
from covidct.errors import InputError
from covidct.volume_data import read_volume_data

from tests.covid_ct.store_cases import SPACING, save, store, volume


@pytest.fixture
def config(tmp_path):
    """A pre-training for fold 0, whose target's store holds the fold's training scans."""
    begin_store(tmp_path / "target", StoreSettings("covid-ct-20", SPACING))
    for number, name in enumerate(volume_fold("covid-ct-20", 0)[0]):
        save(tmp_path / "target", name, volume(number))

    def make(*source):
        values = VOLUME_PRESETS["demo"] | {"dataset": "covid-ct-20", "data": "", "method": "pretrain", "preset": "demo"}
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
