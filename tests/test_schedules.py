"""relcons.schedules: the printed ramp-up, hand-worked values, and what must hold for every schedule."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relcons import ConstantWeight, CosineRampUp, GaussianRampUp, LinearRampUp
from tests import reference

RAMPS = [GaussianRampUp, LinearRampUp, CosineRampUp]
every_ramp = pytest.mark.parametrize("ramp", RAMPS)
every_schedule = pytest.mark.parametrize("schedule", [*(ramp(10, peak=0.3) for ramp in RAMPS), ConstantWeight(0.3)])
peaks = st.floats(-10, 10, allow_nan=False)


@every_ramp
class TestRamps:
    def test_smoke(self, ramp):
        schedule = ramp(total_steps=10)
        assert 0 <= schedule(0) < schedule(5) < schedule(10) == 0.1

    def test_exception(self, ramp):
        for total in (0, -1, 2.5, True, "10", math.nan):
            with pytest.raises(ValueError, match="total_steps must be a positive number of optimiser steps, got"):
                ramp(total)
        for peak in (math.nan, math.inf, "0.1", True, None):
            with pytest.raises(ValueError, match="peak must be a finite number, got"):
                ramp(10, peak=peak)
        with pytest.raises(ValueError, match="step must be 0 or more, got -1"):
            ramp(10)(-1)

    @given(total=st.integers(1, 10**7), peak=peaks, first=st.integers(0, 2 * 10**7), later=st.integers(0, 10**7))
    def test_monotone(self, ramp, total, peak, first, later):
        schedule = ramp(total, peak=peak)
        assert abs(schedule(first)) <= abs(schedule(first + later)) + 1e-15
        assert abs(schedule(first)) <= abs(peak)

    @pytest.mark.parametrize("total", [1, 7, 1000])
    def test_end_stays(self, ramp, total):
        schedule = ramp(total, peak=0.7)
        assert {schedule(step) for step in (total, total + 1, 100 * total)} == {0.7}


class TestGaussianRampUp:
    def test_reference(self):
        for power, rate, peak, total in ((1, 5.0, 0.1, 1000), (2, 5.0, 1.0, 37), (0.5, 2.0, 3.0, 4)):
            schedule = GaussianRampUp(total, peak=peak, power=power, rate=rate)
            for step in (0, 1, total // 3, total - 1, total, total + 9):
                assert schedule(step) == pytest.approx(
                    reference.gaussian_ramp_up(step, total, peak, power, rate), rel=1e-14
                )

    def test_printed_values(self):
        """0.1 exp(-5 (1 - T/Tmax)) as the paper prints it, and Laine and Aila's square."""
        printed, squared = GaussianRampUp(1000), GaussianRampUp(1000, power=2)
        assert [round(printed(step), 6) for step in (0, 500, 1000)] == [0.000674, 0.008208, 0.1]
        assert [round(squared(step), 6) for step in (0, 500, 1000)] == [0.000674, 0.028650, 0.1]

    def test_exception(self):
        for name in ("power", "rate"):
            with pytest.raises(ValueError, match=f"{name} must be a finite number, got nan"):
                GaussianRampUp(10, **{name: math.nan})
        for power in (0, -1.0):
            with pytest.raises(
                ValueError, match=f"power must be positive, got {power}; the paper's is 1, Laine & Aila's 2"
            ):
                GaussianRampUp(10, power=power)


def test_reference_linear():
    assert [LinearRampUp(4, peak=2.0)(step) for step in range(6)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]


def test_reference_cosine():
    expected = [0.0, 2 * math.sin(math.pi / 8) ** 2, 1.0, 2 * math.sin(3 * math.pi / 8) ** 2, 2.0, 2.0]
    assert [CosineRampUp(4, peak=2.0)(step) for step in range(6)] == pytest.approx(expected, abs=1e-15)


class TestConstantWeight:
    def test_smoke(self):
        assert {ConstantWeight(0.3)(step) for step in (0, 1, 10**9)} == {0.3}
        assert ConstantWeight()(0) == 0.1

    def test_exception(self):
        for value in (math.nan, -math.inf, "1", False, None):
            with pytest.raises(ValueError, match="value must be a finite number, got"):
                ConstantWeight(value)
        with pytest.raises(ValueError, match="step must be 0 or more, got -3"):
            ConstantWeight()(-3)


@every_schedule
class TestSchedules:
    def test_cardinality(self, schedule):
        assert type(schedule(3)) is float

    def test_pure(self, schedule):
        forwards = [schedule(step) for step in range(20)]
        assert [schedule(step) for step in reversed(range(20))] == forwards[::-1]

    def test_copies(self, schedule):
        for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
            assert twin == schedule
            assert twin(3) == schedule(3)
        with pytest.raises(AttributeError, match="cannot assign to field"):
            schedule.peak = 1.0

    def test_compile(self, schedule):
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: x * schedule(3), backend="eager", fullgraph=True)
        assert compiled(torch.ones(())).item() == pytest.approx(schedule(3))
