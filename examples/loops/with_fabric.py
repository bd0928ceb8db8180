"""The training loop in Lightning Fabric: devices, processes and precision are its arguments (here one device)."""

# --8<-- [start:train]
from collections.abc import Iterable
from typing import cast

from discs import batches, build, make_optimizer, show
from lightning_fabric import Fabric
from torch import Tensor


def train(seed: int = 0, accelerator: str = "auto") -> list[float]:
    """Train for one epoch; the loss of every step."""
    fabric = Fabric(accelerator=accelerator, devices=1)
    fabric.launch()
    model, segmentation, relation = build(seed)
    model, optimizer = fabric.setup(model, make_optimizer(model.parameters()))
    relation.to(fabric.device)
    losses = []
    loader = cast(Iterable[dict[str, Tensor]], fabric.setup_dataloaders(batches()))
    for batch in loader:
        out = model(batch["image"], source=batch["source"])
        loss = segmentation(out.logits, batch["mask"]) + relation(out)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        relation.step()
        losses.append(loss.item())
    return losses


# --8<-- [end:train]


if __name__ == "__main__":
    show(train())
