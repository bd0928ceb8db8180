"""relcons.routing: every route against autograd.grad by hand, clipping, scaling, leaks and error texts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from relcons import GradientRouter
from relcons.functional import general_consistency, relation_distance, relation_matrix

ROUTES = {"segmentation": ["target", "decoder"], "general": ["general"], "target": ["target"]}
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
every_dimension = pytest.mark.parametrize("dimensions", [1, 2, 3])


class Leaky(nn.Module):
    """Two encoders and a decoder without any gradient stop: every loss reaches all it can."""

    def __init__(self, dimensions: int = 1) -> None:
        super().__init__()
        conv = CONV[dimensions]
        self.general = nn.Sequential(conv(1, 4, 3, padding=1), nn.Tanh())
        self.target = nn.Sequential(conv(1, 4, 3, padding=1), nn.Tanh())
        self.decoder = conv(8, 1, 1)
        self.shape = (2, 1, *[5] * dimensions)
        self.double()

    def losses(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(7)
        x, y, source = (torch.randn(self.shape, generator=generator, dtype=torch.float64) for _ in range(3))
        general, target = self.general(x), self.target(x)
        return {
            "segmentation": mse_loss(self.decoder(torch.cat((target, general), 1)), y),
            "general": 0.3 * general_consistency(self.general(source), general),
            "target": -0.2 * relation_distance(relation_matrix(general), relation_matrix(target)),
        }


def build(dimensions: int = 1, **kwargs: object) -> tuple[Leaky, GradientRouter]:
    model = Leaky(dimensions)
    return model, GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), ROUTES, model=model, **kwargs)


def by_hand(model: Leaky) -> dict[str, Tensor]:
    """Algorithm 1, lines 9 to 11: one autograd.grad per part of the network."""
    losses, grads = model.losses(), {}
    updates = {
        "general": losses["general"],
        "target": losses["segmentation"] + losses["target"],
        "decoder": losses["segmentation"],
    }
    for part, loss in updates.items():
        named = dict(getattr(model, part).named_parameters(prefix=part))
        grads.update(zip(named, torch.autograd.grad(loss, list(named.values()), retain_graph=True), strict=True))
    return grads


def assert_grads(model: nn.Module, expected: dict[str, Tensor], times: float = 1.0) -> None:
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert set(grads) == set(expected)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, times * expected[name], rtol=1e-10, atol=0)


def record(router: GradientRouter, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The gradients that the optimiser sees."""
    seen: dict[str, Tensor] = {}
    step = router.optimizer.step

    def spy(*args: object, **kwargs: object) -> object:
        seen.update({name: p.grad.clone() for p, name in router._names.items() if p.grad is not None})
        return step(*args, **kwargs)

    monkeypatch.setattr(router.optimizer, "step", spy)
    return seen


