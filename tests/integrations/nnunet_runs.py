"""Two tiny nnU-Net data sets, and nnU-Net's own command lines over them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
TARGET, SOURCE = "Dataset901_Target", "Dataset902_Source"
# In a folder of its own, as a user's subclass would be; a trainer must repeat the named arguments.
SHORT_TRAINERS = """
import os

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from relcons.integrations.nnunet import nnUNetTrainerRelCons, nnUNetTrainerRelConsTarget


def shorten(trainer):
    trainer.num_epochs = int(os.environ["SHORT_EPOCHS"])
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 2, 1
    trainer.save_every = 1
    trainer.weight_decay = 0.0  # what moves the general encoder is then a loss


class ShortStock(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        shorten(self)


class ShortRelCons(nnUNetTrainerRelCons):
    peak = 1.0

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        shorten(self)

    def on_train_start(self):
        super().on_train_start()
        torch.save(self.model.state_dict(), f"{self.output_folder}/start_of_epoch_{self.current_epoch}.pth")

    def on_train_epoch_end(self, outputs):
        super().on_train_epoch_end(outputs)
        self.print_to_log_file("lambda", float(self.relation.current_weight))


class ShortRelConsTarget(nnUNetTrainerRelConsTarget):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        shorten(self)

    def on_train_start(self):
        super().on_train_start()
        torch.save(self.model.state_dict(), f"{self.output_folder}/start_of_epoch_{self.current_epoch}.pth")
"""


class Workspace:
    """nnU-Net's three folders and the environment of its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        trainers = folder / "trainers"
        trainers.mkdir()
        (trainers / "short_trainers.py").write_text(SHORT_TRAINERS, encoding="utf-8")
        shim = ROOT / "relcons/integrations/nnunet_trainers"
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "nnUNet_extTrainer": os.pathsep.join([str(shim), str(trainers)]),
            "nnUNet_compile": "f",
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": "2",
            "SHORT_EPOCHS": "1",
        }
        for name in ("raw", "preprocessed", "results"):
            (folder / name).mkdir()
            self.environment[f"nnUNet_{name}"] = str(folder / name)
        for name in ("RELCONS_SOURCE", "RELCONS_START"):
            self.environment.pop(name, None)

    def run(self, command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-c", command],
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def results(self, trainer: str, configuration: str) -> Path:
        return self.folder / "results" / TARGET / f"{trainer}__nnUNetPlans__{configuration}" / "fold_0"


def write_dataset(raw: Path, name: str, cases: int, shape: tuple[int, int, int], seed: int) -> None:
    """Noise with a brighter block, which is the foreground."""
    generator = np.random.default_rng(seed)
    images, labels = raw / name / "imagesTr", raw / name / "labelsTr"
    images.mkdir(parents=True)
    labels.mkdir()
    for case in range(cases):
        image, label = generator.normal(size=shape).astype(np.float32), np.zeros(shape, np.uint8)
        corner = [int(generator.integers(2, size // 2)) for size in shape]
        label[tuple(slice(start, start + size // 3) for start, size in zip(corner, shape, strict=True))] = 1
        image[label == 1] += 3
        nib.save(nib.Nifti1Image(image, np.eye(4)), images / f"case_{case}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), labels / f"case_{case}.nii.gz")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "object": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (raw / name / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def checkpoint(path: Path) -> dict[str, Any]:
    # Written by the test's own run a moment ago.
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return content


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], part: str) -> bool:
    names = [name for name in before if name.startswith(part)]
    assert names
    return any(not torch.equal(before[name], after[name]) for name in names)


def run_whole_path(workspace: Workspace, configuration: str) -> None:
    """Plan, prepare the source by the commands of the message, train, continue, predict."""
    raw = workspace.folder / "raw"
    shape = (48, 48, 24)
    write_dataset(raw, TARGET, 5, shape, seed=0)
    write_dataset(raw, SOURCE, 3, shape, seed=1)
    workspace.run(f"nnUNetv2_plan_and_preprocess -d 901 -c {configuration} -npfp 1 -np 1")
    train = f"nnUNetv2_train 901 {configuration} 0 -device cpu -tr"

    refused = workspace.run(f"{train} ShortRelCons", check=False, RELCONS_SOURCE="902")
    assert refused.returncode != 0
    assert f"is not preprocessed for {configuration} with the plans nnUNetPlans of {TARGET}" in refused.stderr
    commands = [line.strip() for line in refused.stderr.splitlines() if line.startswith("    ")]
    commands = [line for line in commands if line.startswith(("nnUNetv2_", "cp "))]
    assert [line.split()[0] for line in commands] == [
        "nnUNetv2_extract_fingerprint",
        "nnUNetv2_move_plans_between_datasets",
        "cp",
        "nnUNetv2_preprocess",
    ]
    for command in commands:
        workspace.run(command)

    workspace.run(f"{train} ShortRelCons", RELCONS_SOURCE="902")
    folder = workspace.results("ShortRelCons", configuration)
    start, first = checkpoint(folder / "start_of_epoch_0.pth"), checkpoint(folder / "checkpoint_final.pth")
    assert first["current_epoch"] == 1
    for part in ("general_encoders.", "target_encoder.", "decoder."):
        assert moved(start, first["network_weights"], part)
    assert len(first["logging"]["relation_general"]) == len(first["logging"]["relation_target"]) == 1
    assert first["logging"]["relation_general"][0] > 0 > first["logging"]["relation_target"][0]
    assert (folder / "validation/summary.json").is_file()

    workspace.run(f"{train} ShortRelCons --c", RELCONS_SOURCE=SOURCE, SHORT_EPOCHS="2", nnUNet_n_proc_DA="0")
    second = checkpoint(folder / "checkpoint_final.pth")
    assert second["current_epoch"] == 2
    assert len(second["logging"]["relation_general"]) == 2
    again = checkpoint(folder / "start_of_epoch_1.pth")
    assert not moved(first["network_weights"], again, "general_encoders.")
    logs = sorted(folder.glob("training_log_*.txt"))
    weights = [float(line.split()[-1]) for log in logs for line in log.read_text().splitlines() if " lambda " in line]
    # The step before the end of each run: 1 of 2, then, with twice the epochs, 3 of 4.
    assert np.allclose(weights, [np.exp(-5 / 2), np.exp(-5 / 4)], rtol=1e-5)

    output = workspace.folder / "predictions"
    workspace.run(
        f"nnUNetv2_predict -i {raw / TARGET / 'imagesTr'} -o {output} -d 901 -c {configuration} -f 0 "
        "-tr ShortRelCons -device cpu -npp 1 -nps 1 --disable_tta"
    )
    for case in range(5):
        predicted = nib.load(output / f"case_{case}.nii.gz")
        assert predicted.shape == shape
        assert set(np.unique(np.asarray(predicted.dataobj))) <= {0, 1}

    workspace.run(f"{train} ShortStock", nnUNet_n_proc_DA="0")
    stock = workspace.results("ShortStock", configuration) / "checkpoint_final.pth"
    environment = {"nnUNet_n_proc_DA": "0", "RELCONS_START": str(stock)}
    workspace.run(f"{train} ShortRelConsTarget", **environment)
    folder = workspace.results("ShortRelConsTarget", configuration)
    start, end = checkpoint(folder / "start_of_epoch_0.pth"), checkpoint(folder / "checkpoint_final.pth")
    given = checkpoint(stock)["network_weights"]
    for name in (name for name in given if name.startswith("encoder.")):
        assert torch.equal(start[f"target_{name}"], given[name])
    assert not moved(start, end["network_weights"], "general_encoders.")
    assert moved(start, end["network_weights"], "target_encoder.")
    assert len(end["logging"]["relation_target"]) == 1
    assert "relation_general" not in end["logging"]

    # The variable is still set, and a training that goes on does not start from it again.
    workspace.run(f"{train} ShortRelConsTarget --c", SHORT_EPOCHS="2", **environment)
    assert not moved(end["network_weights"], checkpoint(folder / "start_of_epoch_1.pth"), "target_encoder.")
