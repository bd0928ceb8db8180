"""Every benchmark runs, prints its table and what it was measured on, and writes both where it is told to."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "relations": ["--shapes", "2x6x8x8", "3x5x4x4x4"],
    "training_step": [
        "--networks",
        "plain",
        "--size",
        "32",
        "32",
        "--batch-size",
        "2",
        "--widths",
        "4",
        "8",
        "8",
        "--starts",
        "1",
    ],
    "forward": ["--size", "32", "32", "--batch-size", "2", "--widths", "4", "8", "8"],
    "import_time": [],
}


def run(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, "--repeats", "1", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def rows(text: str) -> list[dict[str, str]]:
    """Rows of the one markdown table in `text`; of columns with one name the last counts."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    header, rule, *cells = lines
    assert set(rule) == {"---"}
    return [dict(zip(header, line, strict=True)) for line in cells]


def test_relations_compares_speed_memory_and_error(tmp_path: Path) -> None:
    done = run(ROOT / "examples/benchmarks/relations.py", *TINY["relations"], "--output", tmp_path / "table.md")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == done.stdout
    assert "torchdistill" in done.stdout.splitlines()[-2]
    found = rows(done.stdout)
    assert [row["features"] for row in found] == ["2x6x8x8", "3x5x4x4x4"]
    for row in found:
        assert float(row["ratio (quartiles)"].split()[0]) > 0
        assert float(row["error of the value"]) < 1e-5
        assert float(row["error of the gradient"]) < 1e-5
        assert 0 < float(row["relcons' maps per input"]) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("relation", "peer"), [("samples", "SPKD"), ("positions", "convolution")])
def test_relations_of_samples_and_positions(relation: str, peer: str) -> None:
    script = ROOT / "examples/benchmarks/relations.py"
    done = run(script, "--relation", relation, *TINY["relations"])
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [row["features"] for row in found] == ["2x6x8x8", "3x5x4x4x4"]
    for row in found:
        assert float(row[f"{peer}, ms"]) > 0
        assert float(row["error of the value"]) < 1e-5
        assert float(row["error of the gradient"]) < 1e-5


@pytest.mark.slow
def test_relations_in_processes_of_their_own() -> None:
    done = run(ROOT / "examples/benchmarks/relations.py", "--relation", "samples", "--apart", "--shapes", "2x6x8x8")
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [(row["features"], row["pages"]) for row in found] == [("2x6x8x8", "default"), ("2x6x8x8", "kept")]
    assert all(float(row["relcons, ms"]) > 0 and float(row["SPKD, ms"]) > 0 for row in found)


@pytest.mark.slow
def test_training_step_compares_with_floor_and_port() -> None:
    done = run(ROOT / "examples/benchmarks/training_step.py", *TINY["training_step"])
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [(row["network"], row["pages"]) for row in found] == [("plain", "default"), ("plain", "kept")]
    for row in found:
        for name in ("floor, ms", "relcons, ms", "port, ms"):
            assert float(row[name]) > 0
        for name in ("to the floor (quartiles)", "to the port (quartiles)"):
            assert re.fullmatch(r"\d+\.\d{3} \(\d+\.\d{3} to \d+\.\d{3}\)", row[name])


@pytest.mark.slow
def test_forward_compares_with_the_network_and_its_encoder() -> None:
    done = run(ROOT / "examples/benchmarks/forward.py", *TINY["forward"])
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [row["network"] for row in found] == ["plain", "resnet18"]
    for row in found:
        assert float(row["network and encoder, ms"]) > 0
        assert float(row["relcons, ms"]) > 0
        assert re.fullmatch(r"1\.03 \((met|missed)\)", row["target"])


@pytest.mark.slow
def test_import_time_updates_its_section_of_the_readme_and_no_other(tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / "examples/benchmarks", tmp_path / "examples/benchmarks")
    before = (folder / "README.md").read_text(encoding="utf-8")
    done = run(folder / "import_time.py", "--update-readme")
    assert done.returncode == 0, done.stderr
    after = (folder / "README.md").read_text(encoding="utf-8")
    section = re.compile(r"(<!-- import-time: start -->\n).*(<!-- import-time: end -->\n)", re.S)
    assert section.search(after)[0] == f"<!-- import-time: start -->\n\n{done.stdout}\n<!-- import-time: end -->\n"
    assert section.sub("", after) == section.sub("", before)
    (row,) = rows(done.stdout)
    assert row["other modules it loads"] == "none"


@pytest.mark.slow
def test_loader_compares_with_nnunet() -> None:
    pytest.importorskip("nnunetv2", reason="the peer is not installed")
    tiny = ["--cases", 2, "--shape", 24, 64, 64, "--patch", 8, 32, 32, "--batches", 2, "--processes", 0, 1]
    done = run(ROOT / "examples/benchmarks/loader.py", *tiny)
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [row["processes"] for row in found] == ["0", "1"]
    for row in found:
        for name in ("covidct, patches/s", "nnU-Net, patches/s"):
            assert float(row[name]) > 0


@pytest.mark.slow
def test_the_printed_general_term_collapses_on_real_slices_and_the_anchored_one_does_not() -> None:
    data = Path(os.environ.get("RELCONS_DATA", ROOT.parent / "shared/data"))
    if not (data / "covid_semiseg").is_dir():
        pytest.skip(f"real CT data not found at {data}: set RELCONS_DATA to the folder that holds covid_semiseg")
    few = ["--steps", 60, "--norms", "batch", "--inits", "random", "--optimisers", "AdamW"]
    done = run(ROOT / "examples/benchmarks/collapse.py", "--data", data, *few)
    assert done.returncode == 0, done.stderr
    printed, anchored = ({name: float(row[name]) for name in list(row)[4:-1]} for row in rows(done.stdout))
    assert max(printed.values()) < 0.3
    assert anchored["gap"] < 0.75
    assert min(anchored["within target"], anchored["within source"], anchored["to noise"]) > 0.8