class TestBackward:
    @every_dimension
    def test_smoke(self, dimensions):
        model, router = build(dimensions)
        router.backward(model.losses())
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    @every_dimension
    def test_reference(self, dimensions):
        model, router = build(dimensions)
        expected = by_hand(model)
        router.backward(model.losses())
        assert_grads(model, expected)
        model.zero_grad()
        sum(model.losses().values()).backward()
        assert not torch.allclose(model.general[0].weight.grad, expected["general.0.weight"])

    @pytest.mark.parametrize("name", list(ROUTES))
    def test_one_loss(self, name):
        """A loss alone moves its route and nothing else."""
        model, router = build()
        router.backward({name: model.losses()[name]})
        moved = {n.split(".")[0] for n, parameter in model.named_parameters() if parameter.grad is not None}
        assert moved == set(ROUTES[name])

    def test_a_loss_without_gradient_moves_nothing(self):
        model, router = build()
        losses = model.losses()
        expected = by_hand(model)
        router.backward({**losses, "general": torch.tensor(1.0)})
        for name, parameter in model.named_parameters():
            if name.startswith("general"):
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, expected[name])

    def test_order(self):
        model, router = build()
        expected = by_hand(model)
        router.backward(dict(reversed(model.losses().items())))
        assert_grads(model, expected)

    def test_accumulation(self):
        model, router = build()
        expected = by_hand(model)
        for _ in range(3):
            router.backward(model.losses())
        assert_grads(model, expected, times=3)

    def test_cardinality(self):
        """One pass per set of losses that parameters share, none twice in a pass; the last frees its graph."""
        calls: list[dict] = []

        def backward(loss: Tensor, **kwargs: object) -> None:
            calls.append({**kwargs, "loss": loss.item()})
            loss.backward(**kwargs)

        model, router = build(backward=backward)
        losses = model.losses()
        router.backward(losses)
        assert [call["retain_graph"] for call in calls] == [True, True, False]
        assert [len(call["inputs"]) for call in calls] == [2, 2, 2]
        assert len({parameter for call in calls for parameter in call["inputs"]}) == 6
        value = {name: loss.item() for name, loss in losses.items()}
        sums = [value["segmentation"], value["segmentation"] + value["target"], value["general"]]
        assert [call["loss"] for call in calls] == pytest.approx(sums)
        with pytest.raises(RuntimeError, match="second time"):
            losses["general"].backward()

        calls.clear()
        together = {"a": ["general"], "b": [model.general[0]], "c": "general"}
        router = GradientRouter(router.optimizer, together, model=model, backward=backward)
        value = model.losses()["general"]
        router.backward({"a": value, "b": 2 * value, "c": 3 * value})
        assert len(calls) == 1
        assert calls[0]["loss"] == pytest.approx(6 * value.item())

    def test_gradcheck(self):
        """Central differences of the loss that each part may see."""
        model, router = build()
        router.backward(model.losses())
        for part, names in (
            ("general", ["general"]),
            ("target", ["segmentation", "target"]),
            ("decoder", ["segmentation"]),
        ):
            for parameter in getattr(model, part).parameters():
                slope = []
                for sign in (1, -1):
                    with torch.no_grad():
                        parameter.view(-1)[0] += sign * 1e-6
                        slope.append(sum(model.losses()[name] for name in names).item())
                        parameter.view(-1)[0] -= sign * 1e-6
                expected = (slope[0] - slope[1]) / 2e-6
                assert parameter.grad.view(-1)[0].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)

    def test_compile(self):
        torch._dynamo.reset()
        model, router = build()
        expected = by_hand(model)
        for part in ("general", "target"):
            getattr(model, part).compile(backend="aot_eager", fullgraph=True)
        router.backward(model.losses())
        assert_grads(model, expected)

    def test_frozen(self):
        model, router = build()
        model.general.requires_grad_(False)
        losses = model.losses()
        assert not losses["general"].requires_grad
        router.backward(losses)
        assert all(parameter.grad is None for parameter in model.general.parameters())
        assert model.decoder.weight.grad.abs().sum() > 0
        model.requires_grad_(False)
        router.backward(model.losses())

    def test_unreached(self):
        """A parameter on the route that the loss does not reach stays without a gradient."""
        model, _ = build()
        router = GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), {"general": model})
        router.backward({"general": model.losses()["general"]})
        assert model.decoder.weight.grad is None
        assert model.general[0].weight.grad.abs().sum() > 0

    def test_exception(self):
        model, router = build()
        loss = model.losses()["target"]
        for method in (router.backward, router.check, router.step):
            with pytest.raises(
                ValueError,
                match=r"losses has 'seg', for which there is no route; routes are \['segmentation', 'general', ",
            ):
                method({"target": loss, "seg": loss})
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_exception_scalar(self):
        """autograd refuses a loss that is no scalar, and so does the router."""
        model, router = build()
        with pytest.raises((RuntimeError, ValueError), match="scalar"):
            router.backward({"general": model.general(torch.ones(model.shape).double()).flatten()})


