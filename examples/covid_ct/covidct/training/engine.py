"""The training loop: one forward and one backward a step, checkpoints, and a log."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from covidct.errors import InputError
from covidct.files import remove_leftovers
from covidct.networks.inf_net_training import scaled, training_sizes
from covidct.progress import TrainingProgress
from covidct.run.building import build_relation_loss, clip_sets, general_rate, trained_groups, two_encoders
from covidct.run.checkpoint import (
    CHECKPOINT,
    METRICS,
    check_same_config,
    cut_metrics,
    load_checkpoint,
    save_checkpoint,
)
from covidct.run.config import Config
from covidct.run.precision import FABRIC_PRECISION
from covidct.run.results import without_nan
from covidct.run.systems import system
from covidct.training.batches import numbered_loader
from covidct.training.objectives import Batch, objective
from covidct.training.optimisation import averaged, clip, learning_rate, make_optimizer
from covidct.training.relation_probe import RelationProbe, deepest_level, effective_rank
from covidct.training.segmentation_loss import segmentation_loss
from covidct.training.wing import RunData
from relcons import DualEncoderOutput, RelationTerms


def make_fabric(config: Config) -> Fabric:
    """All accelerators that Lightning Fabric finds, else the CPU, in the run's precision.

    Under torchrun the processes that it started; `fabric run` says for itself what it wants.
    """
    devices: int | str = "auto"
    nodes = 1
    if torch.distributed.is_torchelastic_launched() and "LT_DEVICES" not in os.environ:
        devices = local = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // local
    return Fabric(accelerator="auto", devices=devices, num_nodes=nodes, precision=FABRIC_PRECISION[config.precision])


def memory_layout(axes: int, device: torch.device) -> torch.memory_format:
    """Channels last on CUDA, as the tensor cores read 16-bit floats; elsewhere the usual layout."""
    if device.type != "cuda":
        return torch.contiguous_format
    return torch.channels_last if axes == 2 else torch.channels_last_3d


def device_name(fabric: Fabric, config: Config) -> str:
    """The device and how much of it, for the screen."""
    device = fabric.device
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} threads"
    processes = f", {fabric.world_size} processes" if fabric.world_size > 1 else ""
    return f"{device.type}, {name}{processes}, precision {config.precision}"


class Trainer:
    """One run's model, optimiser and losses; `train` goes from the last checkpoint, if there is one, to the end.

    Call `fabric.launch()` before. The first process writes: metrics.jsonl, relations/, checkpoint.pt.
    """

    def __init__(self, fabric: Fabric, config: Config, run: Path, model: nn.Module, data: RunData) -> None:
        self.fabric, self.config, self.run, self.data = fabric, config, run, data
        self.system = system(config.method)
        self.layout = memory_layout(config.axes, fabric.device)
        model.to(memory_format=self.layout)
        self.rates = {"general": general_rate(config)}
        self.groups = trained_groups(model)
        self.clip_sets = clip_sets(model, self.groups)
        self.objective = objective(config)
        # What draws at random in a step, dropout, is to draw the same after a resumption.
        self.draws = any(isinstance(module, nn.Dropout) for module in model.modules())
        optimizer = make_optimizer(self.groups, config)
        self.module = model
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.average = averaged(model, config.ema)
        loss = build_relation_loss(config, model)
        self.relation = None if loss is None else loss.to(fabric.device)
        # Before a checkpoint is read: the seed's weights, or those of the run that this one starts from.
        self.start = [parameter.detach().clone() for parameter in self.groups.get("general", [])]
        self.step, self.seconds = 0, 0.0
        self._restore()

    @property
    def result(self) -> nn.Module:
        """The network that is kept: with `Config.ema` the average of the weights, else the last ones."""
        return self.module if self.average is None else self.average.module

    def train(self, console: Console, board: Any = None) -> None:
        """Take the remaining steps; `board` is TensorBoard's SummaryWriter or None."""
        first = self.step
        chosen = self.system
        streams = {"target": True, "source": chosen.streams_source, "unlabelled": chosen.unlabelled}
        batches = {name: self._batches(name) for name, taken in streams.items() if taken}
        probe = self._probe()
        self.model.train()
        started = time.monotonic() - self.seconds
        with TrainingProgress(console, self.config.steps, first) as progress, self._log() as log:
            for _ in range(first, self.config.steps):
                values = self._train_step({name: next(stream) for name, stream in batches.items()})
                self.step += 1
                self.seconds = time.monotonic() - started
                if self._is_due(self.config.log_every) or self.step == 1:
                    line = {"step": self.step, **self._readable(values), "seconds": round(self.seconds, 3)}
                    progress.show(line)
                    self._write_line(log, board, line)
                if probe is not None and self._is_due(self.config.relations_every):
                    probe.write(self.step)
                if self._is_due(self.config.checkpoint_every):
                    self._save(log)
                progress.advance()

    def _train_step(self, batches: dict[str, Batch]) -> dict[str, Any]:
        """One optimiser step on the batches of its streams; what it returns becomes numbers only where it is logged."""
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.rates.get(group["name"], 1.0)
        if self.draws:
            torch.manual_seed(crc32(f"{self.config.seed} {self.fabric.global_rank} {self.step}".encode()))
        self.optimizer.zero_grad()
        segmentation, supervised, output = self._forward(batches)
        terms = self._terms(output, batches)
        loss = segmentation
        for added in (supervised, None if terms is None else terms.total):
            loss = loss if added is None else loss + added
        self.fabric.backward(loss)
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        norms = clip(self.groups, self.clip_sets, self.config)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        if self.relation is not None:
            self.relation.step()
        return {
            "loss": loss,
            "segmentation": segmentation,
            "supervised": supervised,
            "lambda": None if terms is None else terms.weight,
            "general": None if terms is None else terms.general,
            "target": None if terms is None else terms.target,
            **{f"grad_norm_{name}": norms.get(name) for name in ("general", "target", "decoder")},
            "learning_rate": rate,
            "output": output,
        }

    def _terms(self, output: DualEncoderOutput | None, batches: dict[str, Batch]) -> RelationTerms | None:
        if self.relation is None or output is None:
            return None
        if not self.config.anchor:
            return self.relation.terms(output)
        images = [batches[name]["image"] for name in ("target", "unlabelled") if name in batches]
        return self.relation.terms(output, images, batches["source"]["image"])

    def _forward(self, batches: dict[str, Batch]) -> tuple[Tensor, Tensor | None, DualEncoderOutput | None]:
        """The loss of the target's batch, that of the source's labels, and the maps that relations are of."""
        target, source = batches["target"], batches.get("source")
        if self.relation is not None:
            images = {name: batches[name]["image"] for name in ("source", "unlabelled") if name in batches}
            output = self.model(target["image"], **images, features=True)
            return self.objective(output.logits, target), None, output
        if source is not None:
            outputs, of_source = self.model(target["image"], source=source["image"])
            return self.objective(outputs, target), segmentation_loss(of_source, source["mask"]), None
        return self.objective(self.model(target["image"]), target), None, None

    def _readable(self, values: dict[str, Any]) -> dict[str, float | None]:
        """A line of metrics.jsonl without step and time; InputError if the training has diverged."""
        output: DualEncoderOutput | None = values.pop("output")
        line = without_nan({name: _number(value) for name, value in values.items()})
        if line["loss"] is None:
            raise InputError(
                f"the loss is not finite at step {self.step}: the training has diverged (precision "
                f"{self.config.precision}); start again with --precision 32 or another --seed"
            )
        for name in ("general", "target"):
            term, share = line[name], getattr(self.relation, name, None)
            line[f"weighted_{name}"] = None if term is None else line["lambda"] * share * term
        line |= self._ranks(output)
        line["moved_general"] = self._moved()
        return line

    def _ranks(self, output: DualEncoderOutput | None) -> dict[str, float | None]:
        model = two_encoders(self.module)
        if output is None or model is None:
            return {"rank_general": None, "rank_target": None}
        level = deepest_level(model)
        return {
            "rank_general": effective_rank(output.general[level]),
            "rank_target": effective_rank(output.target[level]),
        }

    def _moved(self) -> float | None:
        """How far the general encoder is from where it started: ||w - w0|| / ||w0||; None where it is not trained."""
        if not self.start:
            return None
        now = self.groups["general"]
        steps = [p.detach() - first for p, first in zip(now, self.start, strict=True)]
        difference = torch.nn.utils.get_total_norm(steps)
        return float(difference / torch.nn.utils.get_total_norm(self.start))

    def _batches(self, stream: str) -> Iterator[Batch]:
        """The stream's batches from this step on, each at every scale in turn."""
        scales = self.config.scales
        first, skipped = divmod(self.step, len(scales))
        loader = self._loader(stream, first_step=first, steps=-(-self.config.steps // len(scales)), augment=True)
        batches: Any = self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        for batch in batches:
            for scale in scales[skipped:]:
                sides = zip(self.config.size, self.config.divisors, strict=True)
                size = [training_sizes(length, (scale,), divisor)[0] for length, divisor in sides]
                yield {name: self._laid_out(tensor, size, scale) for name, tensor in batch.items()}
            skipped = 0

    def _laid_out(self, tensor: Tensor, size: Sequence[int], scale: float) -> Tensor:
        if scale != 1:
            tensor = scaled(tensor, size)
        # Not `contiguous`, which takes one channel to be in every layout and leaves its strides.
        return tensor.to(memory_format=self.layout)

    def _loader(self, stream: str, *, first_step: int, steps: int, augment: bool) -> Any:
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        samples = self.data.samples(stream, self.config, augment=augment, world_size=world_size)
        workers = self.config.workers if augment else 0
        return numbered_loader(
            samples, first_step=first_step, steps=steps, workers=workers, rank=rank, world_size=world_size
        )

    def _probe(self) -> RelationProbe | None:
        model = two_encoders(self.module)
        if model is None or not self.fabric.is_global_zero:
            return None
        source = self._first_images("probe-source") if self.data.source else None
        probe = RelationProbe(self.run / "relations", model, self._first_images("probe"), source)
        if self.step == 0:
            probe.write(0)
        return probe

    def _first_images(self, stream: str) -> Tensor:
        images: Tensor = next(iter(self._loader(stream, first_step=0, steps=1, augment=False)))["image"]
        return images.to(self.fabric.device)

    def _is_due(self, every: int) -> bool:
        return self.fabric.is_global_zero and (self.step % every == 0 or self.step == self.config.steps)

    def _log(self) -> Any:
        return (self.run / METRICS if self.fabric.is_global_zero else Path(os.devnull)).open("a", encoding="utf-8")

    def _write_line(self, log: Any, board: Any, line: dict[str, float | None]) -> None:
        log.write(json.dumps(line) + "\n")
        log.flush()
        if board is not None:
            for name, value in line.items():
                if value is not None and name != "step":
                    board.add_scalar(name, value, self.step)

    def _save(self, log: Any) -> None:
        # The log first: it must never be shorter than the checkpoint says, even after a power cut.
        os.fsync(log.fileno())
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "config": self.config.to_json(),
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "relation": None if self.relation is None else self.relation.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.config.init:
            # That run may be gone when this one goes on; what the seed gives is drawn again.
            state["start"] = self.start
        save_checkpoint(self.run, state)

    def _restore(self) -> None:
        state = load_checkpoint(self.run)
        if state is not None:
            check_same_config(self.run, self.config, state)
            try:
                self.module.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.fabric.strategy.precision.load_state_dict(state["scaler"])
                if self.relation is not None:
                    self.relation.load_state_dict(state["relation"])
                if self.average is not None:
                    self.average.load_state_dict(state["average"])
                self.start = [tensor.to(self.fabric.device) for tensor in state.get("start", self.start)]
                self.step, self.seconds = state["step"], state["seconds"]
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"{self.run / CHECKPOINT} is no checkpoint of this run ({str(error).splitlines()[0]}); "
                    "put the right one back, or remove it to start from step 0 with --resume"
                ) from None
        if self.fabric.is_global_zero:
            for folder in (self.run, self.run / "relations"):
                remove_leftovers(folder)
            cut_metrics(self.run, self.step)


def _number(value: Tensor | float | None) -> float | None:
    return None if value is None else float(value.detach() if isinstance(value, Tensor) else value)
