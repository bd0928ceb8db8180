import os
import re
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import predict
import pytest
from covidct.errors import InputError, exit_on_input_error
from covidct.run.building import build_model
from covidct.run.checkpoint import load_run, save_weights
from covidct.run.config import Config
from covidct.slices import prediction
from covidct.slices.evaluation import predict_slice
from covidct.slices.inference import predict_probability
from PIL import Image

from tests.covid_ct.plain_demo import DEMO

SCRIPT = Path(predict.__file__)


@pytest.fixture
def run(tmp_path):
    values = DEMO | {"size": (32, 32), "features_per_stage": (4, 8)}
    config = Config("phantom", "", (), "unet", "demo", fold=0, seed=0, **values)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    save_weights(folder, build_model(config))
    return folder


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for stem, suffix, shape in (("a", ".png", (40, 31)), ("b", ".jpg", (20, 50)), ("c", ".PNG", (33, 33, 3))):
        values = np.random.default_rng(sum(shape)).integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{stem}{suffix}")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def call(monkeypatch):
    def with_arguments(*arguments):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        predict.main()

    return with_arguments


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folder_becomes_masks_of_the_same_size_and_stem(call, run, pictures, tmp_path, capsys):
    call(run, pictures, "--output", tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert names(out) == ["a.png", "b.png", "c.png"]
    for path, size in ((out / "a.png", (31, 40)), (out / "b.png", (50, 20)), (out / "c.png", (33, 33))):
        with Image.open(path) as mask:
            assert (mask.format, mask.mode, mask.size) == ("PNG", "L", size)
            assert set(np.unique(mask)) <= {0, 255}
    assert "3 of 3 masks written" in capsys.readouterr().out


@pytest.mark.parametrize("flips", [True, False])
def test_masks_and_probabilities_are_the_models(call, run, pictures, tmp_path, flips):
    call(run, pictures / "a.png", "--output", tmp_path / "out", "--probabilities", *(["--flips"] if flips else []))
    assert names(tmp_path / "out") == ["a.png", "a_probability.png"]
    _, model = load_run(run)
    image = pixels(pictures / "a.png").astype(np.float32)
    expected = predict_probability(model, image, size=(32, 32), resize=True, flips=flips)
    with Image.open(tmp_path / "out" / "a_probability.png") as written:
        assert written.mode == "I;16"
        np.testing.assert_allclose(np.asarray(written) / 65535, expected, atol=1e-4)
    mask = pixels(tmp_path / "out" / "a.png")
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(mask > 0, expected > 0.5)


def test_bad_files_are_reported_and_the_others_done(call, run, pictures, tmp_path, capsys):
    (pictures / "b.jpg").write_bytes(b"no picture")
    Image.new("L", (9, 9), 7).save(pictures / "d.png")
    missing = tmp_path / "missing.png"
    with pytest.raises(SystemExit) as stop:
        call(run, pictures, missing, "--output", tmp_path / "out")
    assert stop.value.code == 2
    assert names(tmp_path / "out") == ["a.png", "c.png"]
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert [line.startswith("error: ") for line in lines] == [True, True, True]
    assert f"{pictures / 'b.jpg'} cannot be read" in lines[0]
    assert f"{pictures / 'd.png'}: every pixel is 7" in lines[1]
    assert f"{missing} is missing" in lines[2]
    assert "2 of 5 masks written" in captured.out


def test_a_file_named_twice_is_predicted_once(call, run, pictures, tmp_path, capsys):
    call(run, pictures, pictures / "a.png", "--output", tmp_path / "out")
    assert "3 of 3" in capsys.readouterr().out


def test_masks_of_an_earlier_call_are_replaced_and_nobody_elses(call, run, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    call(run, pictures, "--output", out)
    whole = (out / "a.png").read_bytes()
    Image.new("L", (31, 40)).save(out / "b.png")  # ground truth, say
    truth = (out / "b.png").read_bytes()
    Image.fromarray(255 - pixels(pictures / "a.png")).save(pictures / "a.png")
    stopped(call, run, pictures, "--output", out)
    captured = capsys.readouterr()
    assert "b.png is there, was not written by predict.py, and would be replaced; give another --output" in captured.err
    assert "2 of 3 masks written" in captured.out
    assert "1 not: see above" in captured.out
    assert (out / "b.png").read_bytes() == truth
    assert (out / "a.png").read_bytes() != whole


def refused(call, message, *arguments):
    with pytest.raises(InputError, match=message):
        call(*arguments)


def stopped(call, *arguments):
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    assert stop.value.code == 2


def test_of_equal_stems_the_first_is_written(call, run, pictures, tmp_path, capsys):
    Image.fromarray(255 - pixels(pictures / "a.png")).save(pictures / "a.jpg")
    out = tmp_path / "out"
    stopped(call, run, pictures, "--output", out)
    captured = capsys.readouterr()
    assert re.search(r"a\.jpg and .*a\.png would both be written to .*out/a\.png; rename one", captured.err)
    assert "3 of 4 masks written" in captured.out
    assert names(out) == ["a.png", "b.png", "c.png"]


def test_mask_and_probability_of_one_name_are_refused(call, run, pictures, tmp_path, capsys):
    Image.fromarray(pixels(pictures / "a.png")).save(pictures / "a_probability.png")
    arguments = (run, pictures, "--output", tmp_path / "out")
    stopped(call, *arguments, "--probabilities")
    captured = capsys.readouterr()
    assert re.search(r"a\.png and .*a_probability\.png would both be written to .*a_probability\.png", captured.err)
    assert "3 of 4 masks written" in captured.out
    with Image.open(tmp_path / "out" / "a_probability.png") as probability:
        assert probability.mode == "I;16"
    call(run, pictures, "--output", tmp_path / "masks")
    assert "a_probability.png" in names(tmp_path / "masks")


def test_inputs_are_not_overwritten(call, run, pictures, monkeypatch):
    before = (pictures / "a.png").read_bytes()
    monkeypatch.chdir(pictures)
    refused(call, r"a\.png is the input .* and would be replaced", run, pictures / "a.png", "--output", ".")
    assert (pictures / "a.png").read_bytes() == before
    # Another file of that folder, as a mask that lies there, is kept, too; a name that is free is taken.
    Image.new("L", (50, 20)).save(pictures / "b.png")
    refused(call, r"b\.png is there, was not written by", run, pictures / "b.jpg", "--output", pictures)
    (pictures / "b.png").unlink()
    call(run, pictures / "b.jpg", "--output", pictures)
    assert pixels(pictures / "b.png").shape == (20, 50)


def test_a_link_to_an_input_is_an_input(call, run, pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").symlink_to(pictures / "a.png")
    before = (pictures / "a.png").read_bytes()
    refused(
        call,
        r"out/a\.png is the input .*pictures/a\.png and would be replaced",
        run,
        pictures / "a.png",
        "--output",
        out,
    )
    assert (out / "a.png").is_symlink()
    assert (pictures / "a.png").read_bytes() == before
    (tmp_path / "same").symlink_to(pictures)
    refused(call, "would be replaced", run, pictures / "a.png", "--output", tmp_path / "same")
    assert (pictures / "a.png").read_bytes() == before


def test_two_links_to_one_picture_are_two_inputs(call, run, pictures, tmp_path, capsys):
    """git-annex, DVC and the hub's cache lay links to contents that are named by their checksums."""
    links = tmp_path / "links"
    links.mkdir()
    for name in ("first", "second"):
        (links / f"{name}.png").symlink_to(pictures / "a.png")
    call(run, links, links / ".." / "links" / "first.png", "--output", tmp_path / "out")
    assert "2 of 2 masks written" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["first.png", "second.png"]


def test_a_batch_goes_on(call, run, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "c.png").mkdir(parents=True)
    os.mkfifo(pictures / "pipe.png")
    (pictures / "loop.png").symlink_to("loop.png")
    (pictures / "gone.png").symlink_to("nowhere.png")
    Image.fromarray(pixels(pictures / "a.png")).save(pictures / f"{'n' * 251}.png")
    Image.fromarray(pixels(pictures / "a.png")).save(pictures / f"{'m' * 245}.tiff")
    Image.fromarray(pixels(pictures / "a.png")).save(os.fsencode(pictures) + b"/\xff.png")
    (tmp_path / "empty").mkdir()
    inputs = (tmp_path / "empty", pictures, pictures / "notes.txt", tmp_path / "absent.png")
    stopped(call, run, *inputs, "--output", out, "--probabilities")
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    for what in (
        r"empty holds no PNG or JPG",
        r"out/c\.png cannot be written; a folder stands in its place",
        r"pipe\.png is a named pipe",
        r"loop\.png is a link that leads back to itself",
        r"gone\.png is a link to nowhere\.png, which is missing",
        r"pictures/n{251}\.png: .*out/n{251}_probability\.png cannot be written \(File name too long\); shorten",
        r"pictures/m{245}\.tiff: .*out/m{245}_probability\.png cannot be written \(File name too long\); shorten",
        r"\\udcff\.png: the name is not UTF-8",
        r"notes\.txt is not a picture by its name",
        r"absent\.png is missing",
    ):
        assert sum(re.search(what, line) is not None for line in lines) == 1, what
    assert len(lines) == 10
    assert all(line.startswith("error: ") for line in lines)
    assert "2 of 12 masks written" in captured.out
    assert names(out) == ["a.png", "a_probability.png", "b.png", "b_probability.png", "c.png"]
    # The mask alone has a name that the disk takes.
    call(run, pictures / f"{'n' * 251}.png", "--output", tmp_path / "masks")
    assert names(tmp_path / "masks") == [f"{'n' * 251}.png"]


def test_a_folder_that_holds_its_own_masks_is_predicted_again(call, run, pictures, tmp_path, capsys):
    (pictures / "a.png").rename(pictures / "a.jpg")
    (pictures / "c.PNG").unlink()
    for _ in range(2):
        call(run, pictures, "--output", pictures, "--probabilities")
        assert "2 of 2 masks written" in capsys.readouterr().out
    made = ["a.png", "a_probability.png", "b.png", "b_probability.png"]
    assert names(pictures) == sorted(["a.jpg", "b.jpg", "notes.txt", *made])
    for name in ("a.jpg", "b.jpg"):
        (pictures / name).unlink()
    refused(call, "holds no PNG or JPG but those that predict.py wrote", run, pictures, "--output", tmp_path / "out")
    # Named one by one they are pictures like others.
    with Image.open(pictures / "a.png") as mask:
        assert len(set(np.asarray(mask).ravel())) == 2
    call(run, pictures / "a.png", "--output", tmp_path / "out")
    assert names(tmp_path / "out") == ["a.png"]


@pytest.mark.parametrize("kind", ["pipe", "bomb", "text"])
def test_what_stands_in_a_masks_place_is_no_mask(call, run, pictures, tmp_path, kind, capsys):
    out = tmp_path / "out"
    call(run, pictures, "--output", out)
    mask = (out / "a.png").read_bytes()
    (out / "a.png").unlink()
    if kind == "pipe":
        os.mkfifo(out / "a.png")
    else:
        sizes = (2**31 - 1).to_bytes(4, "big") * 2
        header = mask[12:16] + sizes + mask[24:29]
        bomb = mask[:12] + header + zlib.crc32(header).to_bytes(4, "big") + mask[33:]
        (out / "a.png").write_bytes(bomb if kind == "bomb" else mask[:60])
    stopped(call, run, pictures, "--output", out)
    captured = capsys.readouterr()
    assert "a.png is there, was not written by predict.py, and would be replaced" in captured.err
    assert "2 of 3 masks written" in captured.out


def test_memory_that_runs_out_is_one_pictures_fault(call, run, pictures, tmp_path, monkeypatch, capsys):
    def greedy(model, image, *arguments, **options):
        if image.shape == (40, 31):
            raise MemoryError
        if image.shape == (20, 50):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 12")
        return predict_slice(model, image, *arguments, **options)

    monkeypatch.setattr(prediction, "predict_slice", greedy)
    stopped(call, run, pictures, "--output", tmp_path / "out")
    captured = capsys.readouterr()
    for name in ("a.png", "b.jpg"):
        assert f"error: {pictures / name}: not enough memory to compute its mask; free some" in captured.err
    assert names(tmp_path / "out") == ["c.png"]


def test_no_probability_is_left_without_its_mask(call, run, pictures, tmp_path, monkeypatch, capsys):
    def full(picture, path, **_):
        if picture.mode == "L" and ".a." in Path(path).name:
            raise OSError(28, "No space left on device")
        save(picture, path, **_)

    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", full)
    stopped(call, run, pictures, "--output", tmp_path / "out", "--probabilities")
    assert "2 of 3 masks written" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["b.png", "b_probability.png", "c.png", "c_probability.png"]


def test_an_output_whose_name_is_no_text(call, run, pictures, tmp_path, capsys):
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    monkey = [run, pictures, "--output"]
    call(*monkey, out)
    assert "3 of 3 masks written to" in capsys.readouterr().out
    assert names(out) == ["a.png", "b.png", "c.png"]


def test_leftovers_of_killed_calls_are_cleared(call, run, pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    for process in (dead.pid, os.getppid()):
        (out / f".a.png.{process}-0123abcd.png").write_bytes(b"half")
    # Of an input that this call does not have.
    (out / f".p1.png.{dead.pid}-0123abcd.png").write_bytes(b"half")
    call(run, pictures / "a.png", "--output", out)
    assert names(out) == [f".a.png.{os.getppid()}-0123abcd.png", "a.png"]  # of a process that still runs


def test_folder_without_pictures_is_refused(call, run, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(call, "empty holds no PNG or JPG", run, tmp_path / "empty", "--output", tmp_path / "out")


def test_no_input_is_refused(call, run, tmp_path):
    refused(call, "no INPUT was given", run, "--output", tmp_path / "out")


def test_output_that_is_a_file_is_refused(call, run, pictures, tmp_path):
    (tmp_path / "out").write_text("")
    refused(call, "out cannot be written .*; a file stands in its place", run, pictures, "--output", tmp_path / "out")


def test_folder_that_is_no_run_is_refused(call, pictures, tmp_path):
    refused(call, r"config\.json is missing", pictures, pictures, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_full_disk_leaves_no_half_mask(call, run, pictures, tmp_path, monkeypatch, capsys):
    def full(picture, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    stopped(call, run, pictures, "--output", tmp_path / "out")
    captured = capsys.readouterr()
    assert re.search(r"a\.png cannot be written \(No space left on device\); free space there", captured.err)
    assert "0 of 3 masks written" in captured.out
    assert names(tmp_path / "out") == []


def test_message_and_exit_code_2_of_an_input_error(call, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        exit_on_input_error(lambda: call(tmp_path / "[run]", tmp_path, "--output", tmp_path / "out"))
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_help_says_what_pictures_are_expected():
    result = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True)
    text = " ".join(result.stdout.split())
    assert "lung window" in text
    assert "rotate yours likewise" in text
    assert "16-bit grey, 65535 for probability 1" in text.replace("│ │ ", "")
