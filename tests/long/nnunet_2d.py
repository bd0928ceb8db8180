"""nnU-Net's command lines in 2D: ``pytest tests/long/nnunet_2d.py -m slow``."""

from pathlib import Path

import pytest

from tests.integrations.nnunet_runs import Workspace, run_whole_path


@pytest.mark.slow
def test_smoke_of_the_command_lines_in_2d(tmp_path: Path) -> None:
    run_whole_path(Workspace(tmp_path), "2d")
