"""prepare.py says what it needs, does what is missing, keeps what is whole, and survives being killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import prepare as script
import pytest
import SimpleITK as sitk
from covidct.ct.volume import CaseFacts, VolumeCase
from covidct.errors import InputError
from covidct.parallel import in_processes
from covidct.store import preparation
from covidct.store.preparation import (
    Needs,
    check_disk,
    compare_inputs,
    fitting_workers,
    input_states,
    median_spacing,
    needs,
    prepare,
    survey,
)
from covidct.store.store import StoreSettings, begin_store, open_store, read_case

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples/covid_ct/prepare.py"
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(SCRIPT.parent)]), "OMP_NUM_THREADS": "1"}


def write_set(root: Path, count: int, size: int = 40) -> Path:
    """`count` small scans in the layout of COVID-19-CT-Seg 20, of different spacing along z."""
    for number in range(1, count + 1):
        rng = np.random.default_rng(number)
        shape = (size, size - 4, 8 + number)
        hu = np.full(shape, -1000, dtype=np.int16)
        hu[4:-4, 4:-4] = rng.integers(-200, 300, (size - 8, size - 12, 8 + number))
        lesion = np.zeros(shape, dtype=np.uint8)
        lesion[10:20, 12:18, 3 : 5 + number % 3] = 1
        affine = np.diag([-2.0, -2.0, 4.0 + number, 1.0])
        for folder, values in (("COVID-19-CT-Seg_20cases", hu), ("Infection_Mask", lesion)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, affine), root / folder / f"coronacases_{number:03d}.nii.gz")
    return root


def case(root: Path, number: int) -> VolumeCase:
    name = f"coronacases_{number:03d}"
    image, mask = (root / folder / f"{name}.nii.gz" for folder in ("COVID-19-CT-Seg_20cases", "Infection_Mask"))
    return VolumeCase(name, image, mask, None, None, (), "hu", name)


def run(data: Path, output: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, data, "--dataset", "covid-ct-20", "--output", output, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def contents(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_bad_case_is_named_and_the_others_are_done(tmp_path):
    data, output = write_set(tmp_path / "data", 3), tmp_path / "store"
    broken = case(data, 2).image
    broken.write_bytes(broken.read_bytes()[:2000])
    done = run(data, output, "--workers", 2)
    assert done.returncode == 2
    assert f"2 cases in {output} (2 made)" in done.stdout
    assert "1 case not done: coronacases_002" in done.stdout
    assert f"error: coronacases_002: {broken} cannot be read" in done.stderr
    # The median of what can be read; said before the first case is done.
    head, _, rest = done.stderr.partition("1/2 coronacases_00")
    assert "spacing 6 x 2 x 2 mm (z y x)" in head
    assert "disk: about" in head
    assert "memory: at most" in head
    assert "2 workers of" in head
    assert "made" in rest
    assert [each.name for each in open_store(output).cases] == ["coronacases_001", "coronacases_003"]


@pytest.mark.slow
def test_what_is_missing_is_added(tmp_path):
    """At the spacing that the store was begun with, whatever the median is now."""
    data, output = write_set(tmp_path / "data", 3), tmp_path / "store"
    last = case(data, 3).image
    last.rename(tmp_path / "away.nii.gz")
    assert "spacing 5.5 x 2 x 2 mm" in run(data, output, "--workers", 1).stderr
    (tmp_path / "away.nii.gz").rename(last)
    again = run(data, output)
    assert again.returncode == 0, again.stderr
    assert f"3 cases in {output} (1 made, 2 kept)" in again.stdout
    assert "spacing 5.5 x 2 x 2 mm" in again.stderr


def test_cases_of_an_earlier_run_are_named(tmp_path, monkeypatch, capsys):
    """One that is gone from the data, and one whose files can no longer be read; training would take both."""
    data, output = write_set(tmp_path / "data", 3), tmp_path / "store"
    cases = [case(data, number) for number in (1, 2, 3)]
    monkeypatch.setattr(preparation, "in_processes", lambda call, tasks, _: ((t[0].name, call(*t)) for t in tasks))
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(data), "--dataset", "covid-ct-20", "--output", str(output)])
    script.main()
    assert "not of this run" not in capsys.readouterr().err
    cases[0].image.unlink()
    cases[2].image.write_bytes(bytes(9))
    with pytest.raises(SystemExit):
        script.main()
    captured = capsys.readouterr()
    assert f"1 case in {output} (1 kept)" in captured.out
    assert (
        f"note: {output} also holds 2 cases that are not of this run (gone from DATA, or not done): "
        "coronacases_001, coronacases_003; training takes them, too: delete their folders there to leave them out"
    ) in captured.err


def test_other_settings(tmp_path):
    data, output = write_set(tmp_path / "data", 2), tmp_path / "store"
    begin_store(output, StoreSettings("covid-ct-20", (6.0, 2.0, 2.0)))
    done = run(data, output, "--spacing", 3, 1, 1)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {output} was begun with spacing (6.0, 2.0, 2.0), not (3.0, 1.0, 1.0)" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("line", ["spacing", "1/6", "3/6", "6/6"])
def test_killed_and_run_again_gives_the_same_bytes(tmp_path, line):
    data = write_set(tmp_path / "data", 6, size=96)
    whole, output = tmp_path / "whole", tmp_path / "store"
    assert run(data, whole, "--workers", 2).returncode == 0
    command = [sys.executable, SCRIPT, data, "--dataset", "covid-ct-20", "--output", output, "--workers", "2"]
    killed = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=ENVIRONMENT)
    assert killed.stderr is not None
    for each in killed.stderr:
        if each.startswith(line):
            os.kill(killed.pid, signal.SIGKILL)
            break
    # Workers hold the pipe, too: it ends when they have.
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    for folder in output.glob("[!.]*/"):
        assert (folder / "case.json").is_file()
    assert run(data, output, "--workers", 2).returncode == 0
    assert contents(output) == contents(whole)


MEASURE = """
import re, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from covidct.store import preparation
from covidct.store.store import StoreSettings, begin_store
from covidct.ct.volume import CaseFacts

