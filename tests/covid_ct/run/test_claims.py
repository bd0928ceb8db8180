"""Who owns which file of a call."""

import os

import pytest
from covidct.errors import InputError
from covidct.run.claims import Claims, given


def refused(claims, message, owner, *results, ours=False):
    with pytest.raises(InputError, match=message):
        claims.take(owner, results, ours=ours)


@pytest.mark.parametrize(("one", "other"), [("Scan.png", "scan.PNG"), ("\u00e4.png", "a\u0308.png")])
def test_names_that_some_disks_do_not_tell_apart(tmp_path, one, other):
    claims = Claims([])
    claims.take(tmp_path / "1", [tmp_path / "out" / one], ours=False)
    refused(claims, f"{tmp_path / '1'} and {tmp_path / '2'} would both be", tmp_path / "2", tmp_path / "out" / other)
    claims.take(tmp_path / "3", [tmp_path / "elsewhere" / other], ours=False)


def test_all_or_none_is_taken(tmp_path):
    claims = Claims([])
    claims.take(tmp_path / "1", [tmp_path / "a"], ours=False)
    refused(claims, "would both be", tmp_path / "2", tmp_path / "b", tmp_path / "a")
    claims.take(tmp_path / "3", [tmp_path / "b"], ours=False)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_what_leads_to_an_input_is_the_input(tmp_path, link):
    data = tmp_path / "data.png"
    data.touch()
    link(data, tmp_path / "result.png")
    refused(Claims([data]), "is the input .*data.png and would be", data, tmp_path / "result.png", ours=True)


def test_what_stands_there_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").symlink_to("gone")
    refused(Claims([]), "a folder stands in its place", tmp_path / "1", tmp_path / "folder", ours=True)
    refused(Claims([]), "broken is there, was not written by predict.py", tmp_path / "1", tmp_path / "broken")


def test_a_name_that_is_too_long(tmp_path):
    for folder in (tmp_path, tmp_path / "not" / "there"):
        result = folder / f"{'n' * 250}.nii.gz"
        message = r"^in/n\.nii: .*n\.nii\.gz cannot be written \(File name too long\); shorten the name"
        refused(Claims([]), message, "in/n.nii", result)
        Claims([]).take(tmp_path / "1", [result.with_name("n" * 255)], ours=False)


def test_a_path_is_known_as_it_is_given(tmp_path, monkeypatch):
    """Two links to one are two; a `..` after a link is above where that leads, as the system has it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far" / "cache" / "K1").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far" / "cache" / "K1")
    for path in ("here/a.png", "here/../here/a.png", "./here//a.png", "here/link/../../../here/a.png"):
        assert given(tmp_path / path) == given(type(tmp_path)(path)) == tmp_path / "here" / "a.png"
    assert given(tmp_path / "here" / "link" / "a.png") == tmp_path / "here" / "link" / "a.png"
    assert given(tmp_path / "here" / "link" / ".." / "a.png") == tmp_path / "far" / "cache" / "a.png"
