"""Trainers for nnU-Net v2: a second encoder and the relation losses in a training that nnU-Net plans.

``python -m relcons.integrations.nnunet`` prints the folder that ``nnUNet_extTrainer`` must name.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from relcons.checks import needing
from relcons.functional import Reduction
from relcons.losses import RelationLoss, RelationTerms
from relcons.models import DualEncoderUNet
from relcons.relations import GramRelation
from relcons.schedules import GaussianRampUp

try:
    with needing("nnunet", "relcons.integrations.nnunet"):
        import numpy as np
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
except ImportError as error:
    if __name__ == "__main__":  # its output is taken into a variable: one line says why that stays empty
        raise SystemExit(str(error)) from None
    raise

from relcons.integrations.nnunet_source import find_source, source_batches
from relcons.integrations.nnunet_start import START, load_start, read_weights

__all__ = [
    "TRAINERS",
    "nnUNetTrainerRelCons",
    "nnUNetTrainerRelConsBaseline",
    "nnUNetTrainerRelConsGeneral",
    "nnUNetTrainerRelConsTarget",
]

TRAINERS = Path(__file__).with_name("nnunet_trainers")
_CLIP = 12.0  # nnU-Net's own


class nnUNetTrainerRelCons(nnUNetTrainer):  # type: ignore[misc]
    r"""The paper's method in nnU-Net: a general encoder that sees source images too, and both relation losses.

    The network is the planned one as ``DualEncoderUNet(net, general="reset", fusion="concat")``. A
    step is one forward and one backward pass of nnU-Net's own segmentation loss plus
    [`RelationLoss`][relcons.RelationLoss]; $\lambda$ follows from epoch and iteration, so that a
    training continued with ``--c`` has the right one. The training loss in the log is the
    segmentation loss alone, comparable with the validation loss; $\lambda$ times each term stands
    beside it. Gradients are clipped at 12, as in nnU-Net, for the general encoder and for target
    encoder with decoder apart.

    Environment:
        RELCONS_SOURCE: id or name of the source data set, preprocessed with the target's plans; its
            labels are not used.
        RELCONS_START: checkpoint of a stock nnU-Net that target encoder and decoder start from.

    Attributes:
        general: whether $L_G$ is used, and with it the source data set.
        target: whether $L_T$ is used.
        freeze_general: whether the general encoder stays as it was drawn.
        peak: $\lambda$ at the end of training.
        reduction: of the relation distance, see
            [`relation_distance`][relcons.functional.relation_distance]. ``"row_mean"`` keeps the
            meaning of one $\lambda$ over the widths that nnU-Net plans; the paper prints ``"sum"``.

    Raises:
        ValueError: before training, where the source data set or the checkpoint cannot be used.

    Source: Zhang et al. 2021, Algorithm 1; Isensee et al., "nnU-Net", Nature Methods 2021.
    """

    general: ClassVar[bool] = True
    target: ClassVar[bool] = True
    freeze_general: ClassVar[bool] = False
    peak: ClassVar[float] = 0.1
    reduction: ClassVar[Reduction] = "row_mean"

    dataloader_source: Any = None
    relation: RelationLoss | None = None
    current_iteration = 0

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The planned network with a general encoder; training and prediction both build it here."""
        net = nnUNetTrainer.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        return DualEncoderUNet(net, general="reset", fusion="concat", outputs="native")

    def configure_optimizers(self) -> Any:
        """nnU-Net's optimiser and schedule; called before the network is wrapped for several processes."""
        if self.freeze_general:
            self.model.freeze_general()
        return super().configure_optimizers()

    @property
    def model(self) -> DualEncoderUNet:
        """The network without the wrappers of torch.compile and DistributedDataParallel."""
        network = self.network
        for wrapper in ("module", "_orig_mod"):
            network = getattr(network, wrapper, network)
        return network  # type: ignore[no-any-return]

    def on_train_start(self) -> None:
        """Check source data set and checkpoint before anything is trained."""
        if not self.was_initialized:
            self.initialize()
        source = find_source(self) if self.general else None
        if os.environ.get(START) and self.current_epoch == 0:
            self._start_from(os.environ[START])
        if self.general or self.target:
            self.relation = self._build_relation()
        for name in self._logged():
            self.logger.local_logger.my_fantastic_logging.setdefault(name, [])
        super().on_train_start()
        if source is not None:
            self.print_to_log_file(f"Source data set: {source.folder}")
            self.dataloader_source = source_batches(self, source)
            next(self.dataloader_source)  # starts the workers

    def on_train_epoch_start(self) -> None:
        """Count iterations from the epoch's first."""
        self.current_iteration = 0
        super().on_train_epoch_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One optimiser step on a batch of the target data set and one of the source data set."""
        data, target = self._to_device(batch["data"]), self._to_device(batch["target"])
        source = self._to_device(next(self.dataloader_source)["data"]) if self.general else None
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            if self.relation is None:
                segmentation, terms = self.loss(self.network(data), target), None
                total = segmentation
            else:
                self.relation.step(self.current_epoch * self.num_iterations_per_epoch + self.current_iteration)
                output = self.network(data, source=source, features=True)
                segmentation, terms = self.loss(output.logits, target), self.relation.terms(output)
                total = segmentation + terms.total
        self._step(total)
        self.current_iteration += 1
        return {"loss": segmentation.detach().cpu().numpy(), **self._weighted(terms)}

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log lambda times each relation term, as means over the epoch (of this process)."""
        super().on_train_epoch_end(train_outputs)
        for name in self._logged():
            mean = float(np.mean([output[name] for output in train_outputs]))
            self.logger.log(name, mean, self.current_epoch)
            self.print_to_log_file(name, f"{mean:.6f}")

    def on_train_end(self) -> None:
        """Stop the source loader's workers too."""
        super().on_train_end()
        if hasattr(self.dataloader_source, "_finish"):
            self.dataloader_source._finish()

    def _build_relation(self) -> RelationLoss:
        schedule = GaussianRampUp(self.num_epochs * self.num_iterations_per_epoch, peak=self.peak)
        relation = GramRelation(sync=self.is_ddp)
        return RelationLoss(schedule, self.general, self.target, relation, self.reduction).to(self.device)

    def _start_from(self, path: str) -> None:
        left = load_start(self.model, read_weights(path))
        self.print_to_log_file(f"Target encoder and decoder start from {path}; not in it, or of another shape: {left}")

    def _step(self, loss: Tensor) -> None:
        scaler = self.grad_scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        for parameters in self.model.clip_sets():
            torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()

    def _autocast(self) -> AbstractContextManager[Any]:
        # As nnU-Net: half precision pays on CUDA only.
        return torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()

    def _to_device(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._to_device(entry) for entry in value]
        return value.to(self.device, non_blocking=True)

    def _logged(self) -> list[str]:
        used = {"relation_general": self.general, "relation_target": self.target}
        return [name for name, wanted in used.items() if wanted]

    def _weighted(self, terms: RelationTerms | None) -> dict[str, Any]:
        """Lambda times each term, under the names of the log."""
        if terms is None:
            return {}
        named = {"relation_general": terms.general, "relation_target": terms.target}
        return {name: (terms.weight * term).detach().cpu().numpy() for name, term in named.items() if term is not None}


class nnUNetTrainerRelConsBaseline(nnUNetTrainerRelCons):
    """Ablation: the same network, the general encoder frozen as it was drawn, no relation loss, no source."""

    general = False
    target = False
    freeze_general = True


class nnUNetTrainerRelConsGeneral(nnUNetTrainerRelCons):
    """Ablation: the general consistency loss alone."""

    target = False


class nnUNetTrainerRelConsTarget(nnUNetTrainerRelCons):
    """Ablation: the target loss alone, the general encoder frozen as it was drawn, no source."""

    general = False
    freeze_general = True


if __name__ == "__main__":
    print(TRAINERS)
