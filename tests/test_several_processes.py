"""Whole models in two gloo processes, under DistributedDataParallel and FSDP2, against one process.

All in float64. Batch norm computes over each process's own batch (torch has SyncBatchNorm for GPUs alone), so
networks that have it are compared with its statistics fixed, and trained as they are without comparison.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from relcons import DualEncoderUNet, GradientRouter, GramRelation, RelationLoss, UNetParts
from tests.models.networks import BATCH_NORMS, SMP, dna_net, nested_case, quiet, smp_net

pytestmark = pytest.mark.slow  # two processes that each import torch

RANKS = 2
NETWORKS: dict[str, tuple[Callable[[], nn.Module | UNetParts], int]] = {
    "smp": (lambda: smp_net("Unet", **SMP["Unet"]), 32),
    "dna-2D": (lambda: dna_net(axes=2), 16),
    "cut": (nested_case(2).build, 8),
}
WHOLE = ("smp", "dna-2D")  # every mode; the other, whose encoder runs inside of the decoder's pass, once each way


@dataclass(frozen=True)
class Mode:
    """A way to train: the relation terms, and what `DualEncoderUNet` is asked for."""

    general: bool = True
    target: bool = True
    frozen: bool = False
    unlabelled: bool = False
    route: str = "paper"
    fusion: str = "concat"

    def relation(self, sync: bool) -> RelationLoss | None:
        if not (self.general or self.target):
            return None
        return RelationLoss(0.5, self.general, self.target, GramRelation(sync=sync))


MODES = {
    "both": Mode(),
    "project": Mode(fusion="project"),
    "unlabelled": Mode(unlabelled=True),
    "joint": Mode(route="joint"),
    "general alone": Mode(target=False),
    "target alone": Mode(general=False, frozen=True),
    "neither": Mode(general=False, target=False, frozen=True),
    "joint, neither": Mode(general=False, target=False, route="joint"),
}


def build(network: str, mode: Mode, fixed: bool = True) -> DualEncoderUNet:
    torch.manual_seed(3)
    model = DualEncoderUNet(NETWORKS[network][0](), general="reset", fusion=mode.fusion, route=mode.route).double()
    quiet(model)
    model.freeze_general(mode.frozen)
    model.train()
    for layer in model.modules():
        if fixed and isinstance(layer, BATCH_NORMS):
            layer.eval()
    return model


def batch(network: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    side = NETWORKS[network][1]
    x, source, unlabelled = torch.randn(3, 4, 1, side, side, generator=generator, dtype=torch.float64)
    return {"x": x, "source": source + 0.3, "unlabelled": unlabelled}


def rows(joined: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    return {name: values[2 * rank : 2 * rank + 2] for name, values in joined.items()}


def segmentation(logits: Any, x: Tensor) -> Tensor:
    """A loss that is a mean over samples."""
    outputs = logits if isinstance(logits, list) else [logits]
    return sum((output - x.mean((2, 3), keepdim=True) - 0.5).square().mean() for output in outputs)


def losses(model: nn.Module, mode: Mode, part: dict[str, Tensor], sync: bool) -> dict[str, Tensor]:
    relation = mode.relation(sync)
    if relation is None:
        return {"segmentation": segmentation(model(part["x"]), part["x"])}
    extra = {"source": part["source"]} if mode.general else {}
    extra |= {"unlabelled": part["unlabelled"]} if mode.unlabelled else {}
    out = model(part["x"], **extra, features=True)
    return {"segmentation": segmentation(out.logits, part["x"]), "relation": relation(out)}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            grad = parameter.grad
            found[name.removeprefix("module.")] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
    return found


def backward(model: nn.Module, mode: Mode, part: dict[str, Tensor], sync: bool) -> dict[str, Tensor]:
    """Gradients of a second step: what a first one leaves unfinished shows in the second."""
    for _ in range(2):
        model.zero_grad()
        sum(losses(model, mode, part, sync).values()).backward()
    return gradients(model)


def by_router(model: DistributedDataParallel, part: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same by the router, with all three losses on their routes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    router = GradientRouter(optimizer, model.module.routes(), model=model)
    relation = RelationLoss(0.5, relation=GramRelation(sync=True))
    for _ in range(2):
        model.zero_grad()
        out = model(part["x"], source=part["source"])
        terms = relation.terms(out)
        parts = {"general": 0.5 * terms.general, "target": 0.5 * terms.target}
        router.backward({"segmentation": segmentation(out.logits, part["x"]), **parts})
    return gradients(model)


def shard(model: DualEncoderUNet) -> DualEncoderUNet:
    for module in (model.general_encoder, model.target_encoder, model.decoder):
        fully_shard(module)
    fully_shard(model)
    return model


def errors(part: dict[str, Tensor]) -> dict[str, str]:
    """What is refused, by torch itself or by the router."""
    mode = MODES["target alone"]
    unfrozen = DistributedDataParallel(build("dna-2D", Mode(general=False)))
    model = DistributedDataParallel(build("dna-2D", mode))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainable = {"segmentation": [model.module.target_encoder, model.module.decoder]}
    router = GradientRouter(optimizer, trainable | {"target": ["target_encoder"]}, model=model)
    sharded = shard(build("dna-2D", MODES["both"]))

    def backward_of_one() -> None:
        router.backward({"target": losses(model, mode, part, False)["relation"]})

    with model.no_sync():
        backward_of_one()
    calls: dict[str, Callable[[], object]] = {
        "unfrozen": lambda: backward(unfrozen, Mode(general=False), part, False),
        "route": lambda: GradientRouter(optimizer, {"target": ["target_encoder"]}, model=model),
        "loss": backward_of_one,
        "sharded": lambda: GradientRouter(torch.optim.SGD(sharded.parameters(), lr=0.1), sharded.routes()),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except (RuntimeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def step(model: nn.Module) -> dict[str, Tensor]:
    """Parameters after a step with the gradients that are there."""
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return {name: p.full_tensor().detach() for name, p in model.named_parameters()}


def results(rank: int) -> Iterator[tuple[str, Any]]:
    both, alone = MODES["both"], MODES["target alone"]
    part, project = rows(batch("cut"), rank), MODES["project"]
    yield "cut project True", backward(DistributedDataParallel(build("cut", project)), project, part, True)
    model = build("cut", project)
    fully_shard(model)
    yield "cut sharded", backward(model, project, part, True)
    yield "cut step", step(model)
    for network in WHOLE:
        part = rows(batch(network), rank)
        for name, mode in MODES.items():
            for sync in (True, False):
                model = DistributedDataParallel(build(network, mode))
                yield f"{network} {name} {sync}", backward(model, mode, part, sync)
        model = DistributedDataParallel(build(network, both, fixed=False))
        yield f"{network} in training", backward(model, both, part, True)
        model = DistributedDataParallel(build(network, both))
        yield f"{network} router", by_router(model, part)
        yield f"{network} sharded, frozen", backward(shard(build(network, alone)), alone, part, True)
        model = shard(build(network, both))
        yield f"{network} sharded", backward(model, both, part, True)
        yield f"{network} step", step(model)
    yield "errors", errors(part)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    torch.save(dict(results(rank)), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def joined(network: str, mode: Mode) -> dict[str, Tensor]:
    """Gradients of one process on the batches of all."""
    return backward(build(network, mode), mode, batch(network), sync=False)


def averaged(network: str, mode: Mode) -> dict[str, Tensor]:
    """The mean over processes of the gradient of each one's own losses."""
    own = [backward(build(network, mode), mode, rows(batch(network), rank), sync=False) for rank in range(RANKS)]
    return {name: torch.stack([grads[name] for grads in own]).mean(0) for name in own[0]}


