import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from covidct.ct.picture import load_slice
from covidct.errors import InputError
from covidct.progress import TrainingProgress, work_shown
from covidct.results import finish
from covidct.run.building import build_model, build_relation_loss, general_rate
from covidct.run.checkpoint import cut_metrics, load_checkpoint, load_run, save_weights
from covidct.run.config import Config
from covidct.run.folder import result_files
from covidct.run.systems import SYSTEMS
from covidct.slices.data import SliceData, read_run_data
from covidct.slices.sampling import SliceSamples
from covidct.training.batches import numbered_loader
from covidct.training.engine import Trainer, make_fabric
from covidct.training.relation_probe import RelationProbe, effective_rank
from covidct.training.segmentation_loss import segmentation_loss
from rich.console import Console
from safetensors.torch import load_file, load_model

from tests.covid_ct.plain_demo import DEMO

FIELDS = {
    *("step", "loss", "segmentation", "lambda", "general", "target", "weighted_general", "weighted_target"),
    *("grad_norm_general", "grad_norm_target", "grad_norm_decoder", "rank_general", "rank_target"),
    *("moved_general", "supervised", "learning_rate", "seconds"),
}


@pytest.fixture
def config(
    tmp_path: Path,
    write_covid: Callable[..., Path],
    chest: Callable[..., Any],
    save_volume: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Config:
    """A tiny run of the whole method, on a data set of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = write_covid(tmp_path / "data", [str(number) for number in range(6)], unlabelled=["a_1", "a_2", "b_1"])
    hu, lesion = chest()
    for name, values in (("ct", hu), ("lesion", lesion)):
        save_volume(tmp_path / "source" / "case" / f"{name}.nii.gz", values)
    values = DEMO | {
        "steps": 4,
        "batch_size": 2,
        "size": (16, 16),
        "features_per_stage": (4, 6, 8),
        "log_every": 1,
        "relations_every": 2,
        "checkpoint_every": 2,
        "workers": 0,
    }
    places = {"data": str(data), "source": (str(tmp_path / "source"),)}
    return Config(dataset="covid_semiseg", method="ours", preset="demo", fold=1, seed=5, **places, **values)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """A function that makes a trainer in a run folder of its own, or in the one that it is given."""
    made: list[Path] = []

    def make(config: Config, run: Path | None = None) -> Trainer:
        if run is None:
            run = tmp_path / f"run{len(made)}"
            made.append(run)
            run.mkdir()
            (run / "config.json").write_text(config.to_json())
        return Trainer(make_fabric(config), config, run, build_model(config), read_run_data(config))

    return make


def quiet() -> Console:
    return Console(file=io.StringIO())


def trained(trainer: Trainer) -> dict[str, torch.Tensor]:
    trainer.train(quiet())
    return {name: tensor.clone() for name, tensor in trainer.module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", [name for name, e in SYSTEMS.items() if e.network is None and not e.staged])
def test_smoke(method: str, config: Config, trainer: Callable[..., Trainer]) -> None:
    one = trainer(replace(config, method=method))
    one.train(quiet())
    log = log_of(one.run)
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    chosen = SYSTEMS[method]
    present = {"general": chosen.general, "target": chosen.target, "grad_norm_general": chosen.trains_general}
    present |= {"moved_general": chosen.trains_general, "supervised": chosen.supervised}
    present |= {"weighted_target": chosen.target, "rank_general": chosen.relates}
    for line in log:
        assert set(line) == FIELDS
        assert {name: line[name] is not None for name in present} == present
    assert (one.run / "relations").exists() == chosen.dual


@pytest.mark.parametrize("method", ["baseline", "general", "target", "ours"])
def test_only_l_g_moves_the_general_encoder(method: str, config: Config, trainer: Callable[..., Trainer]) -> None:
    config = replace(config, method=method)
    before, after = build_model(config).state_dict(), trained(trainer(config))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    still = set() if SYSTEMS[method].general else {"general_encoders"}
    assert moved == {name.split(".")[0] for name in before} - still


def test_a_step_is_the_papers(config: Config, trainer: Callable[..., Trainer]) -> None:
    # Written out: SGD with Nesterov momentum, weight decay, poly learning rate, clipping that does not bite.
    config = replace(config, steps=3)
    one, model, relation = trainer(config), build_model(config).train(), build_relation_loss(config)
    data = read_run_data(config)
    drawn: Any = {"size": config.size, "resize": True, "joined_batch": 2, "seed": 5}
    target_samples = SliceSamples(data.train, stream="target", **drawn)
    source_samples = SliceSamples(data.source, stream="source", **drawn)
    batches = zip(
        *(numbered_loader(each, first_step=0, steps=2, workers=0) for each in (target_samples, source_samples)),
        strict=True,
    )
    momenta: dict[str, torch.Tensor] = {}
    for step, (target, source) in enumerate(batches):
        output = model(target["image"], source=source["image"])
        model.zero_grad()
        (segmentation_loss(output.logits, target["mask"]) + relation(output)).backward()
        relation.step()
        rate = 0.01 * (1 - step / 3) ** 0.9
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                gradient = parameter.grad + 3e-5 * parameter
                momenta[name] = 0.99 * momenta[name] + gradient if name in momenta else gradient
                parameter -= rate * (gradient + 0.99 * momenta[name])
        one.model.train()
        one._train_step({"target": target, "source": source})
        one.step += 1
    for (name, wanted), got in zip(model.named_parameters(), one.module.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6, msg=name)


def test_the_general_encoder_learns_at_its_own_rate(config: Config, trainer: Callable[..., Trainer]) -> None:
    """One step of SGD without decay: its weights move by a quarter, the others as far as before."""
    moves = []
    for part in (1.0, 0.25):
        one = trainer(replace(config, weight_decay=0.0, clip=None, general_rate=part))
        one.model.train()
        before = {name: [p.detach().clone() for p in group] for name, group in one.groups.items()}
        torch.manual_seed(0)
        one._train_step(drawn())
        moves.append(
            {
                name: torch.cat([(p - b).flatten() for p, b in zip(one.groups[name], before[name], strict=True)])
                for name in before
            }
        )
    torch.testing.assert_close(moves[1]["general"], 0.25 * moves[0]["general"], rtol=1e-2, atol=1e-7)
    torch.testing.assert_close(moves[1]["decoder"], moves[0]["decoder"], rtol=1e-4, atol=1e-7)
    assert general_rate(replace(config, general_rate=0.25)) == 0.25
    assert general_rate(replace(config, general_rate=0.25, route="joint")) == 1
    assert general_rate(replace(config, general_rate=0.25, method="supervised-general")) == 1


def drawn() -> dict[str, dict[str, torch.Tensor]]:
    target = {"image": torch.randn(2, 1, 16, 16), "mask": torch.ones(2, 1, 16, 16)}
    return {"target": target, "source": {"image": torch.randn(2, 1, 16, 16)}}


def test_clipping_acts_on_two_sets_apart(config: Config, trainer: Callable[..., Trainer]) -> None:
    one = trainer(replace(config, clip=1e-3, relation_peak_general=1000.0, relation_peak_target=1000.0))
    one.model.train()
    norms = one._train_step(drawn())

    def norm(*names: str) -> float:
        return torch.cat([p.grad.flatten() for name in names for p in one.groups[name]]).norm().item()

    assert min(norms[f"grad_norm_{name}"] for name in ("general", "target", "decoder")) > 1e-3
    assert norm("general") == pytest.approx(1e-3, rel=1e-2)
    assert norm("target", "decoder") == pytest.approx(1e-3, rel=1e-2)
    assert norm("decoder") < 0.999e-3


def test_clipping_acts_on_all_where_one_loss_reaches_all(config: Config, trainer: Callable[..., Trainer]) -> None:
    one = trainer(replace(config, clip=1e-3, route="joint"))
    one.model.train()
    one._train_step(drawn())
    gradients = {name: [p.grad.flatten() for p in parameters] for name, parameters in one.groups.items()}
    assert torch.cat([g for each in gradients.values() for g in each]).norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert torch.cat(gradients["general"]).norm() < 0.999e-3


@pytest.mark.parametrize("method", ["baseline", "target", "multi-encoder"])
def test_under_the_joint_route_segmentation_moves_the_general_encoder(
    method: str, config: Config, trainer: Callable[..., Trainer]
) -> None:
    config = replace(config, method=method, route="joint")
    before, one = build_model(config).state_dict(), trainer(config)
    after = trained(one)
    assert all(not torch.equal(before[name], after[name]) for name in before if "general_encoders" in name)
    assert log_of(one.run)[-1]["moved_general"] > 0


def test_the_log_says_what_was_computed(config: Config, trainer: Callable[..., Trainer]) -> None:
    one = trainer(config)
    one.train(quiet())
    for line in log_of(one.run):
        step = line["step"] - 1
        assert line["lambda"] == pytest.approx(0.1 * np.exp(-5 * (1 - step / 4)), rel=1e-5)
        assert line["learning_rate"] == pytest.approx(0.01 * (1 - step / 4) ** 0.9)
        assert line["weighted_general"] == pytest.approx(line["lambda"] * line["general"])
        assert line["weighted_target"] == pytest.approx(line["lambda"] * line["target"])
        total = line["segmentation"] + line["weighted_general"] + line["weighted_target"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert line["target"] <= 0 <= line["general"]
        assert 1 <= line["rank_general"] <= 8


def test_the_terms_weigh_what_each_peak_says(config: Config, trainer: Callable[..., Trainer]) -> None:
    one = trainer(replace(config, relation_peak_general=0.02, relation_peak_target=0.5))
    one.train(quiet())
    for line in log_of(one.run):
        rise = np.exp(-5 * (1 - (line["step"] - 1) / 4))
        assert line["weighted_general"] == pytest.approx(0.02 * rise * line["general"], rel=1e-5)
        assert line["weighted_target"] == pytest.approx(0.5 * rise * line["target"], rel=1e-5)
        total = line["segmentation"] + line["weighted_general"] + line["weighted_target"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)


def test_movement_is_that_from_the_first_weights(config: Config, trainer: Callable[..., Trainer]) -> None:
    first = build_model(config).general_encoder
    one = trainer(config)
    one.train(quiet())
    pairs = list(zip(one.module.general_encoder.parameters(), first.parameters(), strict=True))
    moved = sum((w - w0).square().sum() for w, w0 in pairs).sqrt() / sum(w0.square().sum() for _, w0 in pairs).sqrt()
    assert log_of(one.run)[-1]["moved_general"] == pytest.approx(moved.item(), rel=1e-4)
    values = [line["moved_general"] for line in log_of(one.run)]
    assert values == sorted(values)
    assert values[0] > 0


def begun(trainer: Callable[..., Trainer], config: Config, weights: dict[str, torch.Tensor]) -> Trainer:
    """A run that starts from other weights than the seed's, stopped after the checkpoint of step 2."""
    one = trainer(config)
    one.module.general_encoder.load_state_dict(weights)
    one.start = [p.detach().clone() for p in one.groups["general"]]
    stopping, step = iter(range(2)), one._train_step
    one._train_step = lambda *batch: (next(stopping), step(*batch))[1]  # type: ignore[method-assign]
    with pytest.raises(StopIteration):
        one.train(quiet())
    return one


def test_movement_from_another_run_survives_its_loss(config: Config, trainer: Callable[..., Trainer]) -> None:
    """What that run's weights were is in the checkpoint; those of the seed are drawn again and are not."""
    config = replace(config, init="gone")
    weights = build_model(replace(config, seed=77)).general_encoder.state_dict()
    one = begun(trainer, config, weights)
    assert "start" in load_checkpoint(one.run)
    again = trainer(config, one.run)
    again.train(quiet())
    values = [line["moved_general"] for line in log_of(one.run)]
    assert len(values) == 4
    assert values == sorted(values)
    assert values[-1] < 0.1
    assert "start" not in load_checkpoint(trained_run(trainer(replace(config, init=""))))


def trained_run(one: Trainer) -> Path:
    one.train(quiet())
    return one.run


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("widths", [(4, 6, 8), (4, 480)])
def test_the_printed_sum_stays_finite_where_it_outweighs_the_segmentation(
    precision: str, widths: tuple[int, ...], config: Config, trainer: Callable[..., Trainer]
) -> None:
    """At the bottleneck of Table II, and at the end of the ramp-up from the first step on."""
    config = replace(config, features_per_stage=widths, precision=precision, relation_power=1e-9, steps=8)
    peak = 0.1 * np.exp(5)  # a power of almost 0 gives exp(-5) of the peak throughout
    peak *= 1 if widths[-1] == 480 else 50
    one = trainer(replace(config, relation_peak_general=peak, relation_peak_target=peak))
    one.train(quiet())
    last = log_of(one.run)[-1]
    assert all(np.isfinite(value) for value in last.values() if value is not None)
    assert abs(last["weighted_target"]) > last["segmentation"]
    assert all(p.isfinite().all() for p in one.module.parameters())


def test_the_printed_sum_trains_in_fp16(config: Config) -> None:
    """Terms are in float32; what overflows is a gradient on its way through maps of 16 bits, and the scaler sees it."""
    config = replace(config, features_per_stage=(4, 480), steps=30)
    model, relation = build_model(config).train(), build_relation_loss(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler("cpu")
    relation.step(config.steps)
    torch.manual_seed(0)
    images, source, masks = torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)
    masks[..., 4:9, 3:12] = 1
    taken = 0
    for _ in range(6):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            output = model(images, source=source, features=True)
            terms = relation.terms(output)
            loss = segmentation_loss(output.logits, masks) + terms.total
        assert output.target[-1].dtype == torch.float16
        assert loss.dtype == terms.target.dtype == torch.float32
        assert loss.isfinite()
        scaler.scale(loss).backward()
        before = model.general_encoder.stages[0][0].convs[0].conv.weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        taken += not torch.equal(before, model.general_encoder.stages[0][0].convs[0].conv.weight)
    assert taken >= 1
    assert all(p.isfinite().all() for p in model.parameters())


def test_matrices_are_of_the_deepest_level(config: Config, tmp_path: Path) -> None:
    model = build_model(replace(config, relation_levels=(1, -1, 0)))
    RelationProbe(tmp_path / "relations", model, torch.randn(2, 1, 16, 16), None).write(0)
    with np.load(tmp_path / "relations" / "step_000000.npz") as matrices:
        assert matrices["target"].shape == (8, 8)


def test_neither_workers_nor_pictures_change_the_weights(config: Config, trainer: Callable[..., Trainer]) -> None:
    plain = trained(trainer(config))
    assert same(plain, trained(trainer(replace(config, workers=1, relations_every=1, checkpoint_every=1))))
    assert not same(plain, trained(trainer(replace(config, seed=6))))


def test_the_average_of_the_weights_is_kept(config: Config, trainer: Callable[..., Trainer]) -> None:
    one = trainer(replace(config, method="unet", ema=0.75))
    weights: list[torch.Tensor] = []
    one.optimizer.optimizer.register_step_post_hook(
        lambda *_: weights.append(torch.cat([p.detach().flatten() for p in one.module.parameters()]))
    )
    one.train(quiet())
    average = weights[0]
    for later in weights[1:]:
        average = 0.75 * average + 0.25 * later
    kept = torch.cat([p.detach().flatten() for p in one.result.parameters()])
    torch.testing.assert_close(kept, average)
    assert not torch.equal(kept, weights[-1])
    assert trainer(replace(config, ema=0.0)).average is None


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_restored_trainer_goes_on_where_the_other_stopped(
    ema: float, config: Config, trainer: Callable[..., Trainer]
) -> None:
    config = replace(config, ema=ema)
    one = trainer(config)
    one.train(quiet())
    whole = one.result.state_dict()
    first = trainer(config)
    first.config = replace(config, steps=4)
    stopping = iter(range(2))
    step = first._train_step
    first._train_step = lambda *batch: (next(stopping), step(*batch))[1]  # type: ignore[method-assign]
    with pytest.raises(StopIteration):
        first.train(quiet())
    second = trainer(config, first.run)
    assert second.step == 2
    second.train(quiet())
    assert same(whole, second.result.state_dict())


def test_bf16_trains(config: Config, trainer: Callable[..., Trainer]) -> None:
    one = trainer(replace(config, precision="bf16"))
    one.train(quiet())
    assert all(p.dtype == torch.float32 for p in one.module.parameters())
    assert [line["step"] for line in log_of(one.run)] == [1, 2, 3, 4]


def test_divergence_is_said(config: Config, trainer: Callable[..., Trainer]) -> None:
    one = trainer(replace(config, learning_rate=1e38))
    with pytest.raises(InputError, match="loss is not finite at step 2: the training has diverged"):
        one.train(quiet())
    assert load_checkpoint(one.run) is None


def test_the_board_gets_the_log(config: Config, trainer: Callable[..., Trainer]) -> None:
    class Board:
        scalars: list[tuple[str, int]] = []  # noqa: RUF012

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars.append((name, step))

    trainer(replace(config, method="unet")).train(quiet(), Board())
    assert ("segmentation", 4) in Board.scalars
    assert not any(name in ("step", "lambda") for name, _ in Board.scalars)


def test_finish_leaves_every_result(config: Config, trainer: Callable[..., Trainer]) -> None:
    one, console = trainer(config), quiet()
    one.train(console)
    finish(one.run, config, one.module, one.data, console)
    assert all(path.stat().st_size > 0 for path in result_files(one.run, config))
    assert "at_0.5" in console.file.getvalue()
    saved, model = load_run(one.run)
    assert saved == config
    assert not model.training
    assert same(model.state_dict(), one.module.state_dict())


def test_weights_are_stored_once_and_load_with_safetensors(config: Config, tmp_path: Path) -> None:
    model = build_model(config)
    model.register_buffer("derived", torch.zeros(3), persistent=False)
    save_weights(tmp_path, model)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in model.parameters())
    other = build_model(replace(config, seed=9))
    load_model(other, tmp_path / "model.safetensors")
    assert same(model.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: (run / "config.json").unlink(), r"config\.json is missing"),
        (lambda run: (run / "model.safetensors").unlink(), "training has not ended; end it with train.py --resume"),
        (lambda run: (run / "model.safetensors").write_bytes(b"torn"), r"model\.safetensors is damaged"),
        (
            lambda run: (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-9]),
            r"model\.safetensors is damaged",
        ),
        (lambda run: save_weights(run, torch.nn.Linear(2, 2)), "does not fit the network of"),
    ],
)
def test_load_run_refuses(config: Config, tmp_path: Path, break_it: Callable[[Path], Any], message: str) -> None:
    (tmp_path / "config.json").write_text(config.to_json())
    save_weights(tmp_path, build_model(config))
    break_it(tmp_path)
    with pytest.raises(InputError, match=message):
        load_run(tmp_path)


