"""All of the contract for the large networks: `pytest tests/long/large_networks.py`."""

from collections.abc import Callable

import pytest

from tests.models.contract import CHECKS
from tests.models.networks import Case
from tests.models.test_contract import LARGE


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_contract(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