SHAPE = (100, 320, 320)

def peak():
    # Of this program alone; the peak that getrusage knows is the parent's, too.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def load_volume(case):
    image = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    image *= 255
    mask = np.zeros(SHAPE, dtype=bool)
    mask[20:40, 50:150, 50:150] = True
    return SimpleNamespace(image=image, mask=mask, spacing=(1.5, 1.0, 1.0))

preparation.load_volume = load_volume
target = tuple(map(float, sys.argv[2:]))
begin_store(Path(sys.argv[1]), StoreSettings("x", target))
before = peak()
case = SimpleNamespace(name="a", patient="a")
facts = CaseFacts("a", SHAPE, (1.5, 1.0, 1.0), (0, 1), 1.0, True)
preparation._make(case, facts, Path(sys.argv[1]), target, {})
print(before, peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell a process' peak memory")
@pytest.mark.parametrize("target", [(1.25, 0.8, 0.8), (1.0, 1.0, 1.0), (6.0, 0.9, 0.9)])
def test_memory_of_a_worker(tmp_path, target):
    """Below four times the larger of volume and result as float32."""
    command = [sys.executable, "-c", MEASURE, tmp_path / "store", *map(str, target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    before, peak = (int(kilobytes) * 1024 for kilobytes in done.stdout.split())
    (stored,) = open_store(tmp_path / "store").cases
    largest = 4 * max(100 * 320 * 320, int(np.prod(stored.shape)))
    assert peak - before < 4 * largest
    assert before < preparation.INTERPRETER


def test_damaged_cases_are_repaired_and_others_kept(tmp_path):
    cases = [case(write_set(tmp_path / "data", 2), number) for number in (1, 2)]
    root = tmp_path / "store"
    begin_store(root, StoreSettings("covid-ct-20", (6.0, 2.0, 2.0)))
    facts, failures = survey(cases, root, 1)
    assert failures == {}

    def states():
        return {each.name: each.state for each in prepare(cases, facts, root, (6.0, 2.0, 2.0), 1)}

    assert states() == {"coronacases_001": "made", "coronacases_002": "made"}
    before = contents(root)
    mask = root / "coronacases_002" / "mask.b2nd"
    mask.write_bytes(mask.read_bytes()[:-1] + b"x")
    assert states() == {"coronacases_001": "kept", "coronacases_002": "repaired"}
    assert contents(root) == before
    # Known from the store, without the files being read again.
    state, content = cases[0].image.stat(), cases[0].image.read_bytes()
    cases[0].image.write_bytes(bytes(state.st_size))
    os.utime(cases[0].image, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert survey(cases, root, 1) == (facts, {})
    # At another time the same content is the same file.
    cases[0].image.write_bytes(content)
    os.utime(cases[0].image, ns=(0, 0))
    assert compare_inputs(read_case(root / "coronacases_001"), cases[0]) == "same"
    # Files of another size are others.
    cases[1].mask.write_bytes(bytes(5))
    outcome = preparation._prepare(cases[1], facts["coronacases_002"], root, (6.0, 2.0, 2.0))
    assert outcome.state == "failed"
    assert "coronacases_002 was made from other files than those of" in outcome.message
    assert contents(root) == before


def test_a_changed_file_of_the_same_size_is_prepared_anew(tmp_path):
    one = case(write_set(tmp_path / "data", 1), 1)
    given = nib.load(one.mask)
    lesion = np.asarray(given.dataobj)
    # Unpacked, so that another content has the same size.
    one = replace(one, mask=one.mask.with_suffix(""))
    nib.save(nib.Nifti1Image(lesion, given.affine), one.mask)
    root, spacing = tmp_path / "store", (6.0, 2.0, 2.0)
    begin_store(root, StoreSettings("covid-ct-20", spacing))
    assert preparation._prepare(one, preparation._scan(one, root), root, spacing).state == "made"
    before = read_case(root / one.name).lesion_voxels
    lesion[15:] = 0
    nib.save(nib.Nifti1Image(lesion, given.affine), one.mask)
    os.utime(one.mask, ns=(0, 0))
    facts = preparation._scan(one, root)
    assert preparation._prepare(one, facts, root, spacing).state == "made"
    assert read_case(root / one.name).lesion_voxels < before
    assert read_case(root / one.name).facts["lesion_ml"] == facts.lesion_ml
    assert preparation._prepare(one, facts, root, spacing).state == "kept"


def test_faults_of_a_case_have_messages(tmp_path, monkeypatch):
    one = case(write_set(tmp_path / "data", 1), 1)
    root = tmp_path / "store"
    begin_store(root, StoreSettings("x", (6.0, 2.0, 2.0)))
    facts = preparation._scan(one, root)

    def message(error: Exception) -> str:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(preparation, "write_case", fail)
        outcome = preparation._prepare(one, facts, root, (6.0, 2.0, 2.0))
        assert outcome.state == "failed"
        return outcome.message

    assert message(MemoryError()) == f"{one.image}: not enough memory; run again with fewer --workers"
    full = message(OSError(28, "No space left on device"))
    assert full == f"{root / one.name} cannot be written (No space left on device); free space there"


def _die(task: object) -> None:
    os._exit(9)


def test_a_killed_worker_is_reported():
    with pytest.raises(InputError, match=r"^a worker process was killed, most likely because memory ran out; run the "):
        list(in_processes(_die, [(SimpleNamespace(name="a"),)], 1))


def test_input_states(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(bytes(3))
    (tmp_path / "m.nii").write_bytes(bytes(4))
    one = VolumeCase("a", folder, tmp_path / "m.nii", None, None, (), "hu", "a")
    for path in (folder / "1.dcm", tmp_path / "m.nii"):
        os.utime(path, ns=(0, 5))
    digests = [hashlib.sha256(bytes(count)).hexdigest() for count in (3, 4)]
    assert input_states(one) == {"series/1.dcm": [3, 5, digests[0]], f"{tmp_path.name}/m.nii": [4, 5, digests[1]]}


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_voxels_beside_their_header_are_a_part_of_the_volume(tmp_path, suffix):
    hu = np.random.default_rng(0).integers(-1000, 300, (12, 24, 20)).astype(np.int16)
    for name, values in (("ct", hu), ("lesion", (hu > 200).astype(np.uint8))):
        sitk.WriteImage(sitk.GetImageFromArray(values), tmp_path / f"{name}{suffix}")
    one = VolumeCase("a", tmp_path / f"ct{suffix}", tmp_path / f"lesion{suffix}", None, None, (), "hu", "a")
    root, spacing = tmp_path / "store", (2.0, 2.0, 2.0)
    begin_store(root, StoreSettings("folder", spacing))
    found = preparation._scan(one, root)
    assert preparation._prepare(one, found, root, spacing).state == "made"
    assert preparation._prepare(one, found, root, spacing).state == "kept"
    # A store of the first version knows of the headers alone.
    path = root / "a" / "case.json"
    content = json.loads(path.read_text())
    assert sorted(name.split("/")[1] for name in content["inputs"]) == sorted(
        name for stem in ("ct", "lesion") for name in (f"{stem}{suffix}", f"{stem}.raw")
    )
    content["inputs"] = {name: state for name, state in content["inputs"].items() if not name.endswith(".raw")}
    path.write_text(json.dumps(content))
    assert preparation._prepare(one, found, root, spacing).state == "made"
    (tmp_path / "ct.raw").write_bytes((hu // 2).tobytes())
    os.utime(tmp_path / "ct.raw", ns=(0, 0))
    assert compare_inputs(read_case(root / "a"), one) == "changed"
    assert preparation._prepare(one, found, root, spacing).state == "made"


def bad_folder(root: Path, good: Path) -> Path:
    """Cases in a folder each, of which `good` alone can be used."""
    for name in ("good", "twice", "loop", "pipe", "bare"):
        (root / name).mkdir(parents=True)
        for part, source in (("ct", case(good, 1).image), ("lesion", case(good, 1).mask)):
            (root / name / f"{part}.nii.gz").write_bytes(source.read_bytes())
    (root / "twice" / "ct.nii").write_bytes(b"")
    for name in ("loop", "pipe"):
        (root / name / "lesion.nii.gz").unlink()
    (root / "loop" / "lesion.nii.gz").symlink_to("lesion.nii.gz")
    os.mkfifo(root / "pipe" / "lesion.nii.gz")
    (root / "bare" / "lesion.nii.gz").unlink()
    return root


@pytest.fixture
def alone(monkeypatch):
    """A function that runs prepare.py in this process and gives its exit code."""
    monkeypatch.setattr(preparation, "in_processes", lambda call, tasks, _: ((t[0].name, call(*t)) for t in tasks))

    def prepare_here(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
        try:
            script.main()
        except SystemExit as stop:
            return stop.code
        return 0

    return prepare_here


def test_a_batch_of_cases_goes_on(tmp_path, alone, capsys):
    data = bad_folder(tmp_path / "data", write_set(tmp_path / "set", 1))
    assert alone(data, "--output", tmp_path / "store") == 2
    captured = capsys.readouterr()
    # What was left out of the set stands below its table, and is wrapped with it.
    text = "".join(captured.err.split())
    assert "twice/ct.nii.gzandct.niiarethesamevolumetwice" in text
    assert "bare:nofileisthelesionmask" in text
    assert "loop/lesion.nii.gz is a link that leads back to itself" in captured.err
    assert "pipe/lesion.nii.gz is a named pipe" in captured.err
    assert "1 case in " in captured.out
    assert "2 cases not done: loop, pipe" in captured.out
    assert [each.name for each in open_store(tmp_path / "store").cases] == ["good"]


@pytest.mark.parametrize("text", ["{}", "null", "[" * 100_000, '{"name": "good"'])
def test_a_damaged_record_of_a_case_is_told_and_the_others_are_done(tmp_path, alone, text, capsys):
    data, root = write_set(tmp_path / "data", 2), tmp_path / "store"
    arguments = (data, "--dataset", "covid-ct-20", "--output", root)
    assert alone(*arguments) == 0
    (root / "coronacases_001" / "case.json").write_text(text)
    capsys.readouterr()
    assert alone(*arguments) == 2
    captured = capsys.readouterr()
    assert f"error: coronacases_001: {root / 'coronacases_001' / 'case.json'} is damaged" in captured.err
    assert "1 case not done: coronacases_001" in captured.out
    assert "(1 kept)" in captured.out


def test_cases_that_would_share_a_folder(tmp_path, alone, capsys):
    data = tmp_path / "data"
    good = write_set(tmp_path / "set", 1)
    for name in ("x", "X", "y"):
        (data / name).mkdir(parents=True)
        for part, source in (("ct", case(good, 1).image), ("lesion", case(good, 1).mask)):
            (data / name / f"{part}.nii.gz").write_bytes(source.read_bytes())
    assert alone(data, "--output", tmp_path / "store") == 2
    captured = capsys.readouterr()
    both = {f"{data / name / 'ct.nii.gz'}" for name in "xX"}
    lines = [line for line in captured.err.splitlines() if "would share the folder" in line]
    assert len(lines) == 2
    assert all(path in line for path in both for line in lines)
    assert "2 cases not done: X, x" in captured.out


def test_a_folder_of_somebody_else_in_the_store_stays(tmp_path, alone, capsys):
    data, root = write_set(tmp_path / "data", 2), tmp_path / "store"
    begin_store(root, StoreSettings("covid-ct-20", (6.0, 2.0, 2.0)))
    (root / "coronacases_002").mkdir()
    (root / "coronacases_002" / "thesis.txt").write_text("mine")
    assert alone(data, "--dataset", "covid-ct-20", "--output", root) == 2
    captured = capsys.readouterr()
    assert f"{root / 'coronacases_002'} is there and is no case of this store; move or delete it" in captured.err
    assert (root / "coronacases_002" / "thesis.txt").read_text() == "mine"
    assert "1 case in " in captured.out


def test_a_file_that_may_not_be_read_is_one_cases_fault(tmp_path, alone, monkeypatch, capsys):
    data, root = write_set(tmp_path / "data", 2), tmp_path / "store"
    arguments = (data, "--dataset", "covid-ct-20", "--output", root)
    assert alone(*arguments) == 0
    os.utime(case(data, 1).image, ns=(0, 0))

    def forbidden(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    capsys.readouterr()
    monkeypatch.setattr(preparation, "digest", forbidden)
    assert alone(*arguments) == 2
    captured = capsys.readouterr()
    assert f"error: coronacases_001: {case(data, 1).image} cannot be read (Permission denied)" in captured.err
    assert "(1 kept)" in captured.out


def facts(shape, spacing):
    return CaseFacts("a", shape, spacing, (0, 1), 1.0, True)


def test_median_spacing():
    spacings = [(5.0, 0.7, 0.7), (1.0, 0.8, 0.8), (1.25, 0.9, 0.83333)]
    assert median_spacing([facts((2, 2, 2), spacing) for spacing in spacings]) == (1.25, 0.8, 0.8)


def test_needs(tmp_path):
    given = [facts((10, 100, 100), (2.0, 1.0, 1.0)), replace(facts((10, 10, 10), (1.0, 1.0, 1.0)), name="b")]
    need = needs(given, (1.0, 1.0, 1.0), tmp_path)
    assert need.most_disk == 2 * (20 * 100 * 100 + 1000)
    assert 0 < need.disk < need.most_disk
    assert need.worker == 4 * 4 * 20 * 100 * 100 + preparation.INTERPRETER
    # What is stored already takes no more disk; it is looked at again, which takes memory.
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "case.json").touch()
    assert needs(given, (1.0, 1.0, 1.0), tmp_path) == replace(need, disk=600, most_disk=2000)


def test_fitting_workers(monkeypatch):
    monkeypatch.setattr(preparation, "usable_processors", lambda: 8)
    monkeypatch.setattr(preparation, "total_memory", lambda: 10 * 2**30)
    assert fitting_workers(100, 2**30) == 8
    assert fitting_workers(3, 2**30) == 3
    assert fitting_workers(100, 3 * 2**30) == 2
    assert fitting_workers(100, 30 * 2**30) == 1


def test_an_output_that_cannot_be_a_store_is_refused_before_a_volume_is_read(tmp_path, monkeypatch):
    data, output = write_set(tmp_path / "data", 1), tmp_path / "out"
    monkeypatch.setattr(script, "_survey", None)
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(data), "--dataset", "covid-ct-20", "--output", str(output)])
    output.touch()
    with pytest.raises(InputError, match=rf"--output {output} is a file; give a folder"):
        script.main()
    output.unlink()
    output.mkdir()
    (output / "thesis.txt").touch()
    with pytest.raises(InputError, match=rf"--output {output} is neither empty nor a store; give another folder"):
        script.main()


MEASURE_READING = """
import re, sys
from pathlib import Path
import numpy as np
import SimpleITK as sitk
from covidct.ct.volume import VolumeCase, load_volume

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def load(name):
    image, mask = (Path(sys.argv[1]) / f"{name}{part}.nrrd" for part in ("", "_mask"))
    return load_volume(VolumeCase(name, image, mask, None, None, (mask,), "hu", name))

load("small")
before = peak()
volume = load("large")
print(before, peak(), volume.image.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell a process' peak memory")
@pytest.mark.parametrize("image_type", [np.int16, np.float64])
def test_memory_of_reading_nrrd(tmp_path, image_type):
    """Below four times the volume as float32, whatever types image and mask are stored in."""
    for name, shape in (("small", (4, 8, 8)), ("large", (100, 320, 320))):
        mask = np.zeros(shape, dtype=np.int64)
        mask[1:3, 2:5, 2:5] = 1
        for part, values in (("", (mask * 900 - 1000).astype(image_type)), ("_mask", mask)):
            sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"{name}{part}.nrrd"), useCompression=True)
    command = [sys.executable, "-c", MEASURE_READING, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    before, peak, size = map(int, done.stdout.split())
    assert (peak - before) * 1024 < 4 * size


def test_a_full_disk(tmp_path):
    with pytest.raises(InputError, match=r"about 1000000000\.0 GB are needed and \d+\.\d GB are free; free some"):
        check_disk(tmp_path / "not" / "yet", Needs(disk=10**18, most_disk=10**18, worker=0))
    assert check_disk(tmp_path / "not" / "yet", Needs(1, 1, 1)) > 0