def difference(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference of gradients, relative to the largest gradient of its tensor (or nearly 0 everywhere)."""
    assert actual.keys() == expected.keys()
    largest = max(float(grad.abs().max()) for grad in expected.values())
    return max(
        float((actual[name] - grad).abs().max() / grad.abs().max().clamp(min=1e-9 * largest))
        for name, grad in expected.items()
    )


every_network = pytest.mark.parametrize("network", WHOLE)


@every_network
@pytest.mark.parametrize("name", list(MODES))
def test_synchronised_relations_are_those_of_the_joined_batch(ranks, network, name):
    expected = joined(network, MODES[name])
    for rank in ranks:
        assert difference(rank[f"{network} {name} True"], expected) < 1e-6


@every_network
@pytest.mark.parametrize("name", list(MODES))
def test_by_default_each_process_relates_its_own_batch(ranks, network, name):
    expected = averaged(network, MODES[name])
    for rank in ranks:
        assert difference(rank[f"{network} {name} False"], expected) < 1e-6
    if MODES[name].relation(sync=False) is not None:
        assert difference(expected, joined(network, MODES[name])) > 1e-3


@every_network
def test_batch_norm_trains(ranks, network):
    expected = joined(network, MODES["both"])
    for rank in ranks:
        assert rank[f"{network} in training"].keys() == expected.keys()
        assert all(grad.isfinite().all() for grad in rank[f"{network} in training"].values())
    assert difference(*(rank[f"{network} in training"] for rank in ranks)) == 0


@every_network
def test_frozen_general_encoders_take_no_part(ranks, network):
    for name, mode in MODES.items():
        reached = any(key.startswith("general_encoders") for key in ranks[0][f"{network} {name} True"])
        assert reached == (not mode.frozen)


@every_network
def test_router(ranks, network):
    expected = joined(network, MODES["both"])
    for rank in ranks:
        assert difference(rank[f"{network} router"], expected) < 1e-6


@every_network
@pytest.mark.parametrize(("case", "name"), [("sharded", "both"), ("sharded, frozen", "target alone")])
def test_fully_shard(ranks, network, case, name):
    expected = joined(network, MODES[name])
    for rank in ranks:
        assert difference(rank[f"{network} {case}"], expected) < 1e-6


def test_cut_network(ranks):
    """Under DistributedDataParallel, and under `fully_shard` of the whole alone."""
    expected = joined("cut", MODES["project"])
    for rank in ranks:
        assert difference(rank["cut project True"], expected) < 1e-6
        assert difference(rank["cut sharded"], expected) < 1e-6


@pytest.mark.parametrize(("network", "name"), [("smp", "both"), ("dna-2D", "both"), ("cut", "project")])
def test_fully_sharded_step(ranks, network, name):
    model = build(network, MODES[name])
    backward(model, MODES[name], batch(network), sync=False)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for rank in ranks:
        assert rank[f"{network} step"].keys() == dict(model.named_parameters()).keys()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(rank[f"{network} step"][name], parameter.detach(), rtol=1e-8, atol=1e-10)


def test_exception(ranks):
    wait = (
        "ValueError: {} leave .* trainable parameters without a gradient .* first.*DistributedDataParallel would wait"
    )
    texts = {
        "unfrozen": "RuntimeError: Expected to have finished reduction",
        "route": wait.format("routes") + "; put every trainable parameter on a route, or freeze the others",
        "loss": wait.format("losses") + r"; pass all losses in one call, or accumulate in model.no_sync\(\)",
        "sharded": "ValueError: route 'segmentation' holds sharded parameters: FSDP2 .*call backward",
    }
    for rank in ranks:
        assert rank["errors"].keys() == texts.keys()
        for name, text in texts.items():
            assert re.match(text, rank["errors"][name]), rank["errors"][name]
