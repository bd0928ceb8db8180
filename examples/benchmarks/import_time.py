"""Time and modules that `import relcons` takes beyond `import torch`."""

import subprocess
import sys
from functools import partial

from results import README, parser, publish, table
from timing import interleaved, milliseconds, ratio, seconds_of

NEW_MODULES = """
import sys, torch
before = set(sys.modules)
import relcons
print(*sorted(set(sys.modules) - before))
"""


def run(code: str) -> str:
    """What a fresh interpreter prints for `code`."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=README.parents[2], capture_output=True, text=True, check=True).stdout


def main() -> None:
    options = parser(__doc__ or "", repeats=9).parse_args()
    calls = {name: partial(seconds_of, partial(run, f"import {name}")) for name in ("torch", "relcons")}
    seconds = interleaved(calls, options.repeats, warmup=1)
    new = [name for name in run(NEW_MODULES).split() if name.partition(".")[0] != "relcons"]
    columns = [
        "`import torch`, ms",
        "`import relcons`, ms",
        "ratio (quartiles)",
        "other modules it loads",
    ]
    row = [*map(milliseconds, seconds.values()), ratio(seconds["relcons"], seconds["torch"]), ", ".join(new) or "none"]
    publish("import-time", table(columns, [row]), [], options)


if __name__ == "__main__":
    main()
