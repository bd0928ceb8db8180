"""Relation matrices of a fixed batch over training, and their effective rank."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from covidct.files import replacing
from relcons import functional


class RelationProbe:
    """Writes R_G(X^n), R_G(X^c) and R_T(X^c) of the same images again and again.

    images, source: (B, 1, H, W) on the model's device; `source` None leaves R_G(X^n) out.
    """

    def __init__(self, folder: Path, images: Tensor, source: Tensor | None) -> None:
        self.folder = folder
        self.images, self.source = images, source

    @torch.no_grad()
    def write(self, model: nn.Module, step: int) -> None:
        """Write `step_XXXXXX.npz` of a dual model, whose mode is restored."""
        training = model.training
        output = model.eval()(self.images, source=self.source, features=True)
        model.train(training)
        maps = {"general_target": output.general[-1], "target": output.target[-1]}
        if output.source is not None:
            maps["general_source"] = output.source[-1]
        matrices = {name: functional.relation_matrix(features).cpu().numpy() for name, features in maps.items()}
        self.folder.mkdir(exist_ok=True)
        with replacing(self.folder / f"step_{step:06d}.npz") as temporary:
            np.savez(temporary, allow_pickle=False, **matrices)


@torch.no_grad()
def effective_rank(features: Tensor) -> float | None:
    """Effective rank of the relation matrix of `features` (B, C, H, W), None if the matrix is 0 or not finite."""
    rank = float(functional.effective_rank(functional.relation_matrix(features)))
    return rank if rank > 0 else None
