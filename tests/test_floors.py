"""Imports go down, floor by floor, or stay in their room: read from the source, never up and never round."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the bottom. A room is a file or a folder of the package; rooms on one floor do not know each other, and
# neither do those on the two sides of a bar.
RELCONS = [
    "_operations checks",
    "functional schedules | parts",
    "relations | networks",
    "anchoring gap | models",
    "losses routing",
    "plot",
    "integrations",
    "__init__",
]
# Slices and volumes do not know each other.
COVIDCT = [
    "__init__ errors",
    "files parallel progress",
    "ct",
    "sets",
    "phantoms",
    "store",
    "networks",
    "run",
    "training",
    "slices volumes",
    "results",
    "arguments",
]


def faults(package: Path, floors: list[str]) -> list[str]:
    """Imports of ``package`` that run up, across or in a circle, and rooms that are on no floor."""
    places = {
        room: (floor, side if "|" in line else None)
        for floor, line in enumerate(floors)
        for side, rooms in enumerate(line.split("|"))
        for room in rooms.split()
    }
    files = {module_of(file, package): file for file in sorted(package.rglob("*.py"))}
    found = [f"{room} is on no floor" for room in sorted({room_of(module) for module in files} - set(places))]
    graph = {module: set(imports(module, file, set(files))) for module, file in files.items()}
    for module, imported in graph.items():
        for other in sorted(imported):
            here, there = room_of(module), room_of(other)
            if here != there and here in places and there in places and not is_below(places[there], places[here]):
                found.append(f"{module} imports {other}, which is not below it")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"a circle: {' - '.join(error.args[1])}")
    return found


def is_below(there: tuple[int, int | None], here: tuple[int, int | None]) -> bool:
    return there[0] < here[0] and (there[1] is None or here[1] is None or there[1] == here[1])


def module_of(file: Path, package: Path) -> str:
    return ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    _, _, inside = module.partition(".")
    return inside.partition(".")[0] or "__init__"


def imports(module: str, file: Path, modules: set[str]) -> Iterator[str]:
    """Modules of the same package that ``file`` names, wherever in it: in functions and for types alone, too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            named = node.module or ""
            for alias in node.names:
                inner = f"{named}.{alias.name}"
                if inner in modules or named in modules:
                    yield inner if inner in modules else named


@pytest.mark.parametrize(
    ("package", "floors"),
    [(ROOT / "relcons", RELCONS), (ROOT / "examples/covid_ct/covidct", COVIDCT)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_imports_go_down(package: Path, floors: list[str]) -> None:
    assert faults(package, floors) == []


FILES = {
    "__init__.py": "from house.upper.room import door\n",
    "cellar.py": "import os\n",
    "stairs/__init__.py": "",
    "stairs/first.py": "from house.cellar import coal\nfrom house.stairs import second\n",
    "stairs/second.py": "import house.cellar\n",
    "upper/room.py": "from house.stairs.first import step\nfrom house.cellar import coal\n",
    "shed/tools.py": "from house.cellar import coal\n",
}


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("cellar.py", "", None),
        ("cellar.py", "import house.stairs.first", "house.cellar imports house.stairs.first, which is not below it"),
        ("cellar.py", "from house import __version__", "house.cellar imports house, which is not below it"),
        ("cellar.py", "def f():\n    from house.upper import room", "house.cellar imports house.upper.room, which"),
        ("shed/tools.py", "from house.stairs.second import x", "house.shed.tools imports house.stairs.second, which"),
        ("upper/room.py", "from house.shed import tools", "house.upper.room imports house.shed.tools, which is not"),
        ("stairs/second.py", "from house.stairs.first import x", "a circle: house.stairs."),
        ("attic.py", "", "attic is on no floor"),
    ],
    ids=["sound", "up", "package", "up-in-a-function", "sideways", "other-side", "circle", "unknown"],
)
def test_the_reader_sees(tmp_path: Path, file: str, line: str, fault: str | None) -> None:
    for name, text in {**FILES, file: FILES.get(file, "") + line}.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    found = faults(tmp_path / "house", ["cellar", "stairs | shed", "upper |", "__init__"])
    if fault is None:
        assert found == []
    else:
        assert any(one.startswith(fault) for one in found), found
