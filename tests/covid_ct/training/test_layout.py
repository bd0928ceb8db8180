"""Channels last, the layout of training on CUDA, tried on the CPU."""

import io

import covidct.training.engine
import pytest
import torch
from covidct.ct.picture import Slice
from covidct.run.building import build_model
from covidct.run.config import Config
from covidct.slices.data import SliceData
from covidct.training.engine import Trainer, make_fabric, memory_layout
from covidct.volumes.data import VolumeData
from covidct.volumes.presets import PRESETS as VOLUME_PRESETS
from rich.console import Console
from torch import nn

from tests.covid_ct.plain_demo import DEMO
from tests.covid_ct.store_cases import plan, store

LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.fixture
def train(tmp_path, write_pair):
    """A function that trains two tiny steps in slices or volumes and gives the trainer."""

    def data_of(axes):
        if axes == 3:
            cases = store(tmp_path / "store", 2)
            return VolumeData((cases,), (), (cases,), "", plan(cases, (4, 16, 16)))
        pairs = [write_pair(tmp_path, str(number)) for number in range(2)]
        slices = tuple(Slice(image.stem, image, mask, image.stem) for image, mask in pairs)
        return SliceData(slices, (), slices, "")

    def run(axes, name):
        values = (DEMO if axes == 2 else VOLUME_PRESETS["demo"]) | {"strides": (), "kernel_sizes": ()}
        values |= {"size": (4, 16, 16)[-axes:], "features_per_stage": (4, 8), "steps": 2, "workers": 0, "log_every": 1}
        config = Config("any", "", (), "ours", "demo", fold=0, seed=0, **values)
        folder = tmp_path / name
        folder.mkdir()
        trainer = Trainer(make_fabric(config), config, folder, build_model(config), data_of(axes))
        trainer.train(Console(file=io.StringIO()))
        return trainer

    return run


def test_on_cuda_alone():
    assert memory_layout(2, torch.device("cuda")) == torch.channels_last
    assert memory_layout(3, torch.device("cuda", 1)) == torch.channels_last_3d
    assert memory_layout(3, torch.device("cpu")) == torch.contiguous_format


@pytest.mark.parametrize("axes", [2, 3])
def test_the_layout_changes_nothing_beyond_rounding(train, axes, monkeypatch):
    usual = train(axes, "usual")
    monkeypatch.setattr(covidct.training.engine, "memory_layout", lambda *_: LAYOUTS[axes])
    seen = []
    step = Trainer._train_step

    def watched(self, batches):
        seen.extend((batches["target"]["image"], batches["target"]["mask"], batches["source"]["image"]))
        return step(self, batches)

    monkeypatch.setattr(Trainer, "_train_step", watched)
    other = train(axes, "other")
    assert len(seen) == 6
    for tensor in seen:
        # A single channel lies in both layouts, but its strides say which one is meant.
        assert tensor.stride(1) == 1
        assert tensor.is_contiguous(memory_format=LAYOUTS[axes])
    kernels = [m.weight for m in other.module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    assert kernels
    for weight in kernels:
        assert weight.is_contiguous(memory_format=LAYOUTS[axes])
        assert weight.stride(1) == 1
    for name, value in usual.module.state_dict().items():
        assert value.is_contiguous()
        torch.testing.assert_close(other.module.state_dict()[name], value, rtol=1e-4, atol=1e-6)
