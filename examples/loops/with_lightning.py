"""The training loop in Lightning: `RelConsModule` and its `Trainer`."""

# --8<-- [start:train]
from typing import Any

from discs import batches, build, make_optimizer, show
from pytorch_lightning import Callback, LightningModule, Trainer

from relcons.integrations.lightning import RelConsModule


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.values.append(outputs["loss"].item())


def train(seed: int = 0, accelerator: str = "auto") -> list[float]:
    """Train for one epoch; the loss of every step."""
    losses = Losses()
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=1,
        callbacks=[losses],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(RelConsModule(*build(seed), make_optimizer), batches())
    return losses.values


# --8<-- [end:train]


if __name__ == "__main__":
    show(train())