def test_load_run_of_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        load_run(tmp_path / "nowhere")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged"):
        load_checkpoint(tmp_path)


def test_a_foreign_checkpoint_is_named(config: Config, trainer: Callable[..., Trainer]) -> None:
    run = trainer(config).run
    torch.save({"step": 2, "model": {}}, run / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt is no checkpoint of this run"):
        trainer(config, run)


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    (tmp_path / "relations").mkdir()
    for step in (0, 2, 4):
        (tmp_path / "relations" / f"step_{step:06d}.npz").touch()
    cut_metrics(tmp_path, 2)
    assert log_of(tmp_path) == [{"step": 1}, {"step": 2}]
    assert sorted(path.name for path in (tmp_path / "relations").iterdir()) == ["step_000000.npz", "step_000002.npz"]


def test_leftovers_of_a_killed_process_go(config: Config, trainer: Callable[..., Trainer]) -> None:
    run = trainer(config).run
    before = sorted(run.rglob("*"))
    (run / "relations").mkdir(exist_ok=True)
    dead = 99999999
    for name in (".space-{}-ab", ".checkpoint.pt.{}-ab.pt", ".model.safetensors.{}-ab.safetensors", ".notes"):
        (run / name.format(dead)).touch()
    (run / f"relations/.step_000002.npz.{dead}-ab.npz").touch()
    # Of a process that runs: this one's parent.
    (run / f".metrics.csv.{os.getppid()}-ab.csv").touch()
    trainer(config, run)
    found = {path.name for path in set(run.rglob("*")) - set(before)} - {"relations", "metrics.jsonl"}
    assert found == {".notes", f".metrics.csv.{os.getppid()}-ab.csv"}


@pytest.mark.parametrize(("channels", "rank"), [(1, 1), (3, 3), (6, 6)])
def test_effective_rank_of_separate_channels(channels: int, rank: float) -> None:
    # Channels that are never on together: R is the unit matrix.
    assert effective_rank(torch.eye(channels).reshape(1, channels, channels, 1)) == pytest.approx(rank)


def test_effective_rank_of_equal_channels_is_one() -> None:
    assert effective_rank(torch.rand(2, 1, 4, 4).expand(2, 5, 4, 4)) == pytest.approx(1, abs=1e-3)


def test_effective_rank_by_hand() -> None:
    # G = [[2, 1], [1, 1]] for these features, so R = [[2, 1] / sqrt 5, [1, 1] / sqrt 2]: its singular values are
    # those of det R = 1 / sqrt 10 and trace R R^T = 2.
    features = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).reshape(1, 2, 2, 1)
    root = np.sqrt(1 - 1 / 10)
    values = np.sqrt([1 + root, 1 - root])
    shares = values / values.sum()
    assert effective_rank(features) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_effective_rank_of_nothing(value: float) -> None:
    assert effective_rank(torch.full((1, 3, 2, 2), value)) is None


