"""The table of docs/compatibility.md: every network of the shared contract tester, each fusion, what works.

    python -m tests.long.compatibility [--only TEXT] [--jobs N] [--update]

takes most of an hour on two cores. Without --update it prints the table.
"""

import argparse
import copy
import datetime
import multiprocessing
import os
import platform
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from relcons import DualEncoderUNet
from tests.models import contract
from tests.models.checking import assert_same, flat, load_state, perturb, scalar, through_safetensors
from tests.models.networks import Case, quiet
from tests.models.test_contract import NETWORKS

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
START, END = "<!-- table: start -->\n", "<!-- table: end -->\n"
FUSIONS = ("project", "concat")
LIBRARIES = ("segmentation_models_pytorch", "dynamic_network_architectures", "monai", "timm")


def build(case: Case, fusion: str) -> DualEncoderUNet:
    model = DualEncoderUNet(case.parts(), general="reset", fusion=fusion)
    quiet(model)
    return model


def train(case: Case, fusion: str) -> str:
    """The whole method's loss reaches every trainable parameter, and nothing was frozen that it reaches."""
    with patch.object(contract, "settings", return_value=({"general": "reset", "fusion": fusion},)):
        contract.whole_method_moves_every_trainable_parameter(case)
    return "yes"


def evaluate(case: Case, fusion: str) -> str:
    """In evaluation mode one tensor as large as the image; with project, the single network's to the last bit."""
    if fusion == "project":
        contract.starts_as_the_single_network(case)
    model, x = build(case, fusion).eval(), case.batch()
    logits = model(x) if model.classification_head is None else model(x)[0]
    assert logits.shape[2:] == x.shape[2:]
    assert logits.isfinite().all()
    return "yes"


def deep_supervision(case: Case, fusion: str) -> str:
    """In training mode a list, finest first, whose first entry is what evaluation gives."""
    model, x = build(case, fusion).train(), case.batch()
    outputs = model(x)
    if not isinstance(outputs, list):
        return "none"
    sizes = [output.shape[2:].numel() for output in outputs]
    assert len(sizes) > 1
    assert sizes == sorted(sizes, reverse=True)
    assert isinstance(model.eval()(x), Tensor)
    return "yes"


def state_dict(case: Case, fusion: str) -> str:
    """A state_dict, and safetensors' save_model, carry the model to another one."""
    model, x = build(case, fusion).eval(), case.batch()
    perturb(model)
    for carry in (load_state, through_safetensors):
        assert_same(flat(carry(build(case, fusion).eval(), model)(x)), flat(model(x)))
    return "yes"


def deepcopy(case: Case, fusion: str) -> str:
    """Copies and pickles are equal and independent."""
    with patch.object(contract, "settings", return_value=({"general": "reset", "fusion": fusion},)):
        contract.copies_are_equal_and_independent(case)
    return "yes"


def compiles(case: Case, fusion: str) -> str:
    """One graph for a training step's forward pass and for inference (aot_eager), the same numbers in float64."""
    model = build(case, fusion).double()
    x, source = case.batch().double(), case.batch().double()
    twin = copy.deepcopy(model)
    for training in (True, False):
        torch.compiler.reset()
        given = {"source": source} if training else {}
        compiled = torch.compile(model.train(training), backend="aot_eager", fullgraph=True)
        found, expected = compiled(x, **given), twin.train(training)(x, **given)
        for one, other in zip(present(found), present(expected), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
        if training:
            scalar(found.logits).backward()
            scalar(expected.logits).backward()
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-5, atol=1e-7)
    return "yes"