class TestStep:
    def test_smoke(self):
        model, router = build()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        expected = by_hand(model)
        router.step(model.losses())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * expected[name])
            assert parameter.grad is None

    def test_accumulated(self, monkeypatch):
        model, router = build()
        expected = by_hand(model)
        seen = record(router, monkeypatch)
        router.backward(model.losses())
        router.backward(model.losses())
        router.step()
        for name, grad in expected.items():
            torch.testing.assert_close(seen[name], 2 * grad)

    @pytest.mark.parametrize("order", [1, -1])
    def test_clip(self, order, monkeypatch):
        """One norm for the general encoder, one for target encoder and decoder, which the segmentation loss links."""
        model = Leaky()
        routes = dict(list(ROUTES.items())[::order])
        router = GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), routes, model=model)
        expected = by_hand(model)
        seen = record(router, monkeypatch)
        clip = 1e-3
        router.step(model.losses(), clip=clip)
        for parts in (["general"], ["target", "decoder"]):
            names = [name for name in expected if name.split(".")[0] in parts]
            norm = torch.stack([expected[name].norm() for name in names]).norm()
            assert norm > clip
            for name in names:
                torch.testing.assert_close(seen[name], expected[name] * clip / (norm + 1e-6))
        norms = [torch.cat([seen[n].flatten() for n in seen if n.startswith(p)]).norm() for p in ("general", "target")]
        assert norms[0].item() == pytest.approx(clip, rel=1e-2)
        assert norms[1] < 0.99 * clip

    def test_clip_large(self, monkeypatch):
        model, router = build()
        expected = by_hand(model)
        seen = record(router, monkeypatch)
        router.step(model.losses(), clip=1e6)
        for name, grad in expected.items():
            torch.testing.assert_close(seen[name], grad, rtol=1e-12, atol=0)

    def test_clip_links(self, monkeypatch):
        """A route that overlaps two others makes one set of all three."""
        model = Leaky()
        routes = {"general": ["general"], "target": ["decoder"], "segmentation": ["general", "decoder", "target"]}
        router = GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), routes, model=model)
        seen = record(router, monkeypatch)
        router.step(model.losses(), clip=1e-3)
        norm = torch.cat([grad.flatten() for grad in seen.values()]).norm()
        assert norm.item() == pytest.approx(1e-3, rel=1e-2)

    def test_clip_leaves_others(self, monkeypatch):
        model = Leaky()
        routes = {"general": ["general"]}
        router = GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), routes, model=model)
        seen = record(router, monkeypatch)
        model.decoder.weight.grad = torch.full_like(model.decoder.weight, 5.0)
        router.step({"general": model.losses()["general"]}, clip=1e-6)
        assert (seen["decoder.weight"] == 5).all()

    @pytest.mark.parametrize("clip", [None, 1e-3])
    def test_scaler(self, clip, monkeypatch):
        """Scaling changes no update; clipping sees the unscaled gradients."""
        plain_model, plain = build()
        model, router = build()
        model.load_state_dict(plain_model.state_dict())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
        scales: list[Tensor] = []
        backward = router._backward
        monkeypatch.setattr(
            router, "_backward", lambda loss, **kw: (scales.append(loss.detach()), backward(loss, **kw))
        )
        router.step(model.losses(), scaler=scaler, clip=clip)
        torch.testing.assert_close(scales[0], 1024 * plain_model.losses()["segmentation"].detach())
        plain.step(plain_model.losses(), clip=clip)
        for parameter, expected in zip(model.parameters(), plain_model.parameters(), strict=True):
            torch.testing.assert_close(parameter, expected)
        assert scaler.get_scale() == 2048.0

    def test_scaler_skips(self):
        """An overflow skips the step, lowers the scale and leaves no gradient behind."""
        model, router = build()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        losses = {name: loss * torch.inf for name, loss in model.losses().items()}
        router.step(losses, scaler=scaler)
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        assert scaler.get_scale() == 512.0
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_scaler_accumulated(self):
        plain_model, plain = build()
        model, router = build()
        model.load_state_dict(plain_model.state_dict())
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for _ in range(2):
            router.backward({name: scaler.scale(loss) for name, loss in model.losses().items()})
            plain.backward(plain_model.losses())
        router.step(scaler=scaler)
        plain.step()
        for parameter, expected in zip(model.parameters(), plain_model.parameters(), strict=True):
            torch.testing.assert_close(parameter, expected)

    @pytest.mark.parametrize("clip", [0, -1.0, float("nan")])
    def test_exception(self, clip):
        model, router = build()
        with pytest.raises(ValueError, match=f"clip must be a positive gradient norm, got {clip}"):
            router.step(model.losses(), clip=clip)
        assert all(parameter.grad is None for parameter in model.parameters())


class TestCheck:
    def test_leaks(self):
        model, router = build()
        assert router.check(model.losses()) == {
            "segmentation": ["general.0.weight", "general.0.bias"],
            "general": [],
            "target": ["general.0.weight", "general.0.bias"],
        }

    def test_nothing_leaks(self):
        model, router = build()
        x = torch.randn(model.shape, dtype=torch.float64)
        general, target = model.general(x), model.target(x)
        losses = {
            "segmentation": model.decoder(torch.cat((target, general.detach()), 1)).sum(),
            "general": relation_matrix(general).sum(),
            "target": relation_distance(relation_matrix(general).detach(), relation_matrix(target)),
        }
        assert router.check(losses) == {"segmentation": [], "general": [], "target": []}

    def test_leaves_graph_and_grads(self):
        model, router = build()
        expected, losses = by_hand(model), model.losses()
        router.check(losses)
        assert all(parameter.grad is None for parameter in model.parameters())
        router.backward(losses)
        assert_grads(model, expected)

    def test_outside_the_optimiser(self):
        """What the optimiser does not update can still be reached: all of the model is looked at."""
        model = Leaky()
        optimizer = torch.optim.SGD(model.decoder.parameters(), lr=0.1)
        router = GradientRouter(optimizer, {"segmentation": ["decoder"]}, model=model)
        leaks = router.check({"segmentation": model.losses()["segmentation"]})["segmentation"]
        assert leaks == ["general.0.weight", "general.0.bias", "target.0.weight", "target.0.bias"]

    def test_without_model(self):
        model = Leaky()
        router = GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), {"target": model.target})
        leaks = router.check({"target": model.losses()["target"]})
        assert leaks == {"target": ["parameter 0 of the optimiser", "parameter 1 of the optimiser"]}

    def test_frozen_is_no_leak(self):
        model, router = build()
        model.general.requires_grad_(False)
        assert router.check(model.losses()) == {"segmentation": [], "general": [], "target": []}

    def test_constant_loss(self):
        _, router = build()
        assert router.check({"target": torch.tensor(0.0)}) == {"target": []}

    def test_all_frozen(self):
        """Nothing is trainable but the input asks for a gradient, as in a saliency map."""
        model, router = build()
        model.requires_grad_(False)
        x = torch.ones(model.shape, dtype=torch.float64, requires_grad=True)
        assert router.check({"target": model.target(x).sum()}) == {"target": []}


