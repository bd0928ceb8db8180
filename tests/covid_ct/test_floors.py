"""Imports of covidct go down or stay in their room, never up and never round: read from the source."""

import ast
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

COVIDCT = Path(__file__).resolve().parents[2] / "examples" / "covid_ct" / "covidct"
# From the bottom; rooms of one floor do not import each other. A room is a folder or a module beside the folders.
FLOORS = (
    ("errors",),
    ("files", "parallel", "progress"),
    ("ct",),
    ("sets",),
    ("phantoms",),
    ("store",),
    ("networks",),
    ("run",),
    ("training",),
    ("slices", "volumes"),
    ("results",),
    ("arguments",),
)


def imports(package: Path) -> dict[str, set[str]]:
    """Module of `package` -> the modules of it that it imports anywhere, by their dotted names without the package."""
    files = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in files.items() if name != "__init__"}
    return {name: {found for found in _imported(path, package) if found != name} for name, path in modules.items()}


def _imported(path: Path, package: Path) -> Iterator[str]:
    """What `path` imports of `package`: of `from room import module` the module, of any other name its module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [package.name, *path.relative_to(package).parent.parts]
            above = inside[: len(inside) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            wanted = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in wanted:
            top, *parts = name.split(".")
            while top == package.name and parts:
                place = package.joinpath(*parts)
                if place.with_suffix(".py").is_file() or place.is_dir():
                    yield ".".join(parts)
                    break
                parts.pop()


def climbs(package: Path, floors: Sequence[Sequence[str]]) -> list[str]:
    """Imports that run up or to another room of the same floor, and rooms that no floor has; none if all is well."""
    level = {room: number for number, floor in enumerate(floors) for room in floor}
    found = []
    for module, wanted in sorted(imports(package).items()):
        room = module.split(".")[0]
        if room not in level:
            found.append(f"{room} is on no floor")
        for other in sorted(wanted):
            to = other.split(".")[0]
            if to != room and level.get(to, len(floors)) >= level.get(room, -1):
                found.append(f"{module} imports {other}")
    return found


def circle(package: Path) -> list[str]:
    """Modules that import each other in a circle; none if there is no circle."""
    try:
        TopologicalSorter(imports(package)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_runs_up() -> None:
    assert climbs(COVIDCT, FLOORS) == []


def test_no_import_runs_round() -> None:
    assert circle(COVIDCT) == []


def test_every_room_of_the_floors_is_there() -> None:
    assert {room for floor in FLOORS for room in floor} == {name.split(".")[0] for name in imports(COVIDCT)}


@pytest.mark.parametrize(
    ("room", "line", "found"),
    [
        ("low", "from house.high import door", ["low.door imports high.door"]),
        ("low", "from ..high.door import knob", ["low.door imports high.door"]),
        ("low", "def later():\n    import house.high.door", ["low.door imports high.door"]),
        ("high", "from house.beside import door", ["high.door imports beside.door"]),
        ("high", "from house import attic", ["high.door imports attic", "attic is on no floor"]),
        ("high", "from house.low.door import knob", []),
        ("high", "from highway import door", []),
    ],
)
def test_what_counts_as_a_climb(tmp_path: Path, room: str, line: str, found: list[str]) -> None:
    house = tmp_path / "house"
    for name in ("low", "high", "beside"):
        (house / name).mkdir(parents=True)
        (house / name / "door.py").write_text("knob = 1\n")
    if "attic" in line:
        (house / "attic.py").touch()
    (house / room / "door.py").write_text(line)
    assert sorted(climbs(house, [("low",), ("high", "beside")])) == sorted(found)


def test_a_circle_is_found(tmp_path: Path) -> None:
    house = tmp_path / "house"
    (house / "low").mkdir(parents=True)
    (house / "low" / "one.py").write_text("from house.low import two")
    (house / "low" / "two.py").write_text("from house.low.one import knob")
    assert set(circle(house)) == {"low.one", "low.two"}
