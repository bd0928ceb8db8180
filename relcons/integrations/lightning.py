"""A LightningModule of a multi-encoder model: automatic optimisation, since one backward suffices."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from relcons.losses import RelationLoss
from relcons.models.multi_encoder import MultiEncoderUNet

__all__ = ["RelConsModule"]


def _installed() -> Any:
    """Lightning's package: the one that the program has loaded already, since their modules do not mix."""
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in names:
        if sys.modules.get(name) is not None:
            return sys.modules[name]
    for name in names:
        if find_spec(name.partition(".")[0]) is not None:
            return import_module(name)
    raise ModuleNotFoundError(
        'relcons.integrations.lightning needs Lightning; pip install "relcons[lightning]"', name="pytorch_lightning"
    )


if TYPE_CHECKING:
    from pytorch_lightning import LightningModule
else:
    LightningModule = _installed().LightningModule


class RelConsModule(LightningModule):
    """A multi-encoder model with its losses, for Lightning's ``Trainer``.

    Training batches are dicts with ``image`` and ``mask``, ``source`` where the general term is on,
    and ``unlabelled`` where there are any (see the model's ``forward``). Logged in training:
    ``train/loss``, ``train/segmentation``, ``train/lambda``, ``train/general`` and ``train/target``
    (the last two without their weight); in validation ``val/loss`` and in testing ``test/loss``, the
    segmentation loss alone.
    Lambda advances with the optimiser's steps, not with batches, and is part of Lightning's
    checkpoints. A general encoder that no loss reaches must be frozen before: `freeze_general`.

    Works with the packages ``lightning`` and ``pytorch_lightning``; where both are installed, import
    the one that you use first.

    Args:
        model: [`DualEncoderUNet`][relcons.DualEncoderUNet] or
            [`MultiEncoderUNet`][relcons.MultiEncoderUNet].
        segmentation_loss: ``segmentation_loss(logits, mask)`` -> scalar, with what the model returns:
            under deep supervision a list in training, a tensor in validation.
        relation: the relation losses, or None for the segmentation loss alone.
        optimizer: gets ``parameter_groups()`` of what is trainable; returns an optimiser, or what else
            ``configure_optimizers`` may (schedulers, too).

    Raises:
        TypeError: ``model`` or ``relation`` is of another class, or a loss or ``optimizer`` cannot be
            called; a batch is not a dict.
        ValueError: a batch lacks a key that it needs.

    Source: Zhang et al. 2021, Algorithm 1.

    Examples:
        >>> import segmentation_models_pytorch as smp
        >>> module = RelConsModule(
        ...     DualEncoderUNet(smp.Unet("resnet18", encoder_weights=None, in_channels=1)),
        ...     smp.losses.DiceLoss("binary"),
        ...     RelationLoss(weight=GaussianRampUp(total_steps=1000)),
        ...     lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        ... )
        >>> [group["name"] for group in module.configure_optimizers().param_groups]
        ['general', 'target', 'decoder']
    """

    def __init__(
        self,
        model: MultiEncoderUNet,
        segmentation_loss: Callable[[Any, Tensor], Tensor],
        relation: RelationLoss | None,
        optimizer: Callable[[list[dict[str, Any]]], Any],
    ) -> None:
        super().__init__()
        if not isinstance(model, MultiEncoderUNet):
            raise TypeError(f"model must be a DualEncoderUNet or MultiEncoderUNet, got {type(model).__name__}")
        if relation is not None and not isinstance(relation, RelationLoss):
            raise TypeError(f"relation must be a RelationLoss or None, got {type(relation).__name__}")
        if not callable(segmentation_loss):
            raise TypeError(f"segmentation_loss must be called as (logits, mask), got {segmentation_loss!r:.60}")
        if isinstance(optimizer, type) or not callable(optimizer):
            raise TypeError(
                f"optimizer must be a function from parameter groups to an optimiser, got {optimizer!r:.60}; "
                "for example lambda groups: torch.optim.AdamW(groups, lr=1e-3)"
            )
        self.model = model
        self.segmentation_loss = segmentation_loss
        self.relation = relation
        self._make_optimizer = optimizer

    def forward(self, x: Tensor) -> Any:
        """Logits of ``x``."""
        return self.model(x)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """The Trainer's clipping, by norm for each of the model's ``clip_sets``."""
        if not gradient_clip_val or gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        # By Lightning's own way, which knows the precision: it refuses what cannot be clipped there.
        part_of = type(type(optimizer).__name__, (SimpleNamespace,), {})  # its messages name the class
        scales_itself = getattr(optimizer, "_step_supports_amp_scaling", False)
        for parameters in self.model.clip_sets():
            part = part_of(param_groups=[{"params": parameters}], _step_supports_amp_scaling=scales_itself)
            self.clip_gradients(part, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> Any:
        """What the factory makes of the trainable parameters."""
        groups = [
            {**group, "params": [parameter for parameter in group["params"] if parameter.requires_grad]}
            for group in self.model.parameter_groups()
        ]
        return self._make_optimizer([group for group in groups if group["params"]])

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Segmentation loss plus relation losses of one batch."""
        _check_batch(batch, "image", "mask", *self._source_key())
        output = self.model(
            batch["image"], source=batch.get("source"), unlabelled=batch.get("unlabelled"), features=True
        )
        loss = segmentation = self.segmentation_loss(output.logits, batch["mask"])
        logged = {"train/segmentation": segmentation}
        if self.relation is not None:
            terms = self.relation.terms(output)
            loss = segmentation + terms.total
            parts = {"lambda": terms.weight, "general": terms.general, "target": terms.target}
            logged |= {f"train/{name}": value for name, value in parts.items() if value is not None}
        self.log_dict({"train/loss": loss, **logged}, batch_size=len(batch["image"]))
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the schedule's step into every state of the checkpoint.

        Callbacks that average weights save a copy made before training, whose own step is the schedule's start.
        """
        if self.relation is None:
            return
        name = "relation._extra_state"
        for state in (checkpoint.get("state_dict"), checkpoint.get("current_model_state")):
            if state is not None and name in state:
                state[name] = self.relation.get_extra_state()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser's step, then the schedule's: once per step also where gradients are accumulated."""
        super().optimizer_step(*args, **kwargs)
        if self.relation is not None:
            self.relation.step()

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log ``val/loss`` of one batch with ``image`` and ``mask``."""
        self._evaluate("val/loss", batch)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log ``test/loss`` of one batch with ``image`` and ``mask``."""
        self._evaluate("test/loss", batch)

    def predict_step(self, batch: Tensor | Mapping[str, Any], batch_idx: int = 0, dataloader_idx: int = 0) -> Any:
        """Logits of a tensor of images, or of a batch with ``image``."""
        if isinstance(batch, Tensor):
            return self.model(batch)
        _check_batch(batch, "image")
        return self.model(batch["image"])

    def _evaluate(self, name: str, batch: Mapping[str, Any]) -> None:
        _check_batch(batch, "image", "mask")
        loss = self.segmentation_loss(self.model(batch["image"]), batch["mask"])
        self.log(name, loss, batch_size=len(batch["image"]), sync_dist=True)

    def _source_key(self) -> tuple[str, ...]:
        return ("source",) if self.relation is not None and self.relation.general is not None else ()


def _check_batch(batch: Any, *needed: str) -> None:
    if not isinstance(batch, Mapping):
        raise TypeError(f"batch must be a dict with {', '.join(needed)}, got {type(batch).__name__}")
    for name in needed:
        if name not in batch:
            fix = "; add source images, or use RelationLoss(general=False)" if name == "source" else ""
            raise ValueError(f"batch lacks {name!r}, it has {', '.join(map(str, batch)) or 'nothing'}{fix}")
