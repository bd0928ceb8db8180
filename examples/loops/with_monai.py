"""The training loop in MONAI's SupervisedTrainer: `prepare_batch` hands the source images to the model."""

# --8<-- [start:train]
from typing import Any

import torch
from discs import batches, build, make_optimizer, show
from ignite.engine import Engine
from monai.engines.trainer import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor


def prepare_batch(
    batch: dict[str, Tensor], device: torch.device, non_blocking: bool, **kwargs: object
) -> tuple[Tensor, Tensor, tuple[()], dict[str, Tensor]]:
    """What SupervisedTrainer passes on: input, target, and further arguments of the model."""
    image, mask, source = (batch[name].to(device, non_blocking=non_blocking) for name in ("image", "mask", "source"))
    return image, mask, (), {"source": source}


def train(seed: int = 0, device: str = "cpu") -> list[float]:
    """Train for one epoch; the loss of every step."""
    model, segmentation, relation = build(seed)
    model, relation = model.to(device), relation.to(device)
    optimizer = make_optimizer(model.parameters())
    # Counts steps of the optimiser, so it stays right with SupervisedTrainer(accumulation_steps=...).
    optimizer.register_step_post_hook(lambda *_: relation.step())
    losses: list[float] = []
    trainer = SupervisedTrainer(
        device=torch.device(device),
        max_epochs=1,
        train_data_loader=batches(),
        network=model,
        optimizer=optimizer,
        loss_function=lambda out, mask: segmentation(out.logits, mask) + relation(out),
        prepare_batch=prepare_batch,
        decollate=False,  # the model's output is no tensor that could be taken apart into samples
    )

    @trainer.on(IterationEvents.MODEL_COMPLETED)
    def keep(engine: Engine) -> None:
        output: Any = engine.state.output
        losses.append(output["loss"].item())

    trainer.run()
    return losses


# --8<-- [end:train]


if __name__ == "__main__":
    show(train())
