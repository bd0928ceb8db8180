import sys
from pathlib import Path

import pytest
from covidct.errors import InputError, exit_on_input_error
from covidct.files import entries, replacing, write_bytes, write_text


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
