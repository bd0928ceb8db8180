"""Every Python block of README and pages runs; every shell block runs in some test, or says why not."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
# Trainings of seconds that a busy machine makes minutes.
SLOW = {
    "docs/guides/what-can-go-wrong.md",
    "docs/tutorials/monai-3d.md",
    "docs/tutorials/own-data.md",
    "docs/tutorials/source-set.md",
    "docs/tutorials/unlabelled.md",
}
BLOCK = re.compile(r"(?:^<!-- (?P<remark>[^\n]*) -->\n)?^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.M | re.S)
# What the text around the blocks of a page takes for given.
GIVEN = {
    "docs/guides/keeping-and-shipping.md": """
import segmentation_models_pytorch as smp

def build_my_network():
    return smp.Unet("resnet18", encoder_weights=None, in_channels=1)

import tempfile
from relcons import DualEncoderUNet
folder = tempfile.mkdtemp()
model = DualEncoderUNet(build_my_network())
model.save_pretrained(folder)
images = torch.rand(2, 1, 64, 64)
torch.onnx.export = lambda *arguments, **named: None  # tests/models/test_export.py
""",
    "docs/guides/several-processes.md": """
import segmentation_models_pytorch as smp
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from relcons import DualEncoderUNet, GaussianRampUp, GramRelation, RelationLoss

total_steps, device = 10, "cpu"
net = smp.Unet("resnet18", encoder_weights=None, in_channels=1)
x_target = x_source = torch.rand(2, 1, 32, 32)
y_target = x_target.round()
segmentation = smp.losses.DiceLoss("binary")
relation = RelationLoss()
model = DualEncoderUNet(net)
""",
    "docs/guides/loops.md": """
from relcons import RelationLoss
relation = RelationLoss()
optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
""",
}


class Block(NamedTuple):
    remark: str
    info: str
    body: str

    @property
    def is_python(self) -> bool:
        return self.info.startswith(("python", "{.python}"))

    @property
    def is_left_to_others(self) -> bool:
        """A script of the repository that is shown, or a command with a remark."""
        return (
            self.body.startswith("--8<-- ") or re.match(r"run by |not run here: .|command: ", self.remark) is not None
        )


def blocks(page: Path) -> list[Block]:
    return [Block(*(found or "" for found in match.groups())) for match in BLOCK.finditer(page.read_text("utf-8"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def cases() -> list[Any]:
    """Pages with blocks to run, those that take long marked."""
    found = [page for page in PAGES if runs(page)]
    return [pytest.param(page, marks=[pytest.mark.slow] if name_of(page) in SLOW else []) for page in found]


def runs(page: Path) -> list[Block]:
    """Python blocks that are run here; README's is the quickstart, which test_docs.py runs as a script."""
    return [block for block in blocks(page) if block.is_python and not block.is_left_to_others and page != PAGES[0]]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_say_who_runs_them(page: Path) -> None:
    for block in blocks(page):
        for file in re.findall(r"tests/[\w/]+\.py", block.remark):
            assert (ROOT / file).exists(), file
        assert block.is_python or block.info != "bash" or block.is_left_to_others, block.body
        assert block.info.partition(" ")[0] in ("python", "{.python}", "bash", "text", "json", ""), block.info


def test_blocks_are_found() -> None:
    assert sum(len(runs(page)) for page in PAGES) > 20
    assert {name_of(page) for page in PAGES} >= SLOW
    text = "a\n\n<!-- run by x -->\n```bash\ntrue\n```\n\n```python\n1\n```\n"
    found = [Block(*(group or "" for group in match.groups())) for match in BLOCK.finditer(text)]
    assert found == [Block("run by x", "bash", "true\n"), Block("", "python", "1\n")]


@pytest.mark.parametrize("page", cases(), ids=name_of)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.onnx, "export", torch.onnx.export)
    in_several = page.stem == "several-processes"
    if in_several:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        spaces: dict[str, dict[str, Any]] = {}
        for number, block in enumerate(runs(page)):  # as the site has it: blocks of no session stand alone
            session = "".join(re.findall(r'session="(\w+)"', block.info)) or str(number)
            if session not in spaces:
                # As of a module: dataclasses look their module up.
                spaces[session] = {"__name__": "__main__", "torch": torch}
                exec(GIVEN.get(name_of(page), ""), spaces[session])
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.body, f"{name_of(page)}: {block.body[:40]!r}", "exec"), spaces[session])
    finally:
        if in_several:
            torch.distributed.destroy_process_group()
