"""The table of docs/compatibility.md, made by tests/long/compatibility.py."""

import re

from dynamic_network_architectures.architectures.unet import PlainConvUNet

from tests.long.compatibility import COLUMNS, HEADER, PAGE, attempts, row
from tests.models.networks import dna_case, nested_case
from tests.models.test_contract import NETWORKS


def test_the_page_has_networks_of_the_contract_in_its_order() -> None:
    page = PAGE.read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    found = [line[0] for line in lines if len(line) == len(HEADER)][2:]
    every = [case.name for case in NETWORKS]
    assert found == [one for one in every if one in found]
    missing = sorted(set(every) - set(found))
    assert missing == sorted(re.findall(r"`([^`]+)`", page.partition("not been measured yet: ")[2].partition(".\n")[0]))
    reasons = re.findall(r"^\d+\. .+$", page, re.M)
    numbers = {int(number) for number in re.findall(r"no \((\d+)\)", page)}
    assert numbers == set(range(1, len(reasons) + 1))


def test_a_network_that_does_all() -> None:
    reasons: list[str] = []
    case = dna_case(PlainConvUNet, 2, True)
    found = attempts(case, "concat")
    assert [text for text, _ in found] == ["yes"] * len(COLUMNS)
    assert row(case, [found, found], reasons) == [case.name, "2D", "yes", "yes", "yes", ""]
    assert reasons == []


def test_what_cannot_be_names_the_reason_once() -> None:
    reasons: list[str] = []
    case, good = nested_case(1), [("none" if name == "deep supervision" else "yes", "") for name in COLUMNS]
    assert row(case, [good, attempts(case, "concat")], reasons) == [case.name, "1D", "yes", "no (1)", "none", ""]
    assert len(reasons) == 1
    assert reasons[0].startswith('ValueError: fusion="concat" needs a decoder that takes more channels')


def test_exceptions_are_named_once_where_both_fusions_have_them() -> None:
    yes = {name: ("none" if name == "deep supervision" else "yes", "") for name in COLUMNS}
    project = yes | {"compile": ("no", "breaks"), "export": ("with strict=True", "")}
    concat = yes | {"compile": ("no", "breaks"), "eval": ("no", "differs")}
    reasons = ["earlier"]
    line = row(nested_case(2), [[*project.values()], [*concat.values()]], reasons)
    assert line[2:] == [
        "but for",
        "but for",
        "none",
        "compile: no (2); project, export: with strict=True; concat, eval: no (3)",
    ]
    assert reasons == ["earlier", "breaks", "differs"]