def exports(case: Case, fusion: str) -> str:
    """torch.export of inference gives the same numbers."""
    model, x = build(case, fusion).eval(), case.batch()
    reasons = []
    for strict in (False, True):
        try:
            exported = torch.export.export(model, (x,), strict=strict).module()
        except Exception as error:  # what fails, and how, is the neighbour's choice
            reasons.append(first_line(error))
            continue
        for one, other in zip(flat(exported(x)), flat(model(x)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        return "yes" if not strict else "with strict=True"
    raise RuntimeError(reasons[0])


COLUMNS: dict[str, Callable[[Case, str], str]] = {
    "train": train,
    "eval": evaluate,
    "deep supervision": deep_supervision,
    "state_dict": state_dict,
    "deepcopy": deepcopy,
    "compile": compiles,
    "export": exports,
}


HEADER = ("network", "", *FUSIONS, "deep supervision", "but for")


def present(output: Any) -> list[Tensor]:
    return flat(output if isinstance(output, Tensor) else [part for part in output if part is not None])


def first_line(error: BaseException) -> str:
    text = " ".join(str(error).split("\n\n")[0].split())
    text = re.sub(r"/\S*/site-packages/", "", text)
    return f"{type(error).__name__}: {text[:300]}"


def attempts(case: Case, fusion: str) -> list[tuple[str, str]]:
    """What each column found, and the reason where it failed."""
    found = []
    for check in COLUMNS.values():
        torch.manual_seed(0)
        try:
            found.append((check(case, fusion), ""))
        except Exception as error:
            found.append(("no", first_line(error)))
    return found


def row(case: Case, both: list[list[tuple[str, str]]], reasons: list[str]) -> list[str]:
    """A network's line: each fusion, deep supervision, and by name every column that is not a plain yes.

    Args:
        case: the network.
        both: what `attempts` found for each of `FUSIONS`.
        reasons: of failures so far; new ones are added, and lines give their numbers.
    """
    cells, exceptions, supervised = [], {}, "none"
    for fusion, found in zip(FUSIONS, both, strict=True):
        outcomes = {
            column: _numbered(text, reason, reasons) for column, (text, reason) in zip(COLUMNS, found, strict=True)
        }
        if len(set(outcomes.values())) == 1 and "yes" not in outcomes.values():
            cells.append(outcomes["train"])  # it cannot even be built
            continue
        supervised = outcomes.pop("deep supervision")
        others = {f"{column}: {text}" for column, text in outcomes.items() if text != "yes"}
        cells.append("yes" if not others else "but for")
        exceptions[fusion] = others
    common = set.intersection(*exceptions.values()) if exceptions else set()
    named = [
        *sorted(common),
        *(f"{fusion}, {one}" for fusion, own in exceptions.items() for one in sorted(own - common)),
    ]
    return [case.name, f"{len(case.size) - 1}D", *cells, supervised, "; ".join(named)]


def _numbered(text: str, reason: str, reasons: list[str]) -> str:
    if not reason:
        return text
    if reason not in reasons:
        reasons.append(reason)
    return f"{text} ({reasons.index(reason) + 1})"


def attempt(number: int) -> list[list[tuple[str, str]]]:
    """In a process of its own: both fusions of network ``number``."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = [attempts(NETWORKS[number], fusion) for fusion in FUSIONS]
    print(NETWORKS[number].name, *(text for row in found for text, _ in row), flush=True)
    return found


def table(numbers: list[int], jobs: int) -> str:
    reasons: list[str] = []
    lines = [list(HEADER)]
    lines.append(["---"] * len(lines[0]))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for number, both in zip(numbers, pool.map(attempt, numbers), strict=True):
            lines.append(row(NETWORKS[number], both, reasons))
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    listed = "\n".join(f"{number}. {reason.replace('|', ' ')}" for number, reason in enumerate(reasons, start=1))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *LIBRARIES))
    measured = (
        f"{datetime.date.today()}, Python {platform.python_version()}, {versions}: "
        "`python -m tests.long.compatibility --update`"
    )
    return "\n\n".join(part for part in (body, listed, measured) if part) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", help="networks whose name holds this text")
    options.add_argument("--jobs", type=int, default=2, help="processes")
    options.add_argument("--update", action="store_true", help="write the table into docs/compatibility.md")
    arguments = options.parse_args()
    text = table([n for n, case in enumerate(NETWORKS) if arguments.only in case.name], arguments.jobs)
    if not arguments.update:
        print("\n" + text)
        return
    page = PAGE.read_text(encoding="utf-8")
    beside = PAGE.with_name(PAGE.name + ".part")
    beside.write_text(
        page.partition(START)[0] + START + "\n" + text + "\n" + END + page.partition(END)[2], encoding="utf-8"
    )
    os.replace(beside, PAGE)


if __name__ == "__main__":
    main()
