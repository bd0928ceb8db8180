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
import tarfile
import tomllib
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

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


def quickstart_regions() -> str:
    script = (ROOT / "examples/quickstart.py").read_text(encoding="utf-8")
    return "".join(
        script.split(f"# --8<-- [start:{name}]\n")[1].split(f"# --8<-- [end:{name}]\n")[0]
        for name in ("imports", "loop")
    )


def documented() -> list[str]:
    pages = (ROOT / "docs/api").glob("*.md")
    return [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)]


def test_readme_shows_the_quickstart_before_the_tests() -> None:
    shown = f"```python\n{quickstart_regions()}```\n"
    assert shown in README
    assert README.index(shown) < README.index(COMMANDS[1])


def test_quickstart_is_short() -> None:
    script = (ROOT / "examples/quickstart.py").read_text(encoding="utf-8")
    assert len(script.splitlines()) < 40
    assert len([line for line in quickstart_regions().splitlines() if line]) <= 15


@pytest.mark.slow
def test_quickstart_learns(capsys: pytest.CaptureFixture[str]) -> None:
    left = runpy.run_path(str(ROOT / "examples/quickstart.py"), run_name="__main__")
    number = r"(\d\.\d\d)"
    lines = (
        rf"Dice on the last images: {number}\n"
        rf"Relations differ within discs by {number} of their norm, between the sets by {number}\n"
    )
    printed = re.fullmatch(lines, capsys.readouterr().out)
    assert printed is not None
    dice, within, _ = map(float, printed.groups())
    assert dice > 0.5
    # The general encoder has not collapsed.
    one, _, other = zip(*left["batches"], strict=True)
    fresh = left["smp"].Unet("resnet18", encoder_weights=None, in_channels=1).encoder
    start = relcons.relation_gap(fresh, one, other, relation=relcons.GramRelation(), bootstrap=0)
    assert within >= 0.8 * start.within_a


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


def test_pictures_read_on_a_light_and_on_a_dark_page() -> None:
    """Transparent, or a pair of which the scheme shows one."""
    pictures = sorted((ROOT / "docs/assets").rglob("*.png"))
    assert len(pictures) > 5
    for path in pictures:
        with Image.open(path) as picture:
            transparent = picture.mode == "RGBA" and picture.getpixel((0, 0))[3] == 0  # type: ignore[index]
        pair = {path.with_stem(re.sub("-(light|dark)$", f"-{scheme}", path.stem)) for scheme in ("light", "dark")}
        assert transparent or (len(pair) == 2 and pair <= set(pictures)), path


def test_links_of_the_readme_are_named_where_files_are_meant() -> None:
    """A package index takes them out by their names; an inline link to a file would stay there, dead."""
    assert re.findall(r"\]\((?!https://)[^)]*\)", README) == []


def test_the_readme_of_the_packages_links_to_no_file() -> None:
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["metadata"]["hooks"]
    shown = README
    for substitution in hooks["fancy-pypi-readme"]["substitutions"]:
        shown, made = re.subn(substitution["pattern"], substitution["replacement"], shown)
        assert made > 0, substitution
    assert re.findall(r"\]\[|^\[[^\]]+\]: |!\[|<!--|\]\((?!https://)", shown, re.M) == []
    assert re.findall(r"^## .*", shown, re.M) == [
        line for line in re.findall(r"^## .*", README, re.M) if "looks" not in line
    ]
    assert "with a network of your own;\n" in shown


@pytest.mark.slow
def test_packages_hold_what_they_should(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--directory", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"relcons", f"relcons-{relcons.__version__}.dist-info"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "relcons").rglob("*.py")} | {"relcons/py.typed"}
    assert {name for name in names if name.startswith("relcons/")} == modules
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    top = (
        "CITATION.cff CONTRIBUTING.md LICENSE PKG-INFO README.md .gitignore .ci docs examples mkdocs.yml pyproject.toml"
    )
    assert {name.split("/")[0] for name in held} == {*top.split(), "relcons", "tests"}
    assert {*modules, "tests/test_docs.py", "docs/index.md", "examples/quickstart.py", ".ci/run"} <= held
    assert [name for name in held if "__pycache__" in name or name.startswith(("runs", "site/"))] == []


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
    idea = (tmp_path / "idea/index.html").read_text(encoding="utf-8")
    for picture in ("assets/relations.png", "assets/predictions.png"):
        assert f'src="../{picture}"' in idea
        assert (tmp_path / picture).exists()
    assert "<code" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert requests(tmp_path) == []
    assert (tmp_path / "assets/katex/fonts/KaTeX_Main-Regular.woff2").exists()


def requests(site: Path) -> list[str]:
    """What pages and style sheets make a browser load from another host."""
    url = r"""["']?((?:https?:)?//[^"' >]+)"""
    page = r"<(?:script|img|iframe|source|video|audio|embed|input)\b[^>]*?\bs(?:rc|rcset)=" + url
    loaded = "stylesheet|preload|preconnect|icon|modulepreload|manifest|dns-prefetch"
    linked = rf"""<link\b(?=[^>]*\brel=["']?(?:{loaded}))[^>]*?\bhref={url}"""
    sheet = r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"') ]+)"""
    found = []
    for file in sorted(site.rglob("*")):
        patterns = {".html": (page, linked, sheet), ".css": (sheet,)}.get(file.suffix, ())
        text = file.read_text(encoding="utf-8") if patterns else ""
        found += [f"{file.relative_to(site)}: {url}" for pattern in patterns for url in re.findall(pattern, text)]
    return found


def test_requests_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="https://a.org">fine</a><script defer src="https://b.org/x.js"></script><img src=//c.org/y.png>'
        '<link href="https://d.org/z.css" rel="stylesheet"><link rel="canonical" href="https://e.org">'
        '<img src="../own.png"><style>p { background: url(https://f.org/q) }</style>',
        encoding="utf-8",
    )
    (tmp_path / "b.css").write_text('@import "https://g.org/s.css"; a { src: url(own.woff2) }', encoding="utf-8")
    hosts = [re.sub(r".*//(\w)\.org.*", r"\1", line) for line in requests(tmp_path)]
    assert hosts == ["b", "c", "d", "f", "g"]
