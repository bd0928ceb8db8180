import errno
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from covidct.errors import InputError, exit_on_input_error, print_error
from covidct.files import (
    entries,
    is_running,
    read_json,
    remove_leftovers,
    replacing,
    write_bytes,
    write_text,
    writing,
)


def test_written_text_and_bytes_are_read_back(tmp_path):
    write_text(tmp_path / "a.json", "ä\n")
    write_bytes(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "a.json").read_bytes() == "ä\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.bin"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def fail_half_way():
        with replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["lesion.nii.gz", "picture.png", "model.safetensors"])
def test_the_temporary_file_is_a_sibling_of_the_same_format(tmp_path, name):
    with replacing(tmp_path / name) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(name[name.index(".") :])
        temporary.write_bytes(b"")


@pytest.mark.parametrize("name", ["n" * 255, "n" * 251 + ".png", "ä" * 125 + ".nrrd", "a." + "s" * 249 + ".gz"])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_text(tmp_path / name, "a")
    with replacing(tmp_path / name) as temporary:
        assert temporary.name.endswith(Path(name).suffix[:16])
        temporary.write_text("b")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "b"


KILLED = """
import os, signal, sys
from pathlib import Path
from covidct.files import replacing, replacing_folder

here = Path(sys.argv[1])
with replacing(here / "a.png") as file, replacing_folder(here / "case") as folder:
    file.write_bytes(b"half")
    (folder / "image.b2nd").write_bytes(b"half")
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_leftovers_of_killed_processes_go_and_those_of_others_stay(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for name in (".notes", ".b.png", ".git", ".a.12.png", "b.png.12-ab.png"):
        (tmp_path / name).write_text("of the user")
    kept = sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.iterdir())) == len(kept) + 2
        process.kill()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == kept
    remove_leftovers(tmp_path / "absent")


def test_leftovers_of_another_machine_are_those_of_yesterday(tmp_path):
    """Its processes cannot be asked for; many machines may write to one folder."""
    with replacing(tmp_path / "a.png") as temporary:
        temporary.touch()
        own = temporary.name
        remove_leftovers(tmp_path)
        assert temporary.exists()
    token = own.split("-")[1].split(".")[0]
    other = "".join("0" if letter != "0" else "1" for letter in token)
    for name, age in (("new", 60), ("old", 2 * 24 * 3600)):
        part = tmp_path / f".{name}.png.99999999-{other}.png"
        part.touch()
        os.utime(part, (time.time() - age, time.time() - age))
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".new.png.99999999-{other}.png", "a.png"]


def test_leftovers_of_an_earlier_process_of_the_same_number_go(tmp_path):
    """In a container every run is process 1."""
    part = tmp_path / f".a.png.{os.getpid()}-0123abcd.png"
    part.touch()
    remove_leftovers(tmp_path)
    assert part.exists()
    os.utime(part, (0, 0))
    remove_leftovers(tmp_path)
    assert not part.exists()


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    def write_nothing():
        with replacing(tmp_path / "a.txt"):
            pass

    with pytest.raises(FileNotFoundError):
        write_nothing()
    assert list(tmp_path.iterdir()) == []


def test_an_input_error_becomes_one_message_and_exit_code_2(capsys):
    message = "masks/17.png is 10 x 12 pixels, its image 20 x 12; [bold]" + "long " * 60 + "end"

    def main():
        raise InputError(message)

    with pytest.raises(SystemExit) as stopped:
        exit_on_input_error(main)
    streams = capsys.readouterr()
    assert stopped.value.code == 2
    assert streams.err == f"error: {message}\n"
    assert streams.out == ""


def test_a_result_and_other_errors_pass_through():
    assert exit_on_input_error(lambda: 3) == 3
    with pytest.raises(ValueError, match="invalid literal"):
        exit_on_input_error(lambda: int("x"))
    with pytest.raises(SystemExit) as stopped:
        exit_on_input_error(lambda: sys.exit(5))
    assert stopped.value.code == 5


def test_an_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot be read .Permission denied.; check its permissions"):
        entries(tmp_path)


@dataclass(frozen=True)
class Point:
    name: str
    at: tuple[float, float]
    weight: int | None = None


def refused(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as caught:
        read_json(path, Point, fix="draw it again")
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged: ")
    assert message.endswith("; draw it again")
    assert "\n" not in message
    return message.removeprefix(f"{path} is damaged: ").removesuffix("; draw it again")


def test_json_becomes_what_it_should_be(tmp_path):
    path = tmp_path / "point.json"
    path.write_text('{"name": "a", "at": [1, 2.5], "weight": 3, "more": null}')
    point = read_json(path, Point, fix="")
    assert point == Point("a", (1.0, 2.5), 3)
    assert isinstance(point.at[0], float)
    path.write_text('{"1": [{"name": "a", "at": [1, 2.5]}]}')
    assert read_json(path, dict[int, list[Point]], fix="") == {1: [Point("a", (1.0, 2.5))]}


def test_no_json(tmp_path):
    path = tmp_path / "point.json"
    for text in ("", "{", "nonsense", b"\xff\xfe", b"\x00" * 100, '{"name": "a", "at": [1, 2]} more'):
        assert refused(path, text).startswith("it is not JSON (")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": ' * 100_000, '{"name": "a", "at": ' + "[" * 5000])
def test_deeply_nested_json(tmp_path, text):
    assert refused(tmp_path / "point.json", text).startswith("it is not JSON (recursion limit")


def test_every_wrong_field_is_named_with_what_came(tmp_path):
    found = refused(tmp_path / "point.json", '{"at": ["1", 2], "weight": 1.5}')
    assert found == "name is missing; at[0] must be a valid number, got '1'; weight must be a valid integer, got 1.5"
    assert refused(tmp_path / "point.json", "[1]") == "it must be an object, got [1]"
    assert refused(tmp_path / "point.json", '{"name": true, "at": [true, 1]}').count(", got True") == 2


def test_a_long_value_is_cut(tmp_path):
    assert len(refused(tmp_path / "point.json", '{"name": "a", "at": "' + "x" * 10**6 + '"}')) < 150


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"a\.json is missing; draw it$"):
        read_json(tmp_path / "a.json", Point, fix="draw it")
    with pytest.raises(InputError, match=r"a\.json is missing: nobody drew it$"):
        read_json(tmp_path / "a.json", Point, fix="draw it", missing="nobody drew it")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\); draw it$"):
        read_json(tmp_path, Point, fix="draw it")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free space there"),
        (errno.EDQUOT, "free space there, the quota is used up"),
        (errno.EACCES, "give a place that you may write to"),
        (errno.EROFS, "give a place that you may write to"),
        (errno.ENAMETOOLONG, "shorten the name"),
        (errno.EIO, "check the disk"),
    ],
)
def test_advice_fits_the_fault(tmp_path, number, advice):
    with pytest.raises(InputError) as caught, writing(tmp_path / "a.png"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"{tmp_path / 'a.png'} cannot be written ({os.strerror(number)}); {advice}"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("folder", r"folder cannot be written \(Is a directory\); a folder stands in its place"),
        ("file/a.txt", r"a\.txt cannot be written \(Not a directory\); a file stands in the place of its folder"),
        ("none/a.txt", r"a\.txt cannot be written \(No such file or directory\); its folder is missing"),
        ("x" * 300, r"x cannot be written \(File name too long\); shorten the name"),
    ],
)
def test_what_the_file_system_says_itself(tmp_path, name, what):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=what), writing(tmp_path / name):
        write_text(tmp_path / name, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_error_without_a_number_says_its_text(tmp_path):
    what = r"cannot be written \(encoder error -2\); check the disk, or go elsewhere$"
    with pytest.raises(InputError, match=what), writing(tmp_path, "or go elsewhere"):
        raise OSError("encoder error -2")


def test_other_errors_of_writing_pass_through(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("a")


def test_an_error_is_one_line_whatever_is_in_it(capsys):
    print_error("[bold]" + "long " * 60)
    assert capsys.readouterr().err == "error: [bold]" + "long " * 60 + "\n"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system has no /proc to tell")
def test_a_process_that_has_ended_and_keeps_its_number_is_not_running():
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    assert is_running(child.pid)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert not is_running(child.pid)
    child.wait()
    assert not is_running(child.pid)
