"""The four loops of examples/loops take the same steps."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

LOOPS = Path(__file__).resolve().parents[1] / "examples" / "loops"
NAMES = ["plain", "with_fabric", "with_lightning", "with_monai"]
pytestmark = [
    # Lightning advises on workers and on validation sets, which these small loops go without.
    pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning"),
    # Lightning 2.6 reads a class of torch's that torch 2.14 has announced the end of.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(LOOPS)
    return {name: importlib.import_module(name) for name in NAMES}


def losses(loop: ModuleType, seed: int = 0) -> list[float]:
    on_cpu = {"with_fabric": {"accelerator": "cpu"}, "with_lightning": {"accelerator": "cpu"}}
    return loop.train(seed, **on_cpu.get(loop.__name__, {}))


def test_every_loop_is_tested() -> None:
    assert sorted(path.stem for path in LOOPS.glob("*.py")) == ["discs", *NAMES]


def test_same_losses_from_the_same_seed(loops: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 on one CPU: the same operations in the same order, so 1e-6 is for the libraries' freedom alone.

    Each loop advances the schedule by exactly one step per step of the optimiser.
    """
    made: list[tuple] = []

    def spy(seed: int = 0) -> tuple:
        made.append(built := build(seed))
        return built

    build = sys.modules["discs"].build
    found = {}
    for name, loop in loops.items():
        monkeypatch.setattr(loop, "build", spy)
        found[name] = losses(loop)
    assert len(found["plain"]) == 10
    assert found["plain"][-1] < found["plain"][0] - 0.05
    for name, values in found.items():
        assert values == pytest.approx(found["plain"], rel=1e-6), name
    assert [int(relation.get_extra_state()) for _, _, relation in made] == [10] * len(NAMES)
    assert losses(loops["plain"], seed=1) != pytest.approx(found["plain"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_scripts_print_their_losses(name: str) -> None:
    done = subprocess.run(
        [sys.executable, LOOPS / f"{name}.py"],
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(LOOPS.parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^step +\d+: loss 0\.\d{4}$", done.stdout, re.M)) == 10