@pytest.mark.parametrize("training", [True, False])
def test_the_probe_restores_the_mode(training: bool, config: Config, tmp_path: Path) -> None:
    model = build_model(config).train(training)
    images = torch.randn(2, 1, 16, 16)
    RelationProbe(tmp_path / "relations", model, images, None).write(7)
    assert model.training == training
    with np.load(tmp_path / "relations" / "step_000007.npz") as matrices:
        assert sorted(matrices) == ["general_target", "target"]
        assert matrices["target"].shape == (8, 8)
        np.testing.assert_allclose(np.linalg.norm(matrices["target"], axis=1), 1, rtol=1e-5)


LINE = {"loss": 1.5, "segmentation": 1.25, "lambda": 0.01, "weighted_general": None, "weighted_target": -0.5}


def test_progress_in_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with TrainingProgress(console, total=2, first=0) as progress:
        progress.advance()
        progress.show(LINE)
        progress.advance()
    shown = console.file.getvalue()
    assert "loss 1.5000" in shown
    assert "lambda L_T -0.5000" in shown
    assert "L_G" not in shown


def test_progress_in_a_file_is_plain_lines() -> None:
    console = Console(file=io.StringIO(), width=120)
    with TrainingProgress(console, total=12, first=10) as progress:
        progress.show(LINE)
        progress.advance()
        progress.advance()
    expected = "step 12/12  loss 1.5000  seg 1.2500  lambda 0.0100  lambda L_T -0.5000  left 0:00:00\n"
    assert console.file.getvalue() == expected


