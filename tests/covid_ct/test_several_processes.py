"""train.py in two processes, started by torchrun, by `fabric run` and as two nodes, against one process."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import covidct.training.objectives
import pytest
import torch
from covidct.results import is_finished
from covidct.run.building import build_model
from covidct.run.config import Config, read_config
from covidct.sets.splits import volume_fold
from covidct.slices.data import read_run_data
from covidct.training.engine import Trainer
from covidct.training.segmentation_loss import segmentation_loss
from lightning_fabric import Fabric
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.covid_ct.plain_demo import DEMO
from tests.covid_ct.store_cases import begin_run, write_target

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PORT = "{port}"
NODES = ["torchrun", "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", PORT]
# What one machine types, or each of several; here all of them are this one.
COMMANDS = {
    "torchrun": [["torchrun", "--standalone", "--nproc-per-node", "2"]],
    "fabric": [["fabric", "run", "--accelerator", "cpu", "--devices", "2", "--main-port", PORT]],
    "nodes": [[*NODES, "--node-rank", "0"], [*NODES, "--node-rank", "1"]],
}


@pytest.fixture
def start(
    tmp_path: Path, write_covid: Callable[..., Path], chest: Callable[..., Any], save_volume: Callable[..., Path]
) -> Callable[[str], Path]:
    """A function that starts train.py in one of these ways on a small data set, and gives the run folder."""
    data = write_covid(tmp_path / "data", [str(number) for number in range(6)])
    for name, values in zip(("ct", "lesion"), chest(), strict=True):
        save_volume(tmp_path / "source" / "case" / f"{name}.nii.gz", values)

    # Of the paper's optimiser: AdamW would make as large a step of a gradient that is rounding alone.
    of = Config(
        **{"dataset": "covid_semiseg", "data": str(data), "source": (str(tmp_path / "source"),), "method": "ours"},
        **{"preset": "demo", "fold": 0, "seed": 0} | DEMO | {"steps": 3},
    )

    def run(way: str) -> Path:
        port = str(free_port())
        (tmp_path / way).mkdir()
        (tmp_path / way / "config.json").write_text(of.to_json())
        script = [ROOT / "examples/covid_ct/train.py"]
        arguments = ["--resume", "--output", tmp_path / way]
        started = [
            subprocess.Popen(
                [
                    scripts() / launcher,
                    *(port if option == PORT else option for option in options),
                    *script,
                    *arguments,
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(tmp_path),
            )
            for launcher, *options in COMMANDS[way]
        ]
        done = [process.communicate(timeout=500) for process in started]
        assert [process.returncode for process in started] == [0] * len(started), done
        assert "2 processes" in done[0][0]
        return tmp_path / way

    return run


def scripts() -> Path:
    return Path(sysconfig.get_path("scripts"))


def environment(folder: Path) -> dict[str, str]:
    paths = (str(ROOT), str(ROOT / "examples/covid_ct"))
    return os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def lines(run: Path) -> list[dict[str, Any]]:
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"} for line in text.splitlines()
    ]


def each_process_by_itself(outputs: Any, masks: Tensor) -> Tensor:
    """The mean over two processes of the segmentation loss, whose Dice is over a process's whole batch."""
    halves = [[output.chunk(2)[half] for output in outputs] for half in range(2)]
    return torch.stack([segmentation_loss(*pair) for pair in zip(halves, masks.chunk(2), strict=True)]).mean()


def joined(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The model of one process that takes both batches in every step."""
    monkeypatch.setattr(covidct.training.objectives, "segmentation_loss", each_process_by_itself)
    config = replace(config, batch_size=2 * config.batch_size, workers=0)
    folder.mkdir()
    model = build_model(config)
    trainer = Trainer(Fabric(accelerator="cpu", devices=1), config, folder, model, read_run_data(config))
    trainer.train(Console(file=io.StringIO()))
    return model


def test_two_processes(start: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands give the same run, and it is that of one process: relations over the joined batch."""
    pytest.importorskip("click", reason="the command line of Lightning Fabric")
    by_torchrun, *others = (start(way) for way in COMMANDS)
    for run in others:
        assert lines(run) == lines(by_torchrun)
        assert (run / "model.safetensors").read_bytes() == (by_torchrun / "model.safetensors").read_bytes()
    config = read_config(by_torchrun / "config.json")
    found = load_file(by_torchrun / "model.safetensors")
    model = joined(config, tmp_path / "joined", monkeypatch)
    first = dict(build_model(config).named_parameters())
    for part in ("general_encoders", "target_encoder", "decoder"):
        names = [name for name, _ in model.named_parameters() if name.startswith(part)]
        moved = torch.cat([(found[name] - first[name]).flatten() for name in names])
        meant = torch.cat([(model.get_parameter(name) - first[name]).flatten() for name in names])
        # Three steps in float32; a gradient of another batch is off by a tenth and more.
        assert (moved - meant).norm() < 5e-3 * meant.norm(), (part, (moved - meant).norm() / meant.norm())


def test_two_processes_on_volumes(tmp_path: Path) -> None:
    """They train, and the first of them evaluates: what it finds is what one process finds of the same weights."""
    config = begin_run(write_target(tmp_path), "run")
    command = [scripts() / "torchrun", "--standalone", "--nproc-per-node", "2", ROOT / "examples/covid_ct/train.py"]
    done = subprocess.run(
        [*command, "--resume", "--output", tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(tmp_path),
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert done.stdout.count("16 test volumes") == 1
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]
    assert is_finished(tmp_path / "run", config)
    first = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [item["name"] for item in first["volumes"]] == list(volume_fold("covid-ct-20", 2)[1])
    shutil.rmtree(tmp_path / "run" / "evaluation")
    subprocess.run(
        [sys.executable, ROOT / "examples/covid_ct/evaluate.py", tmp_path / "run"],
        check=True,
        env=environment(tmp_path),
        capture_output=True,
    )
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == first
