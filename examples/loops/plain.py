"""The training loop in plain PyTorch."""

# --8<-- [start:train]
from discs import batches, build, make_optimizer, show


def train(seed: int = 0) -> list[float]:
    """Train for one epoch; the loss of every step."""
    model, segmentation, relation = build(seed)
    optimizer = make_optimizer(model.parameters())
    losses = []
    for batch in batches():
        out = model(batch["image"], source=batch["source"])
        loss = segmentation(out.logits, batch["mask"]) + relation(out)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        relation.step()
        losses.append(loss.item())
    return losses


# --8<-- [end:train]


if __name__ == "__main__":
    show(train())
