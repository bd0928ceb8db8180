"""report.html: all of a run on one page that asks for nothing else."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from covidct.run.page import MOMENTS, try_page, write_page
from PIL import Image

from tests.covid_ct.fabricated_runs import config, slice_content, write_run


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.links, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "img":
            self.images.append(values["alt"])
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.fixture
def run(tmp_path):
    """A scored run of two encoders with its log, pictures and 15 moments of relation matrices."""
    of = config(volumes=False, method="ours")
    folder = write_run(tmp_path / "run", of, slice_content(of, {"a <1>": 0.75, "b": 0.25}))
    line = {"step": 1, "segmentation": 1.25, "weighted_target": -0.5, "moved_general": 0.0, "rank_general": None}
    (folder / "metrics.jsonl").write_text(
        "\n".join(json.dumps(line | {"step": step, "moved_general": 0.01 * step}) for step in (1, 600))
    )
    (folder / "relations").mkdir()
    for step in range(15):
        matrices = dict.fromkeys(("general_source", "general_target", "target"), np.eye(3, dtype=np.float32))
        np.savez(folder / "relations" / f"step_{step:06d}.npz", **matrices)
    for name in ("curves.png", "predictions.png"):
        Image.new("L", (8, 8)).save(folder / name)
    return folder, of


def test_all_of_a_run_is_on_it(run):
    folder, of = run
    path = write_page(folder, of)
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.images[:2] == ["Test images, from best to worst", "Training"]
    assert len(page.images) == 2 + MOMENTS
    assert (page.images[2], page.images[-1]) == ("step 0", "step 14")
    # Nothing but what it carries.
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text)
    words = ("ours on covid_semiseg", "L_seg", "lambda L_T", "-0.5", "6", "Every setting", "relation_reduction")
    for expected in words:
        assert expected in page.texts, expected
    assert "0.06" not in page.texts  # the first step moved 0.01, the last 6
    assert "effective rank of R_G" not in page.texts
    assert any("a <1>" in words for words in page.texts)
    assert "a <1>" not in text


def test_what_a_run_has_not_is_left_out(tmp_path):
    of = config(volumes=False, method="unet")
    folder = write_run(tmp_path / "run", of, None)
    page = Page(write_page(folder, of).read_text(encoding="utf-8"))
    assert page.images == []
    assert "Every setting" in page.texts


def test_a_page_that_cannot_be_written_spoils_nothing(run):
    folder, of = run
    (folder / "metrics.json").write_text("no JSON")
    assert try_page(folder, of).startswith("No page was written: ")
    assert not (folder / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_it_opens_in_a_browser_at_every_width(run, width, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    folder, of = run
    address = write_page(folder, of).as_uri()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [browser, *flags, f"--window-size={width},900", "--dump-dom", address]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    # The script has run: the last moment is the one that is shown.
    assert re.search(r'<span id="step">step 14</span>', shown)
    assert len(re.findall(r'class="shown"', shown)) == 1
    picture = tmp_path / "picture.png"
    command = [browser, *flags, f"--window-size={width},900", f"--screenshot={picture}", address]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    with Image.open(picture) as seen:
        assert seen.width == width
        assert np.asarray(seen.convert("L")).std() > 0
