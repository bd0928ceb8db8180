"""Imports of covidct go down, floor by floor, or stay in their room: read from the source, never up and never round."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

COVIDCT_ROOT = Path(__file__).resolve().parents[2] / "examples" / "covid_ct" / "covidct"
# From the bottom. A room is a file or a folder of the package; rooms on one floor do not know each other, and
# neither do those on the two sides of a bar.
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


def test_imports_go_down() -> None:
    assert faults(COVIDCT_ROOT, COVIDCT) == []
