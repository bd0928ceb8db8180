"""What a user can get wrong with train.py: one message, exit code 2, no traceback, nothing half-made."""

import errno
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train
from covidct.errors import exit_on_input_error
from covidct.run.config import Config
from covidct.run.lock import locked
from covidct.slices import wing
from PIL import Image

from tests.covid_ct.plain_demo import DEMO

LABELS = Path("Dataset/TrainingSet/LungInfection-Train/Doctor-label")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: it holds `data` (6 slices), `source` (one volume) and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


@pytest.fixture
def data(here: Path, write_covid: Callable[..., Path], chest: Callable[..., Any], save_volume: Any) -> Path:
    hu, lesion = chest()
    for name, values in (("ct", hu), ("lesion", lesion)):
        save_volume(here / "source" / "case" / f"{name}.nii.gz", values)
    return write_covid(here / "data", [str(number) for number in range(6)])


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs train.py, which must end with exit code `code`, and gives its last message."""

    def run(*arguments: str, code: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        with pytest.raises(SystemExit) as exit_:
            exit_on_input_error(train.main)
        assert exit_.value.code == code
        captured = capsys.readouterr()
        shown = captured.err if code == 2 else captured.out
        assert "Traceback" not in captured.err
        if code == 2:
            assert shown.startswith("error: ")
            assert shown.count("\n") == 1
        return shown

    return run


UNET = ("--data", "data", "--method", "unet", "--preset", "demo", "--steps", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nowhere", "--method", "unet"), "nowhere does not exist; give the folder"),
        (("--data", "source", "--method", "unet"), "source is not COVID-SemiSeg"),
        (("--data", "data/empty", "--method", "unet"), "empty is not COVID-SemiSeg: .* found nothing"),
        (
            ("--method", "best"),
            "--method 'best' is unknown; take one of unet, pretrain, finetune, multi-encoder, baseline, ",
        ),
        (("--data", "data", "--method", "pretrain"), "method pretrain needs source images"),
        (("--method", "finetune"), "method finetune starts from a trained network: give --init"),
        (("--method", "multi-encoder"), "method multi-encoder starts from a trained network: give --init"),
        (("--method", "finetune", "--init", "data"), "data is not a run folder written by train.py"),
        ((*UNET, "--init", "data"), "--init is for the methods finetune, multi-encoder, baseline, .*, not for unet"),
        (("--method", "ours", "--init", "other"), "--init other is a run of method unet; give one of method pretrain"),
        (("--reduction", "max"), "--reduction must be 'sum', 'row_mean' or 'mean', got 'max'"),
        (("--ramp-power", "3"), r"--ramp-power must be 1 \(as printed\) or 2 \(Laine & Aila 2017\), got 3"),
        (("--peak-target", "-1"), "--peak-target must be 0 or more, got -1"),
        (("--levels", "7"), r"--levels must be from -5 to 4, the encoder's stages; got \(7,\)"),
        (("--fuse-levels", "-1", "4"), r"--fuse-levels names a stage twice: \(-1, 4\)"),
        (("--fusion", "add"), "--fusion must be 'concat' or 'project', got 'add'"),
        (("--route", "both"), "--route must be 'paper' or 'joint', got 'both'"),
        (("--method", "unet", "--width", "two"), "--width must be a factor such as 1.2, or dual, got 'two'"),
        (("--method", "unet", "--width", "-1"), "--width must be more than 0, got -1"),
        (
            ("--method", "unet", "--reduction", "sum"),
            "--reduction changes nothing in method unet; leave it out, or take --method general, target, ours",
        ),
        (("--method", "target", "--peak-general", "1"), "--peak-general changes nothing in method target"),
        (("--method", "general", "--peak-target", "1"), "--peak-target changes nothing in method general"),
        (("--method", "baseline", "--levels", "-1"), "--levels changes nothing in method baseline"),
        (("--method", "unet", "--route", "joint"), "--route changes nothing in method unet"),
        (("--width", "dual"), "--width changes nothing in method ours; .* take --method unet, pretrain, finetune"),
        (("--preset", "fast"), "--preset 'fast' is unknown; take one of demo, cpu, paper"),
        (("--dataset", "mnist"), "--dataset 'mnist' is unknown; take one of phantom, covid_semiseg"),
        (("--dataset", "covid_semiseg"), "--dataset covid_semiseg needs --data"),
        (("--dataset", "phantom", "--data", "data"), "--dataset phantom is generated and takes no --data"),
        (
            ("--dataset", "phantom-volumes", "--data", "data"),
            "--dataset phantom-volumes is generated and takes no --data",
        ),
        (("--dataset", "phantom-volumes", "--store", "data"), "--store is for --dataset covid-ct-20; leave it out"),
        (("--dataset", "covid-ct-20", "--store", "data"), "--store is there and --data is not"),
        (("--data", "data"), "method ours needs source images .* give --source"),
        (("--data", "data", "--source", "nowhere"), "nowhere does not exist"),
        (("--data", "data", "--source", "data/empty"), "empty holds no CT volume"),
        ((*UNET, "--fold", "5"), "--fold must be 0 to 4, got 5"),
        ((*UNET, "--fold", "-1"), "--fold must be 0 to 4, got -1"),
        ((*UNET[:-1], "0"), "--steps must be 1 or more, got 0"),
        ((*UNET, "--seed", "-3"), "--seed must be 0 or more, got -3"),
        ((*UNET, "--precision", "8"), "--precision must be one of 32, bf16, 16, got '8'"),
        ((*UNET, "--precision", "16"), "needs a CUDA device and PyTorch finds none; take --precision 32"),
        (("--data", "data", "--method", "unet", "--preset", "paper"), "needs a CUDA device"),
        ((*UNET, "--output", "data"), "data is neither empty nor a run .* give another --output"),
        ((*UNET, "--output", "data/file"), "data/file is a file, not a folder"),
        (
            (*UNET, "--output", "data/file/run"),
            "data/file/run .* .Not a directory.; a file stands",
        ),
        ((*UNET, "--output", "/proc/relcons"), "/proc/relcons cannot be written"),
        ((*UNET, "--resume"), "runs holds no run named covid_semiseg-unet-fold0-seed0"),
        ((*UNET, "--resume", "--output", "nowhere"), "nowhere is not a folder; correct --output"),
    ],
)
def test_arguments(data: Path, said: Callable[..., str], arguments: tuple[str, ...], message: str) -> None:
    (data / "empty").mkdir()
    (data / "file").touch()
    start(data, "other")
    before = sorted(data.parent.iterdir())
    assert re.search(message, said(*arguments))
    assert sorted(data.parent.iterdir()) == before


def _nan(path: Path) -> Path:
    values = np.zeros((40, 36), dtype=np.float32)
    values[3, 4] = np.nan
    path.unlink()
    Image.fromarray(values).save(path.with_suffix(".tif"))
    return path.with_suffix(".tif")


def _torn(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:60])
    return path


def _resized(path: Path) -> Path:
    Image.fromarray(np.full((40, 30), 255, dtype=np.uint8)).save(path)
    return path


def _removed(path: Path) -> Path:
    path.unlink()
    return path


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("GT/3.png", _removed, "has no mask"),
        ("GT/3.png", _resized, "mask must have the size of its image"),
        ("GT/3.png", _torn, "cannot be read as a picture"),
        ("Imgs/3.png", _torn, "cannot be read as a picture"),
        ("Imgs/3.png", _nan, "NaN"),
    ],
)
def test_bad_data_is_named_before_training(
    data: Path, said: Callable[..., str], name: str, damage: Callable[[Path], Path], message: str
) -> None:
    damaged = damage(data / LABELS / name)
    shown = said(*UNET, "--output", "run")
    assert re.search(message, shown)
    assert str(damaged) in shown
    assert not Path("run").exists()


def test_an_empty_image_folder(data: Path, said: Callable[..., str]) -> None:
    shutil.rmtree(data / LABELS / "Imgs")
    (data / LABELS / "Imgs").mkdir()
    assert "Imgs is empty" in said(*UNET)


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the errors are those of a full disk but for their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_too_little_room_is_said_before_training(data: Path, said: Callable[..., str]) -> None:
    with room(2**20):
        shown = said(*UNET, "--output", "deep/run")
    assert re.search(r"deep/run: the run needs about \d+ MiB and there is no room for it", shown)
    assert not Path("deep/run").exists()


def test_an_unwritable_folder_is_said_before_training(
    data: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the file system's answer is made up.
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert "--output run cannot be written (Permission denied)" in said(*UNET, "--output", "run")
    assert not Path("run").exists()


def start(data: Path, name: str = "run", **changes: Any) -> Config:
    """A run folder as a process leaves it that was killed before its first step."""
    values = DEMO | {
        "steps": 4,
        "batch_size": 2,
        "size": (16, 16),
        "features_per_stage": (4, 6, 8),
        "checkpoint_every": 2,
        "workers": 0,
    }
    places: Any = {"data": str(data), "source": ()}
    values |= {"dataset": "covid_semiseg", "method": "unet", "preset": "demo", "fold": 1, "seed": 5}
    config = Config(**{**places, **values, **changes})
    Path(name).mkdir(parents=True)
    Path(name, "config.json").write_text(config.to_json())
    return config


RESUME = ("--resume", "--output", "run")


def test_a_run_is_not_overwritten(data: Path, said: Callable[..., str]) -> None:
    start(data)
    assert "run already holds a run; go on with it with --resume" in said(*UNET, "--output", "run")


def test_a_bad_output_is_said_before_phantoms_are_made(
    data: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start(data)
    monkeypatch.setattr(wing, "make_phantoms", lambda *_: pytest.fail("phantoms were made"))
    assert "run already holds a run" in said("--output", "run")


def test_a_resumed_run_keeps_its_source(data: Path, said: Callable[..., str]) -> None:
    start(data, method="ours", source=(str(data.parent / "source"),))
    assert re.search(r"source is \('.*/source',\) in the run, \('.*/other',\) was", said(*RESUME, "--source", "other"))


def test_a_resumed_run_keeps_its_settings(data: Path, said: Callable[..., str]) -> None:
    start(data)
    shown = said(*RESUME, "--method", "ours", "--seed", "6", "--steps", "4", "--data", "other")
    assert "method is 'unet' in the run, 'ours' was asked for; seed is 5 in the run, 6 was asked for" in shown
    assert "steps" not in shown
    assert "data is" not in said(*RESUME, "--data", "data", "--seed", "6")


def test_a_resumed_run_keeps_its_choices(data: Path, said: Callable[..., str]) -> None:
    start(data, method="ours", source=(str(data.parent / "source"),), relation_levels=(-1, 0))
    shown = said(*RESUME, "--reduction", "mean", "--peak-general", "0.2", "--levels", "-1", "0")
    assert "relation_reduction is 'sum' in the run, 'mean' was asked for; relation_peak_general is 0.1" in shown
    assert "levels" not in shown
    assert "--width changes nothing in method ours" in said(*RESUME, "--width", "2")


def test_an_input_size_that_does_not_divide(data: Path, said: Callable[..., str]) -> None:
    start(data)
    path = Path("run/config.json")
    path.write_text(re.sub(r'"size": \[\s*16', '"size": [18', path.read_text()))
    assert "size 18 x 16 does not fit a network of 3 stages" in said(*RESUME)


def test_the_newest_run_is_resumed(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for ending in ("", "-2", "-10"):
        start(data, f"runs/covid_semiseg-unet-fold1-seed5{ending}")
    arguments = ("--data", "data", "--method", "unet", "--preset", "demo", "--fold", "1", "--seed", "5")
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, "--resume"])
    train.main()
    done = [path.parent.name for path in Path("runs").glob("*/model.safetensors")]
    assert done == ["covid_semiseg-unet-fold1-seed5-10"]
    train.main()
    assert "This run is finished; nothing is left to do." in capsys.readouterr().out
    # As a call leaves it that was killed while it wrote its page.
    ended = Path("runs/covid_semiseg-unet-fold1-seed5-10")
    (ended / "report.html").unlink()
    with locked(ended):
        train.main()
        assert not (ended / "report.html").exists()
    (ended / ".lock-owner.json").write_text("{}")
    train.main()
    assert (ended / "report.html").is_file()
    assert not (ended / ".lock-owner.json").exists()
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, "--steps", "1"])
    with monkeypatch.context() as patch:
        patch.setattr(train, "run", lambda task, *_: patch.setattr(train, "reached", task, raising=False))
        train.main()
        assert train.reached.run == Path("runs/covid_semiseg-unet-fold1-seed5-3")


def test_a_disk_that_fills_up_later(data: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    start(data)
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "checkpoint" in path.name and Path("run/checkpoint.pt").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    shown = said(*RESUME)
    assert "cannot be written (No space left on device); files written earlier are whole" in shown
    assert torch.load("run/checkpoint.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize(
    ("at", "kept"), [(1, "no checkpoint was written yet"), (3, "the checkpoint of step 2 is kept")]
)
def test_ctrl_c_says_how_to_go_on(
    data: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch, at: int, kept: str
) -> None:
    start(data)

    def advance(progress: Any) -> None:
        progress.step += 1
        if progress.step == at:
            raise KeyboardInterrupt

    monkeypatch.setattr("covidct.training.engine.TrainingProgress.advance", advance)
    shown = said(*RESUME, code=130)
    assert f"Interrupted; {kept}. To go on: python train.py --resume --output run" in shown


def test_the_screen_says_what_is_run(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(data)
    monkeypatch.setattr(sys, "argv", ["train.py", *RESUME, "--tensorboard"])
    train.main()
    shown = capsys.readouterr().out
    for words in (
        "unet: single network (nnUNet)",
        "demo: 16 x 16, batches of 2, 4 steps",
        "covid_semiseg (fold 1 of 5, split seed 0)",
        f"cpu, {torch.get_num_threads()} threads, precision 32",
        "Everything is in run",
    ):
        assert words in shown
    assert list(Path("run/tensorboard").iterdir())


@pytest.mark.parametrize(
    ("arguments", "cuda", "preset", "note"),
    [
        ((), False, "demo", ""),
        (("--data", "data"), False, "cpu", "no CUDA: preset cpu"),
        (("--data", "data"), True, "paper", "CUDA found: preset paper"),
        (("--data", "data", "--preset", "demo"), True, "demo", ""),
    ],
)
def test_the_default_preset(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    cuda: bool,
    preset: str,
    note: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    source = ("--source", "source") if arguments else ()
    tasks: list[Any] = []
    monkeypatch.setattr(train, "run", lambda task, *_: tasks.append(task))
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *source])
    train.main()
    config = tasks[0].config
    assert (config.preset, config.method) == (preset, "ours")
    assert config.source == ((str(data.parent / "source"),) if arguments else ())
    assert (config.dataset, config.fold) == (("covid_semiseg", 0) if arguments else ("phantom", None))
    notes = " ".join(tasks[0].notes)
    assert note in notes
    assert ("CUDA" in notes) == bool(note)
