"""The table of docs/compatibility.md, made by tests/long/compatibility.py."""

import re

from dynamic_network_architectures.architectures.unet import PlainConvUNet

from tests.long.compatibility import COLUMNS, FUSIONS, PAGE, row
from tests.models.networks import dna_case, nested_case
from tests.models.test_contract import NETWORKS


def test_the_page_has_networks_of_the_contract_in_its_order() -> None:
    page = PAGE.read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    found = [(line[0], line[2]) for line in lines if len(line) == len(COLUMNS) + 3][2:]
    every = [(case.name, fusion) for case in NETWORKS for fusion in FUSIONS]
    assert found == [one for one in every if one in found]
    missing = sorted({name for name, _ in every if (name, FUSIONS[0]) not in found})
    assert missing == sorted(re.findall(r"`([^`]+)`", page.partition("not been measured yet: ")[2].partition(".\n")[0]))
    reasons = re.findall(r"^\d+\. .+$", page, re.M)
    numbers = {int(number) for number in re.findall(r"no \((\d+)\)", page)}
    assert numbers == set(range(1, len(reasons) + 1))


def test_a_network_that_does_all() -> None:
    reasons: list[str] = []
    case = dna_case(PlainConvUNet, 2, True)
    assert row(case, "concat", reasons) == [case.name, "2D", "concat", *["yes"] * len(COLUMNS)]
    assert reasons == []


def test_what_cannot_be_names_the_reason_once() -> None:
    reasons: list[str] = []
    assert row(nested_case(1), "concat", reasons)[3:] == ["no (1)"] * len(COLUMNS)
    assert len(reasons) == 1
    assert reasons[0].startswith('ValueError: fusion="concat" needs a decoder that takes more channels')
