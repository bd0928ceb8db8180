"""Half precision of the large networks: `pytest tests/long/half_precision.py`, about ten minutes on two cores."""

import pytest

from tests.models.contract import half_precision
from tests.models.networks import Case
from tests.models.test_contract import LARGE


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_half_precision(case: Case) -> None:
    half_precision(case)
