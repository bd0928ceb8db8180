"""relcons.relations: the module agrees with the function and survives what modules go through."""

import copy
import multiprocessing
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from relcons import GramRelation, SampleRelation, SpatialRelation
from relcons.functional import relation_matrix, sample_relation, spatial_relation
from tests import reference

SHAPES = [(2, 4, 7), (3, 4, 5, 2), (2, 4, 3, 2, 2)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["1d", "2d", "3d"])
every_batch = pytest.mark.parametrize("batch", ["mean", "none"])


class TestGramRelation:
    @every_shape
    @every_batch
    @pytest.mark.parametrize("center", [False, True])
    def test_smoke(self, shape, batch, center):
        features = torch.randn(shape)
        expected = relation_matrix(features, batch=batch, center=center)
        assert torch.equal(GramRelation(batch=batch, center=center)(features), expected)

    def test_defaults(self):
        relation = GramRelation()
        assert (relation.batch, relation.center, relation.sync, relation.eps) == ("mean", False, False, 1e-6)
        assert repr(relation) == "GramRelation(batch='mean', center=False, sync=False, eps=1e-06)"
        assert not list(relation.parameters())
        assert not relation.state_dict()

    def test_exception(self):
        with pytest.raises(ValueError, match="batch must be one of 'mean', 'none', got 'sum'"):
            GramRelation(batch="sum")
        for eps in (-1.0, 1.0, float("nan")):
            with pytest.raises(ValueError, match=r"eps must be in \[0, 1\), got .*; the default is 1e-6"):
                GramRelation(eps=eps)
        with pytest.raises(ValueError, match='sync=True needs batch="mean": with batch="none" no sample needs another'):
            GramRelation(batch="none", sync=True)
        with pytest.raises(ValueError, match=r"features must be \(B, C, \*spatial\)"):
            GramRelation()(torch.ones(3, 4))
        with pytest.raises(TypeError, match="features must be floating point"):
            GramRelation()(torch.ones(1, 3, 4, dtype=torch.int32))

    @every_shape
    def test_cardinality(self, shape):
        assert GramRelation()(torch.randn(shape)).shape == (4, 4)
        assert GramRelation(batch="none")(torch.randn(shape)).shape == (shape[0], 4, 4)

    @every_shape
    def test_reference(self, shape):
        features = torch.randn(shape, dtype=torch.float64)
        features[:, 1] *= 0.04
        loops = torch.tensor(reference.relation(features.numpy(), eps=0.1), dtype=torch.float64)
        assert not loops[1].any()
        torch.testing.assert_close(GramRelation(eps=0.1)(features), loops, rtol=0, atol=1e-13)
        loops = torch.tensor(reference.relation(features.numpy()), dtype=torch.float64)
        torch.testing.assert_close(GramRelation()(features), loops, rtol=0, atol=1e-13)

    @every_shape
    @every_batch
    def test_gradcheck(self, shape, batch):
        features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert gradcheck(GramRelation(batch=batch), features)
        assert gradgradcheck(GramRelation(batch=batch), features)

    @every_shape
    def test_compile(self, shape):
        torch._dynamo.reset()
        features = torch.randn(shape, requires_grad=True)
        relation = GramRelation()
        compiled = torch.compile(relation, backend="aot_eager", fullgraph=True)
        weights = torch.randn(4, 4)
        torch.testing.assert_close(compiled(features), relation(features))
        torch.testing.assert_close(
            torch.autograd.grad(compiled(features), features, weights),
            torch.autograd.grad(relation(features), features, weights),
        )

    @pytest.mark.parametrize("training", [True, False])
    def test_sync_alone(self, training):
        """Without a process group sync changes nothing: the same script runs in one process."""
        features = torch.randn(3, 4, 5)
        relation = GramRelation(sync=True).train(training)
        assert torch.equal(relation(features), GramRelation()(features))

    def test_copies(self):
        features = torch.randn(2, 4, 5)
        relation = GramRelation(batch="none", eps=0.3)
        for twin in (copy.deepcopy(relation), pickle.loads(pickle.dumps(relation)), nn.Sequential(relation)[0]):
            assert torch.equal(twin(features), relation(features))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half(self, dtype):
        features = torch.randn(2, 4, 50)
        relation = GramRelation().to(dtype)
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(relation(features), relation_matrix(features))
        assert relation(features.to(dtype)).dtype == torch.float32


