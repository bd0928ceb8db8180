"""Two gloo processes under DistributedDataParallel against one process on the joined batch."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from relcons import GramRelation, RelationLoss, SampleRelation
from relcons.functional import relation_matrix

pytestmark = pytest.mark.slow  # two processes that each import torch

SPLITS = {"equal": (2, 2), "unequal": (3, 1)}
DTYPES = {"float64": torch.float64, "float32": torch.float32}
SPATIAL = {"1d": (6,), "2d": (4, 3), "3d": (3, 2, 2)}


class Encoders(nn.Module):
    """What the loss reads, from a pair of encoders that DistributedDataParallel can wrap."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.general = nn.Sequential(nn.Linear(2, 5), nn.Tanh())
        self.target = nn.Sequential(nn.Linear(2, 5), nn.Tanh())
        self.to(dtype)

    def forward(self, x: Tensor, source: Tensor) -> dict[str, tuple[Tensor, ...]]:
        moved = x.movedim(1, -1), source.movedim(1, -1)
        target, general, other = self.target(moved[0]), self.general(moved[0]), self.general(moved[1])
        return {name: (m.movedim(-1, 1),) for name, m in (("target", target), ("general", general), ("source", other))}


class Output:
    """The attributes that RelationLoss asks for."""

    def __init__(self, fields: dict[str, tuple[Tensor, ...]]) -> None:
        self.target, self.general, self.source = fields["target"], fields["general"], fields["source"]


def batches(spatial: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x, source = torch.randn(2, 4, 2, *spatial, generator=generator, dtype=torch.float64).to(dtype)
    return x, source


def loss_of(model: nn.Module, x: Tensor, source: Tensor, sync: bool, kind: type[nn.Module] = GramRelation) -> Tensor:
    relation = RelationLoss(weight=0.5, target=0.25, relation=kind(sync=sync))
    return relation(Output(model(x, source)))


def curvature(features: Tensor, relation: nn.Module) -> tuple[Tensor, Tensor]:
    """A gradient of features, and the gradient of its square: a gradient penalty's."""
    (grad,) = torch.autograd.grad(relation(features).pow(3).sum(), features, create_graph=True)
    return grad, torch.autograd.grad(grad.square().sum(), features)[0]


def run_cases(rank: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for split, sizes in SPLITS.items():
        rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        for kind, dtype in DTYPES.items():
            for dimensions, spatial in SPATIAL.items():
                x, source = batches(spatial, dtype)
                for sync in (True, False):
                    model = DistributedDataParallel(Encoders(dtype))
                    loss = loss_of(model, x[rows], source[rows], sync)
                    loss.backward()
                    grads = {name: p.grad for name, p in model.module.named_parameters()}
                    found[f"{split} {kind} {dimensions} {sync}"] = loss.item(), grads
                model = DistributedDataParallel(Encoders(dtype))
                loss = loss_of(model, x[rows], source[rows], True, SampleRelation)
                loss.backward()
                grads = {name: p.grad for name, p in model.module.named_parameters()}
                found[f"{split} {kind} {dimensions} samples"] = loss.item(), grads
        x = batches((6,), torch.float64)[0][rows]
        evaluated = GramRelation(sync=True).eval()(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = GramRelation(sync=True)(x.float())
        half = GramRelation(sync=True)(x.half())
        found[split] = {"evaluated": evaluated, "alone": relation_matrix(x), "cast": cast, "half": half}
        found[f"{split} samples curvature"] = curvature(x.clone().requires_grad_(), SampleRelation(sync=True))
        try:
            found[f"{split} curvature"] = curvature(x.clone().requires_grad_(), GramRelation(sync=True))
        except RuntimeError as error:
            found[f"{split} curvature"] = str(error)
    return found


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.save(run_cases(rank), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def joined(kind: str, dimensions: str, relation: type[nn.Module] = GramRelation) -> tuple[float, dict[str, Tensor]]:
    model = Encoders(DTYPES[kind])
    loss = loss_of(model, *batches(SPATIAL[dimensions], DTYPES[kind]), False, relation)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


def difference(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference of gradients, relative to the largest gradient of its tensor."""
    return max(float((actual[n] - g).abs().max() / g.abs().max()) for n, g in expected.items())


@pytest.mark.parametrize("split", list(SPLITS))
@pytest.mark.parametrize("kind", list(DTYPES))
@pytest.mark.parametrize("dimensions", list(SPATIAL))
def test_reference(ranks, split, kind, dimensions):
    expected, expected_grads = joined(kind, dimensions)
    for rank in ranks:
        loss, grads = rank[f"{split} {kind} {dimensions} True"]
        assert loss == pytest.approx(expected, rel=1e-6)
        assert difference(grads, expected_grads) < {"float64": 1e-9, "float32": 1e-5}[kind]
        loss, grads = rank[f"{split} {kind} {dimensions} False"]
        assert difference(grads, expected_grads) > 1e-3


@pytest.mark.parametrize("split", list(SPLITS))
@pytest.mark.parametrize("kind", list(DTYPES))
@pytest.mark.parametrize("dimensions", list(SPATIAL))
def test_reference_of_samples(ranks, split, kind, dimensions):
    expected, expected_grads = joined(kind, dimensions, SampleRelation)
    for rank in ranks:
        loss, grads = rank[f"{split} {kind} {dimensions} samples"]
        assert loss == pytest.approx(expected, rel=1e-6)
        assert difference(grads, expected_grads) < {"float64": 1e-9, "float32": 1e-5}[kind]


@pytest.mark.parametrize("split", list(SPLITS))
def test_double_backward_of_samples(ranks, split):
    x = batches((6,), torch.float64)[0].requires_grad_()
    first, second = curvature(x, SampleRelation())
    sizes = SPLITS[split]
    for rank, rows in zip(ranks, (slice(0, sizes[0]), slice(sizes[0], None)), strict=True):
        found = rank[f"{split} samples curvature"]
        torch.testing.assert_close(found[0], 2 * first[rows])
        # Twice the joined loss in the gradient, and each process squares its own rows of it.
        torch.testing.assert_close(found[1], 4 * second[rows])


@pytest.mark.parametrize("split", list(SPLITS))
def test_evaluation_stays_local(ranks, split):
    for rank in ranks:
        torch.testing.assert_close(rank[split]["evaluated"], rank[split]["alone"])
    assert not torch.allclose(ranks[0][split]["evaluated"], ranks[1][split]["evaluated"])


@pytest.mark.parametrize("split", list(SPLITS))
def test_half(ranks, split):
    x = batches((6,), torch.float64)[0]
    for rank in ranks:
        assert rank[split]["cast"].dtype == rank[split]["half"].dtype == torch.float32
        torch.testing.assert_close(rank[split]["cast"], relation_matrix(x.float()))
        torch.testing.assert_close(rank[split]["half"], relation_matrix(x.half()))


@pytest.mark.parametrize("split", list(SPLITS))
def test_double_backward(ranks, split):
    """A second derivative through the synchronised mean is right or refused, never silently wrong."""
    x = batches((6,), torch.float64)[0].requires_grad_()
    first, second = curvature(x, GramRelation())
    start = 0
    for rank, size in zip(ranks, SPLITS[split], strict=True):
        if isinstance(found := rank[f"{split} curvature"], str):
            assert "once_differentiable" in found
            continue
        rows = slice(start, start + size)
        start += size
        torch.testing.assert_close(found[0], 2 * first[rows])
        # The mean is every process's, so gradients are those of the sum of both losses: twice the joined one,
        # and four times for its square.
        torch.testing.assert_close(found[1], 4 * second[rows])
