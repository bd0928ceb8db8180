"""The published splits."""

from covidct.sets.splits import published


def test_every_split_names_its_source():
    content = published()
    assert set(content) == {"covid20_task1_folds", "msd_lung", "nsclc_pe", "covid_semiseg"}
    assert all(len(part["source"]) > 20 for part in content.values())


def test_published_numbers():
    content = published()
    folds = content["covid20_task1_folds"]["folds"]
    assert [(len(fold["train"]), len(fold["test"])) for fold in folds] == [(4, 16)] * 5
    assert len({case for fold in folds for case in fold["train"]}) == 20
    assert [len(content["msd_lung"][part]) for part in ("train", "val")] == [51, 12]
    assert [len(content["nsclc_pe"][part]) for part in ("train", "val")] == [63, 15]
    ids = content["covid_semiseg"]
    assert sorted(ids["train"] + ids["test"]) == sorted(set(range(100)) - {22, 48})
    assert len(ids["train"]) == 50