class TestRoutes:
    @pytest.mark.parametrize(
        "route",
        [
            lambda model: model.general,
            lambda model: "general",
            lambda model: ["general.0"],
            lambda model: ["general.0.weight", "general.0.bias"],
            lambda model: model.general.parameters(),
            lambda model: [model.general, "general", model.general[0].weight],
            lambda model: (model.general[0].bias, model.general[0].weight),
        ],
        ids=["module", "name", "submodule", "parameter names", "generator", "repeats", "parameters"],
    )
    def test_smoke(self, route: Callable[[Leaky], object]):
        model = Leaky()
        router = GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), {"general": route(model)}, model=model)
        router.backward({"general": model.losses()["general"]})
        expected = {name: grad for name, grad in by_hand(model).items() if name.startswith("general")}
        assert_grads(model, expected)

    def test_single_parameter(self):
        model = Leaky()
        router = GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), {"general": model.general[0].bias})
        router.backward({"general": model.losses()["general"]})
        assert model.general[0].weight.grad is None
        assert model.general[0].bias.grad is not None

    def test_exception(self):
        model = Leaky()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(TypeError, match="route 'a' holds the name 'general'; pass model= to look it up in"):
            GradientRouter(optimizer, {"a": ["general"]})
        with pytest.raises(
            ValueError,
            match=r"route 'a' names 'generl', which Leaky lacks; its children are \['general', 'target', 'decoder'\]",
        ):
            GradientRouter(optimizer, {"a": "generl"}, model=model)
        with pytest.raises(TypeError, match="route 'a' must hold modules, parameters or names, got int: 3"):
            GradientRouter(optimizer, {"a": [3]})
        for empty in ([], nn.Tanh()):
            with pytest.raises(ValueError, match="route 'a' holds no parameter; leave the route out"):
                GradientRouter(optimizer, {"a": empty})
        partial = torch.optim.SGD(model.decoder.parameters(), lr=0.1)
        with pytest.raises(
            ValueError,
            match=r"route 'a' holds target.0.(weight|bias) of shape .*, which the optimiser does not update; give the",
        ):
            GradientRouter(partial, {"a": "target"}, model=model)
        model.target.requires_grad_(False)
        assert GradientRouter(partial, {"a": "target", "b": "decoder"}, model=model).check({}) == {}

    def test_exception_not_iterable(self):
        model = Leaky()
        with pytest.raises(TypeError, match="route 'a' must hold modules, parameters or names, got int"):
            GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), {"a": 3})


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone, so that DistributedDataParallel can be made."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class TestDistributedDataParallel:
    """What DistributedDataParallel would wait for in vain is refused, and nothing else."""

    def routed(self, frozen=()):
        model = Leaky()
        for name in frozen:
            model.get_submodule(name).requires_grad_(False)
        parallel = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, parallel, GradientRouter(optimizer, ROUTES, model=parallel)

    def test_losses_that_leave_parameters_out(self, one_process):
        model, parallel, router = self.routed()
        losses = model.losses()
        with pytest.raises(ValueError, match="losses leave 2 trainable parameters without a gradient"):
            router.backward({name: loss for name, loss in losses.items() if name != "general"})
        with parallel.no_sync():  # gathers; nothing is averaged yet
            router.backward({"general": model.losses()["general"]})
        assert model.general[0].weight.grad.any()

    def test_frozen_parameters_are_not_waited_for(self, one_process):
        model, _, router = self.routed(frozen=["general"])
        losses = model.losses()
        router.backward({name: loss for name, loss in losses.items() if name != "general"})
        assert model.general[0].weight.grad is None
        assert model.target[0].weight.grad.any()


def test_sharded_parameters_are_refused(one_process):
    model = nn.Linear(2, 1)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match=r"route 'fit' holds sharded parameters: FSDP2 .*; call backward\(\) on"):
        GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), {"fit": model})