class TestSampleRelation:
    @every_shape
    def test_smoke(self, shape):
        features = torch.randn(shape)
        assert torch.equal(SampleRelation()(features), sample_relation(features))

    def test_defaults(self):
        relation = SampleRelation()
        assert (relation.sync, relation.eps) == (False, 1e-6)
        assert repr(relation) == "SampleRelation(sync=False, eps=1e-06)"
        assert not relation.state_dict()

    def test_exception(self):
        with pytest.raises(ValueError, match=r"eps must be in \[0, 1\), got -1.0; the default is 1e-6"):
            SampleRelation(eps=-1.0)
        with pytest.raises(ValueError, match=r"features must be \(B, C, \*spatial\)"):
            SampleRelation()(torch.ones(3, 4))

    @every_shape
    def test_cardinality(self, shape):
        assert SampleRelation()(torch.randn(shape)).shape == (shape[0], shape[0])

    @every_shape
    def test_reference(self, shape):
        features = torch.randn(shape, dtype=torch.float64)
        features[1] *= 0.04
        loops = torch.tensor(reference.samples(features.numpy(), eps=0.3), dtype=torch.float64)
        assert not loops[1].any()
        torch.testing.assert_close(SampleRelation(eps=0.3)(features), loops, rtol=0, atol=1e-13)

    @every_shape
    def test_gradcheck(self, shape):
        features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert gradcheck(SampleRelation(), features)

    @pytest.mark.parametrize("training", [True, False])
    def test_sync_alone(self, training):
        features = torch.randn(3, 4, 5)
        assert torch.equal(SampleRelation(sync=True).train(training)(features), SampleRelation()(features))


class TestSpatialRelation:
    @every_shape
    def test_smoke(self, shape):
        features = torch.randn(shape)
        assert torch.equal(SpatialRelation(size=2)(features), spatial_relation(features, size=2))

    def test_defaults(self):
        assert repr(SpatialRelation()) == "SpatialRelation(size=16)"
        assert repr(SpatialRelation(size=[4, 3])) == "SpatialRelation(size=(4, 3))"
        assert not SpatialRelation().state_dict()

    def test_exception(self):
        for size, error in ((0, ValueError), ((4, -1), ValueError), (2.0, TypeError), ("44", TypeError)):
            with pytest.raises(error, match="size must be"):
                SpatialRelation(size=size)
        with pytest.raises(ValueError, match=r"size must be one number, or one for each of the 1 spatial axes"):
            SpatialRelation(size=(4, 4))(torch.ones(2, 3, 4))

    @every_shape
    def test_cardinality(self, shape):
        positions = 2 ** (len(shape) - 2)
        assert SpatialRelation(size=2)(torch.randn(shape)).shape == (shape[0], positions, positions)

    def test_reference(self):
        features = torch.randn(2, 3, 5, 4, dtype=torch.float64)
        loops = [reference.positions(sample, (2, 3)) for sample in features.numpy()]
        expected = torch.tensor(loops, dtype=torch.float64)
        torch.testing.assert_close(SpatialRelation(size=(2, 3))(features), expected, rtol=0, atol=1e-13)

    @every_shape
    def test_gradcheck(self, shape):
        features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert gradcheck(SpatialRelation(size=2), features)


@pytest.mark.parametrize("relation", [GramRelation(center=True), SampleRelation(), SpatialRelation(size=(3, 2))])
class TestEveryRelation:
    def test_compile(self, relation):
        torch._dynamo.reset()
        features = torch.randn(2, 4, 5, 3, requires_grad=True)
        compiled = torch.compile(relation, backend="aot_eager", fullgraph=True)
        weights = torch.randn(relation(features).shape)
        torch.testing.assert_close(compiled(features), relation(features))
        torch.testing.assert_close(
            torch.autograd.grad(compiled(features), features, weights),
            torch.autograd.grad(relation(features), features, weights),
        )

    def test_copies(self, relation):
        features = torch.randn(2, 4, 5, 3)
        for twin in (copy.deepcopy(relation), pickle.loads(pickle.dumps(relation))):
            assert torch.equal(twin(features), relation(features))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half(self, relation, dtype):
        features = torch.randn(2, 4, 50, 3)
        with torch.autocast("cpu", dtype=dtype):
            cast = relation.to(dtype)(features)
        assert torch.equal(cast, relation(features))
        assert relation(features.to(dtype)).dtype == torch.float32


RELATIONS = {"channels": GramRelation, "centred": partial(GramRelation, center=True), "samples": SampleRelation}


def global_relation(rank, folder, shares):
    """One process of two: the relations of its share of the batch, and the gradients of a loss of each."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    batch = torch.randn(sum(shares), 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, kind in RELATIONS.items():
        own = batch.split(shares)[rank].clone().requires_grad_()
        value = kind(sync=True).train()(own)
        (gradient,) = torch.autograd.grad(value.pow(3).sum(), own)
        found[name] = value.detach(), gradient, kind(sync=True).eval()(own).detach()
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("shares", [(2, 2), (3, 1)])
def test_two_processes_have_the_relation_of_the_joined_batch(tmp_path, shares):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "relcons"])
    processes = [context.Process(target=global_relation, args=(rank, str(tmp_path), shares)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    batch = torch.randn(sum(shares), 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch.requires_grad_()
    for name, kind in RELATIONS.items():
        value = kind()(batch)
        # Each process adds the same loss, and the gradients of all reach every share.
        (expected,) = torch.autograd.grad(2 * value.pow(3).sum(), batch)
        for rank in range(2):
            found, gradient, evaluated = torch.load(tmp_path / f"{rank}.pt")[name]
            torch.testing.assert_close(found, value.detach())
            torch.testing.assert_close(gradient, expected.split(shares)[rank])
            torch.testing.assert_close(evaluated, kind()(batch.split(shares)[rank]).detach())
