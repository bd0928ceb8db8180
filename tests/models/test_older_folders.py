"""Model folders that earlier commits wrote are read today: `tests/data/model_of_*`, each named after its commit."""

import json
from pathlib import Path

import pytest
import torch

from relcons import DualEncoderUNet

FOLDERS = sorted(Path(__file__).parents[1].glob("data/model_of_*"))


def test_there_are_older_folders() -> None:
    assert [folder.name for folder in FOLDERS] == ["model_of_68104c6"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_model_gives_what_it_gave(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    model = DualEncoderUNet.from_pretrained(folder / "model")
    image = torch.tensor(expected["image"]).reshape(1, 1, 8, 8)
    with torch.no_grad():
        output = model(image, features=True)
    found = {"logits": output.logits, "general": output.general[-1], "target": output.target[-1]}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.flatten(), torch.tensor(expected[name]), rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in model.general_encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.decoder.parameters())