def test_work_in_a_file_is_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("covidct.progress.time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=120)
    with work_shown(console, "evaluating [one]") as advance:
        for seconds, share in ((110, 0.1), (125, 0.25), (140, 0.5), (150, 0.75), (160, 1.0)):
            now[0] = seconds
            advance(share)
    assert console.file.getvalue() == ("evaluating [one]  25%  left 0:01:15\nevaluating [one]  75%  left 0:00:16\n")


def test_work_in_a_terminal_is_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with work_shown(console, "evaluating [one]") as advance:
        advance(0.5)
    assert "evaluating [one]" in console.file.getvalue()
    assert "50%" in console.file.getvalue()


def test_unlabelled_slices_enter_the_relations_alone(config: Config, trainer: Callable[..., Trainer]) -> None:
    """One step written out: the logits of the labelled batch, the relations of both batches' maps."""
    config = replace(config, method="ours-un")
    one, model, relation = trainer(config), build_model(config).train(), build_relation_loss(config)
    batches = drawn() | {"unlabelled": {"image": torch.randn(2, 1, 16, 16)}}
    one.model.train()
    values = one._train_step(batches)
    images = torch.cat([batches["target"]["image"], batches["unlabelled"]["image"]])
    maps = [encoder(images)[-1] for encoder in (model.general_encoder, model.target_encoder)]
    of_source = model.general_encoder(batches["source"]["image"])[-1]
    terms = [relation.relation(each) for each in (of_source, *maps)]
    torch.testing.assert_close(values["general"], (terms[0] - terms[1]).square().sum(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(values["target"], -(terms[1] - terms[2]).square().sum(), rtol=1e-4, atol=1e-6)
    alone = segmentation_loss(model(batches["target"]["image"]), batches["target"]["mask"])
    torch.testing.assert_close(values["segmentation"], alone, rtol=1e-4, atol=1e-6)


def test_an_anchored_run_goes_on_as_one_that_was_not_stopped(config: Config, trainer: Callable[..., Trainer]) -> None:
    config = replace(config, anchor=True, method="ours-un")
    whole = trainer(config)
    expected = trained(whole)
    assert whole.relation is not None
    assert whole.relation.anchor.steps == 4
    one = trainer(config)
    stopping, step = iter(range(2)), one._train_step
    one._train_step = lambda *batch: (next(stopping), step(*batch))[1]  # type: ignore[method-assign]
    with pytest.raises(StopIteration):
        one.train(quiet())
    assert same(trained(trainer(config, one.run)), expected)
    assert not same(trained(trainer(replace(config, anchor=False))), expected)


def test_the_source_labels_teach_the_general_encoder_alone(config: Config, trainer: Callable[..., Trainer]) -> None:
    config = replace(config, method="supervised-general", learning_rate=0.1)
    one = trainer(config)
    before = {name: value.clone() for name, value in one.module.state_dict().items()}
    one.model.train()
    batches = drawn()
    batches["source"]["mask"] = torch.ones(2, 1, 16, 16)
    # Only the source's loss is followed back.
    _, supervised, _ = one._forward(batches)
    assert supervised is not None
    supervised.backward()
    reached = {name for name, parameter in one.module.named_parameters() if parameter.grad is not None}
    assert reached
    assert all(name.startswith(("model.general_encoders.", "source_decoder.")) for name in reached)
    one.optimizer.zero_grad()
    one._train_step(batches)
    moved = {name for name, value in one.module.state_dict().items() if not torch.equal(value, before[name])}
    assert {"source_decoder", "model"} == {name.split(".")[0] for name in moved}


def test_run_data_follows_the_method(config: Config) -> None:
    with_source = read_run_data(config)
    assert isinstance(with_source, SliceData)
    assert len(with_source.train) + len(with_source.test) == 6
    assert len(with_source.source) == 2
    assert read_run_data(replace(config, method="unet")).source == ()
    lesions = read_run_data(replace(config, method="pretrain"))
    assert isinstance(lesions, SliceData)
    assert (lesions.train, lesions.test, lesions.source) == (with_source.source, (), ())
    assert "mask" in lesions.samples("target", config, augment=False)[0]
    beside = read_run_data(replace(config, method="ours-un"))
    assert (beside.train, beside.source) == (with_source.train, with_source.source)
    assert [item.name for item in beside.unlabelled] == ["a_1", "a_2", "b_1"]
    assert set(beside.samples("unlabelled", config, augment=False)[0]) == {"image"}
    hidden = read_run_data(replace(config, method="reconstruct"))
    assert (hidden.train, hidden.test) == (beside.unlabelled, ())
    assert set(hidden.samples("target", replace(config, method="reconstruct"), augment=True)[0]) == {
        "image",
        "whole",
        "hidden",
    }
    few = read_run_data(replace(config, target_cases=2, source_cases=1))
    assert (len(few.train), len(few.source)) == (2, 1)
    assert set(few.train) < set(with_source.train)
    assert few.test == with_source.test
    largest = read_run_data(replace(config, source_cases=1, source_policy="max_area"))
    areas = {item: int(load_slice(item)[1].sum()) for item in with_source.source}
    assert largest.source == (max(areas, key=areas.__getitem__),)
    with pytest.raises(InputError, match="--source-cases 2 needs slices with lesion from 2 scans, found 1"):
        read_run_data(replace(config, source_cases=2))


def test_unlabelled_slices_of_ones_own(config: Config, tmp_path: Path, write_pair: Callable[..., Any]) -> None:
    config = replace(config, method="ours-un")
    folder = write_pair(tmp_path / "own", "c_7")[0].parent
    own = read_run_data(replace(config, unlabelled=str(folder)))
    assert [item.name for item in own.unlabelled] == ["c_7"]
    with pytest.raises(InputError, match=r"--unlabelled .*nowhere does not exist; give a folder of pictures"):
        read_run_data(replace(config, unlabelled=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"--unlabelled .*empty holds no picture"):
        read_run_data(replace(config, unlabelled=str(tmp_path / "empty")))
    test = read_run_data(config).test[0]
    (folder / "other.jpg").write_bytes(test.path.read_bytes())
    with pytest.raises(InputError, match=rf"1 of 2 unlabelled slices show what a test slice shows .*is {test.name}"):
        read_run_data(replace(config, unlabelled=str(folder)))
    shutil.rmtree(tmp_path / "data/Dataset/TrainingSet/LungInfection-Train/Pseudo-label")
    with pytest.raises(InputError, match=r"method ours-un takes unlabelled slices and .* has none"):
        read_run_data(config)
