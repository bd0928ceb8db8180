"""The fast suite on other versions of Python and torch: `python -m tests.long.versions python3.12 python3.13`, by hand.

Every interpreter that is named gets a virtual environment in --folder with the repository's extra `test`, and runs
the fast suite; `--torch 2.10.0` takes that version of torch instead of the newest (and torchvision's that fits it).
An environment that is there already is used as it is. A second call with tests or other arguments of pytest after
`--` runs these alone.
"""

import argparse
import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOURS = 3


def environment(interpreter: str, torch: str | None, folder: Path) -> Path:
    """The interpreter of a virtual environment of those versions, made if absent; CalledProcessError if that fails."""
    path = folder / f"{Path(interpreter).parents[1].name if '/' in interpreter else interpreter}-torch-{torch or 'new'}"
    python = path / "bin" / "python"
    if not (path / "whole").exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", str(path)], check=True)
        pinned = [] if torch is None else [f"torch=={torch}"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *pinned, "-e", f"{ROOT}[test]"], check=True)
        (path / "whole").touch()
    return python


def versions_of(python: Path) -> list[str]:
    """Versions of Python, torch, numpy and MONAI there."""
    code = (
        "import platform; from importlib.metadata import version as v; "
        "print(platform.python_version(), *map(v, ('torch', 'numpy', 'monai')))"
    )
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.split()


def run_suite(python: Path, given: list[str]) -> tuple[str, list[str]]:
    """The last line of pytest, and the tests that failed."""
    values = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *given]
    done = subprocess.run(
        command, cwd=ROOT, env=values, capture_output=True, text=True, check=False, timeout=HOURS * 3600
    )
    lines = done.stdout.splitlines() or done.stderr.splitlines() or ["no output"]
    return lines[-1], [line for line in lines if re.match("FAILED|ERROR", line)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interpreters", nargs="+", help="names or paths of interpreters")
    parser.add_argument("--torch", help="a version of torch")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "relcons" / "versions")
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments = parser.parse_args(sys.argv[1:cut])
    failures = 0
    print("| Python | torch | numpy | MONAI | result | date |\n|---|---|---|---|---|---|")
    for interpreter in arguments.interpreters:
        python = environment(interpreter, arguments.torch, arguments.folder)
        last, failed = run_suite(python, sys.argv[cut + 1 :])
        failures += len(failed)
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        print(f"| {' | '.join(versions_of(python))} | {last.strip('= ')} | {today} |", *failed, sep="\n", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
