"""What README, documentation and metadata promise holds in the code."""

import doctest
import importlib
import io
import os
import pkgutil
import re
import runpy
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path

import pytest
import torch

import relcons

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What a user types; issue trackers, papers and machines refer to these very lines.
COMMANDS = [
    'pip install -e ".[covid]" && python examples/covid_ct/train.py',
    'pip install -e ".[test]" && pytest',
    "pytest -m slow",
]
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(relcons.__path__, "relcons.") if "._" not in module.name
)


def quickstart_region() -> str:
    script = (ROOT / "examples/quickstart.py").read_text(encoding="utf-8")
    return script.split("# --8<-- [start:loop]\n")[1].split("# --8<-- [end:loop]\n")[0]


def documented() -> list[str]:
    pages = (ROOT / "docs/api").glob("*.md")
    return [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)]


def test_readme_shows_the_quickstart_region() -> None:
    assert f"```python\n{quickstart_region()}```\n" in README


def test_quickstart_is_short() -> None:
    script = (ROOT / "examples/quickstart.py").read_text(encoding="utf-8")
    assert len(script.splitlines()) < 40
    assert len([line for line in quickstart_region().splitlines() if line]) <= 15


@pytest.mark.slow
def test_quickstart_learns(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples/quickstart.py"), run_name="__main__")
    number = r"(\d\.\d\d)"
    line = rf"Relations differ within discs by {number} (at the start|now), to noise by {number}\n"
    printed = re.fullmatch(rf"Dice on new images: {number}\n{line}{line}", capsys.readouterr().out)
    assert printed is not None
    dice, *_ = printed.groups()
    assert float(dice) > 0.5
    (before, _, noise_before), (now, _, noise_now) = printed.groups()[1:4], printed.groups()[4:]
    # The general encoder has not collapsed.
    assert float(now) >= 0.8 * float(before)
    assert float(noise_now) >= 0.8 * float(noise_before)


def test_ci_runs_the_commands_of_the_readme() -> None:
    listed = subprocess.run([ROOT / ".ci/run", "--list"], capture_output=True, text=True, check=True)
    assert listed.stdout.splitlines() == COMMANDS
    for command in COMMANDS:
        assert f"```bash\n{command}\n```" in README


def test_ci_refuses_a_readme_without_a_command(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_bytes((ROOT / ".ci/run").read_bytes())
    (tmp_path / "README.md").write_text(README.replace("<!-- command: test -->", ""), encoding="utf-8")
    listed = subprocess.run(["bash", tmp_path / ".ci/run", "--list"], capture_output=True, text=True, check=False)
    assert listed.returncode != 0
    assert "command: test" in listed.stderr


def test_extras_of_the_readme_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = set(re.findall(r'pip install -e "\.\[(\w+)\]"', README))
    assert {"covid", "test"} <= named <= set(extras)


def test_paths_of_the_readme_exist() -> None:
    paths = re.findall(r"^\[[\w-]+\]: (\S+)$", README, re.M)
    assert len(paths) >= 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_site_gives_every_target_of_the_readme_its_own() -> None:
    names = set(re.findall(r"^\[([\w-]+)\]: ", README, re.M))
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\[([\w-]+)\]: ", index, re.M)) == names
    # Inline links to files would work in one of the two places only.
    assert re.findall(r"\]\((?!https://)[^)]*\)", README) == []


def test_public_names_are_sorted_and_importable() -> None:
    assert relcons.__all__ == sorted(relcons.__all__)
    assert [name for name in relcons.__all__ if not hasattr(relcons, name)] == []


def test_every_public_name_is_documented() -> None:
    pages = documented()
    missing = []
    for name in relcons.__all__:
        member = getattr(relcons, name)
        home = getattr(member, "__module__", None) or member.__name__
        if home not in pages or (home != f"relcons.{name}" and name not in importlib.import_module(home).__all__):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("name", ["relcons", *MODULES])
def test_docstring_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    public = {public: getattr(relcons, public) for public in relcons.__all__}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = io.StringIO()
    for case in doctest.DocTestFinder().find(module, globs={"torch": torch, **public, **vars(module)}):
        runner.run(case, out=report.write)
    assert runner.summarize(verbose=False).failed == 0, report.getvalue()


def test_there_are_docstring_examples() -> None:
    found = [
        case
        for name in MODULES
        for case in doctest.DocTestFinder().find(importlib.import_module(name))
        if case.examples
    ]
    assert len(found) >= 12


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "docs/changelog.md").read_text(encoding="utf-8")
    assert relcons.__version__ == project["version"]
    assert f"\nversion: {relcons.__version__}\n" in citation
    newest = re.search(r"^## (\S+)", changelog, re.M)
    assert newest is not None
    assert newest[1] == relcons.__version__


@pytest.mark.slow
def test_site_builds_strictly_with_every_public_name(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    inventory = zlib.decompress((tmp_path / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    listed = {line.split()[0] for line in inventory.splitlines()}
    assert [name for name in relcons.__all__ if name != "functional" and f"relcons.{name}" not in listed] == []
    # Highlighted prompts: an example that is not recognised as one turns into a quotation.
    assert 'class="gp"' in (tmp_path / "api/losses/index.html").read_text(encoding="utf-8")
    for page, shown in (("tutorials/first-model", "DiceLoss"), ("guides/loops", "prepare_batch")):
        assert shown in (tmp_path / page / "index.html").read_text(encoding="utf-8"), page
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    for picture in ("assets/relations.png", "assets/predictions.png"):
        assert f'src="{picture}"' in index
        assert (tmp_path / picture).exists()
