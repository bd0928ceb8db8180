"""A run folder that a process trains in, and the checkpoint that it leaves."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from covidct.errors import InputError
from covidct.run.checkpoint import CHECKPOINT, check_same_config, load_checkpoint, save_checkpoint
from covidct.run.config import Config
from covidct.run.lock import OWNER, locked

from tests.covid_ct.plain_demo import DEMO

HOLD = """
import sys
from pathlib import Path
from covidct.run.lock import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that trains in `tmp_path`, as far as the lock knows."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        # Its end of the pipe is closed with the block, and it ends.


def test_a_second_process_is_told_by_whom(tmp_path, holder):
    owner = f"process {holder.pid} on {socket.gethostname()}"
    with pytest.raises(InputError, match=f"is trained in by {owner}; wait for it or stop it"), locked(tmp_path):
        pass


def test_a_killed_process_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        assert json.loads((tmp_path / OWNER).read_text())["process"] == os.getpid()
    assert not (tmp_path / OWNER).exists()


def test_a_damaged_owner_is_another_process(tmp_path, holder):
    (tmp_path / OWNER).write_text("{")
    with pytest.raises(InputError, match="is trained in by another process"), locked(tmp_path):
        pass


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_flipped_bit_in_the_checkpoint_is_seen(tmp_path, share):
    save_checkpoint(tmp_path, {"step": 3, "model": {"weight": torch.rand(100, 100)}})
    assert load_checkpoint(tmp_path)["step"] == 3
    content = bytearray((tmp_path / CHECKPOINT).read_bytes())
    content[int(share * len(content))] ^= 16
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    config = Config("phantom", "", (), "ours", "demo", fold=0, seed=0, **DEMO)
    check_same_config(tmp_path, config, {})  # of the first version
    check_same_config(tmp_path, config, {"config": replace(config, data="moved", log_every=1).to_json()})
    other = {"config": replace(config, seed=1).to_json()}
    with pytest.raises(
        InputError, match=r"checkpoint\.pt is of a run with other settings .*: seed is 1 there and 0 here"
    ):
        check_same_config(tmp_path, config, other)
