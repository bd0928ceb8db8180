"""What the training loop and the scripts ask of images of a kind: `slices` and `volumes` each answer it in `wing`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from torch import nn

from covidct.progress import Stages
from covidct.run.config import Config
from covidct.run.figures import Compared
from covidct.run.requests import Evaluation, Prediction
from covidct.training.batches import NumberedSamples


class RunData(Protocol):
    """What a run trains on and is tested on."""

    @property
    def train(self) -> Sequence[Any]:
        """Images of the target for training."""

    @property
    def test(self) -> Sequence[Any]:
        """Images of the target for testing."""

    @property
    def source(self) -> Sequence[Any]:
        """Images with lesions of other diseases."""

    @property
    def split(self) -> str:
        """What the division is called."""

    def samples(self, stream: str, config: Config, *, augment: bool, world_size: int = 1) -> NumberedSamples:
        """Samples of `stream`: target, source or unlabelled for training, probe or probe-source for the matrices."""

    def facts(self) -> Mapping[str, str]:
        """Further lines for the screen by their labels: what else is known of the data."""

    def keep(self, run: Path) -> None:
        """Write what the folder `run` keeps of the data; InputError if it has kept something else before."""


D = TypeVar("D", bound=RunData)


class Wing(Protocol[D]):
    """Images of one kind, from files to scores: a module with these names. `D` is its own `RunData`."""

    IMAGES: str
    """What they are called, in the plural."""
    DATASETS: tuple[str, ...]
    """Sets to train on."""
    PHANTOM: str
    """That one of them that is generated."""
    PREPARED: tuple[str, ...]
    """Those that are trained on from stores that prepare.py made; without --data, the phantom stands in for them."""
    AXES: int
    """Spatial axes of the images."""
    PRESETS: dict[str, dict[str, Any]]
    """Fields of the config by preset."""

    def make_phantoms(self, config: Config, stages: Stages, *, training: bool = True) -> None:
        """Make the phantoms that a run takes, if it takes any and they are not there; for its test alone or all."""

    def default_fold(self, config: Config) -> str | None:
        """Why fold 0 is taken where none is asked for; None where the published split is."""

    def read(self, config: Config) -> D:
        """The images that `config` names; InputError if some are missing."""

    def check(self, run: Path, config: Config, data: D, console: Console) -> None:
        """Say what is wrong with the data before a training of days; InputError if it cannot be trained or tested."""

    def score(self, run: Path, config: Config, model: nn.Module, data: D, console: Console) -> None:
        """Write metrics.json and metrics.csv of the test images."""

    def draw(self, run: Path, config: Config, model: nn.Module, data: D) -> None:
        """Draw predictions.png of test images that `score` has scored."""

    def show(self, run: Path, config: Config, console: Console) -> int:
        """Print the means of metrics.json; returns how many images could not be scored."""

    def is_whole(self, run: Path) -> bool:
        """Whether what `RunData.keep` wrote is there."""

    def evaluate(self, runs: Mapping[Path, Config], asked: Evaluation, console: Console) -> int:
        """Score trained runs and print a table; returns how many images could not be scored."""

    def compare(self, runs: Mapping[str, Path]) -> list[Compared]:
        """A few test images that all runs have scored, with their predictions by row; of the first run's choosing."""

    def predict(self, asked: Prediction) -> tuple[int, int, str]:
        """Write masks; returns how many inputs failed, how many there are, and what is written for each."""
