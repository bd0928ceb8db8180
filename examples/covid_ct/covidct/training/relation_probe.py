"""Relation matrices of a fixed batch over training, and their effective rank."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from covidct.files import replacing
from relcons import DualEncoderUNet, functional


class RelationProbe:
    """Writes R_G(X^n), R_G(X^c) and R_T(X^c) of the same images again and again, at the deepest of the levels.

    images, source: (B, 1, H, W) on the model's device; `source` None leaves R_G(X^n) out.
    """

    def __init__(self, folder: Path, model: DualEncoderUNet, images: Tensor, source: Tensor | None) -> None:
        self.folder, self.model = folder, model
        self.images, self.source = images, source

    @torch.no_grad()
    def write(self, step: int) -> None:
        """Write `step_XXXXXX.npz` of the model as it is now; its mode is restored."""
        model, training = self.model, self.model.training
        output = model.eval()(self.images, source=self.source, features=True)
        model.train(training)
        level = deepest_level(model)
        maps = {"general_target": output.general[level], "target": output.target[level]}
        if output.source is not None:
            maps["general_source"] = output.source[level]
        matrices = {name: functional.relation_matrix(features).cpu().numpy() for name, features in maps.items()}
        self.folder.mkdir(exist_ok=True)
        with replacing(self.folder / f"step_{step:06d}.npz") as temporary:
            np.savez(temporary, allow_pickle=False, **matrices)


def deepest_level(model: DualEncoderUNet) -> int:
    """Which of the output's maps is nearest to the bottleneck."""
    return model.levels.index(max(model.levels))


@torch.no_grad()
def effective_rank(features: Tensor) -> float | None:
    """Effective rank of the relation matrix of `features` (B, C, H, W), None if the matrix is 0 or not finite."""
    rank = float(functional.effective_rank(functional.relation_matrix(features)))
    return rank if rank > 0 else None
