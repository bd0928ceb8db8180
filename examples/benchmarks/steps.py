"""One training step in four ways: the least work there is, the port, and relcons; each a function of a batch."""

import copy
from collections.abc import Callable

import torch
from networks import Batch, segmentation_loss
from torch import Tensor, nn
from torch.nn.functional import normalize

from relcons import DualEncoderUNet, RelationLoss, split_unet

WEIGHT = 0.1
Step = Callable[[Batch], object]


def sgd(module: nn.Module) -> torch.optim.SGD:
    """Optimiser of the paper's 2D network."""
    return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)


def floor_step(net: nn.Module, together: bool) -> Step:
    """The plain network's step, then the general encoder forward and backward on its batches, with no update.

    Unlabelled images take the same passes through an encoder twice, the general and the target one.
    `together`: all batches in one pass through the general encoder, or one after the other.
    """
    net = copy.deepcopy(net)
    general = copy.deepcopy(split_unet(net).encoder)
    target = copy.deepcopy(general)
    optimizer = sgd(net)

    def step(batch: Batch) -> None:
        segmentation_loss(net(batch.x), batch.y).backward()
        optimizer.step()
        optimizer.zero_grad()
        more = [] if batch.unlabelled is None else [batch.unlabelled]
        inputs = [batch.x, batch.source, *more]
        passes = [(general, images) for images in ([torch.cat(inputs)] if together else inputs)]
        passes += [(target, images) for images in more]
        bottlenecks = [encoder(images)[-1] for encoder, images in passes]
        torch.autograd.backward(bottlenecks, [torch.ones_like(bottleneck) for bottleneck in bottlenecks])
        general.zero_grad()
        target.zero_grad()

    return step


def relcons_step(model: DualEncoderUNet) -> Step:
    """The whole method: one forward, one backward, one update."""
    relation = RelationLoss(WEIGHT)
    optimizer = sgd(model)

    def step(batch: Batch) -> None:
        output = model(batch.x, source=batch.source, unlabelled=batch.unlabelled)
        loss = segmentation_loss(output.logits, batch.y) + relation(output)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def port_step(model: DualEncoderUNet) -> Step:
    """Algorithm 1 line by line on the modules of `model`: a pass for each encoder and batch, three backward passes."""
    optimizer = sgd(model)
    general = [p for p in model.general_encoder.parameters() if p.requires_grad]
    target = [p for p in model.target_encoder.parameters() if p.requires_grad]
    decoder = [p for module in (model.decoder, model.head) for p in module.parameters() if p.requires_grad]

    def step(batch: Batch) -> None:
        on_source = model.general_encoder(batch.source)[-1]
        on_target = model.general_encoder(batch.x)[-1]
        maps = model.target_encoder(batch.x)
        logits = model.head(model.decoder([*maps[:-1], torch.cat([maps[-1], on_target.detach()], dim=1)]))

        own = maps[-1]
        if batch.unlabelled is not None:
            on_target = torch.cat([on_target, model.general_encoder(batch.unlabelled)[-1]])
            own = torch.cat([own, model.target_encoder(batch.unlabelled)[-1]])
        consistency = WEIGHT * (gram_relation(on_source) - gram_relation(on_target)).square().sum()
        difference = -WEIGHT * (gram_relation(on_target).detach() - gram_relation(own)).square().sum()
        segmentation = segmentation_loss(logits, batch.y)

        general_gradients = torch.autograd.grad(consistency, general)
        relation_gradients = torch.autograd.grad(difference, target, retain_graph=True)
        gradients = torch.autograd.grad(segmentation, [*target, *decoder])
        for parameter, gradient in zip([*general, *target, *decoder], [*general_gradients, *gradients], strict=True):
            parameter.grad = gradient
        for parameter, gradient in zip(target, relation_gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        optimizer.step()
        optimizer.zero_grad()

    return step


def gram_relation(features: Tensor) -> Tensor:
    """Gram matrix of the batch mean with rows of norm 1, by plain operations."""
    mean = features.mean(0).flatten(1)
    return normalize(mean @ mean.T, dim=1)
