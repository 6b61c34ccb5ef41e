"""One training loop for every stage: optimizer, schedule, EMA, precision, checkpoint, resume.

It knows neither which stage it trains nor Ray: it gets a stage, a device and a callback. When
``torch.distributed`` is initialized, every process trains on its share of the same batches.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ractd_core.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    under_prefix,
    with_prefix,
)
from ractd_core.config import OptimConfig
from ractd_core.draws import Draws, generator

SAVE_EVERY = 120.0
"""Seconds of training after which a checkpoint is written: what a kill can cost at most."""
_SAVING_SHARE = 0.05
"""Of the time, for writing checkpoints; where that takes long they are written less often."""
_LOOK_EVERY = 0.5
"""Seconds, about, between two looks at whether to end or to save, which workers take together."""
_CHECK_EVERY = 10
_log = logging.getLogger(__name__)

Metrics = dict[str, float]
Callback = Callable[["Trainer", Metrics], bool | None]


class DivergedError(RuntimeError):
    """Training has failed: not finite, or collapsed; the message says why and at which step."""


class TrainingInterrupted(BaseException):
    """Training was asked to make room, and has left a checkpoint to go on from.

    No error: like KeyboardInterrupt it passes by whoever handles what goes wrong.
    """


class Stage(Protocol):
    """What the loop needs of a stage, which is an ``nn.Module``.

    ``network`` is trained and averaged. ``memory`` holds what else changes in training and belongs
    into a checkpoint. Calling the stage gives ``(loss, info)`` for one step's draws; ``after_step``
    is called after each update.
    """

    network: nn.Module
    memory: nn.ModuleDict

    def __call__(self, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and flat metrics of one batch."""
        ...

    def after_step(self) -> None:
        """Whatever follows an update, such as moving a target network."""
        ...

    def collapsed(self, metrics: Metrics) -> str | None:
        """Why the means of the metrics since the last report are the end, None if they are not."""
        ...


def learning_rate(config: OptimConfig, step: int) -> float:
    """Linear warm-up over ``warmup_steps``, then cosine to 0 at ``steps``."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(1, config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - config.warmup_steps) / span))


class _Pace:
    """At which step to look again, so that it is about every half second."""

    def __init__(self, step: int) -> None:
        self.next = self._step = step
        self._time = time.monotonic()

    def steps(self, step: int) -> int:
        """How many steps to go until the next look, at the speed since the last one."""
        now, taken = time.monotonic(), step - self._step
        speed = taken / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        # Steps can become slower: not many more than since the last look.
        return max(1, min(int(_LOOK_EVERY * speed), 2 * taken))


class Trainer:
    """Trains ``stage.network``; ``ema`` is its moving average, in eval mode, for evaluation.

    With ``checkpoint`` given, the run continues from that file if it is there and belongs to
    ``identity``; a damaged file is reported and training starts anew.

    ``micro_batch`` rows at most go through the networks at a time, and their gradients are added
    up: memory for time. ``compile`` lets torch compile the networks, which takes minutes once and
    is for long runs on a GPU. Neither changes the result by more than rounding, but that dropout
    drops other entries, nor what checkpoints hold. ``saved`` is called after each checkpoint that
    this process has written. Raises ValueError for a ``micro_batch`` below 1
    and RuntimeError if there is no compiler.

    On a CPU with the same number of threads, equal arguments and seeds give equal weights to the
    last bit, resumed or not. On a GPU they give equal batches, but cuDNN and atomic additions
    round in varying order. ``torch.use_deterministic_algorithms`` is the caller's to set: it holds
    for the whole process, is slower, and needs ``CUBLAS_WORKSPACE_CONFIG`` before CUDA starts.
    """

    def __init__(
        self,
        stage: Stage,
        config: OptimConfig,
        *,
        seed: int,
        device: torch.device,
        checkpoint: Path | None = None,
        identity: str = "",
        micro_batch: int | None = None,
        compile: bool = False,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"micro_batch {micro_batch} must be at least 1 row, or None")
        assert isinstance(stage, nn.Module)
        self.stage: Stage = stage
        self.config, self.seed, self.device = config, seed, device
        self.network = stage.network.to(device)
        self.step = 0
        self._checkpoint, self._identity = checkpoint, identity
        self._micro_batch, self._after_saving = micro_batch, saved
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.workers = torch.distributed.get_world_size() if distributed else 1
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self._parameters = [p for p in self.network.parameters() if p.requires_grad]
        # Since the last report: the metrics' sums, and the number of steps in them.
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        # Seconds and worker seconds of earlier processes, and since when this one's count.
        self._before, self._lap = (0.0, 0.0), time.monotonic()
        self._saved, self._saving = time.monotonic(), 0.0
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._loss: nn.Module = stage.to(device)
        self._restore()
        if compile:
            _compile_networks(stage, device)
        if self.workers > 1:
            self._loss = DistributedDataParallel(self._loss, broadcast_buffers=False)

    def run(
        self,
        *,
        every: int,
        callback: Callback = lambda trainer, metrics: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to ``config.steps``; whether it was asked to end.

        After every ``every`` steps and at the end, ``callback`` is called with the means of the
        metrics since the last call, on every worker, and then a checkpoint is written. If it
        returns True on worker 0, training ends early on all of them. Raises :class:`DivergedError`
        before anything not finite is saved.

        In between a checkpoint is written every :data:`SAVE_EVERY` seconds. About twice a second
        ``interrupted`` is asked: once it is true on any worker, a checkpoint is written and
        :class:`TrainingInterrupted` is raised on all of them. What goes on from such a checkpoint
        reports what the undisturbed run would have.
        """
        self._lap = self._saved = time.monotonic()
        pace = _Pace(self.step)
        while True:
            # Also where a checkpoint was written right before the report.
            due = self._count > 0 and (self.step % every == 0 or self.step == self.config.steps)
            if due or self.step >= pace.next:
                self._look(pace, interrupted())
            if due and self._report(callback):
                return True
            if self.step >= self.config.steps:
                return False
            info = self._update()
            self._count += 1
            for key, value in info.items():
                self._sums[key] = self._sums[key] + value if key in self._sums else value
            if self.step % _CHECK_EVERY == 0:
                self._check_finite(info)

    def _report(self, callback: Callback) -> bool:
        """What is due: the callback, then a checkpoint; whether training is to end."""
        self._check_all_finite()
        metrics = self._means()
        reason = self.stage.collapsed(metrics)
        if reason is not None:
            raise DivergedError(f"collapsed by step {self.step}: {reason}")
        self._sums, self._count = {}, 0
        stop = callback(self, metrics)
        self.save()
        return self._agreed(bool(stop))

    def _look(self, pace: _Pace, interrupted: bool) -> None:
        """Save, and end, if any worker wants to; all look at the same step, and again together."""
        rest = max(SAVE_EVERY, self._saving / _SAVING_SHARE)
        late = self.rank == 0 and time.monotonic() - self._saved >= rest
        stop, save, less = self._most(interrupted, late, -pace.steps(self.step))
        pace.next = self.step - less
        if self._count and (stop or save):
            self._check_all_finite()
            if self.workers > 1:
                self._sums = {key: self._mean(value) for key, value in self._sums.items()}
            self.save()
        if stop:
            raise TrainingInterrupted(f"interrupted at step {self.step}")

    def lap(self) -> dict[str, float]:
        """The ``seconds`` since the last call and the mean number of ``workers`` in them.

        Earlier processes count, as far as their checkpoints say.
        """
        seconds, device_seconds = self._spent()
        self._before, self._lap = (0.0, 0.0), time.monotonic()
        return {"seconds": seconds, "workers": round(device_seconds / max(seconds, 1e-9), 3)}

    def _spent(self) -> tuple[float, float]:
        seconds = time.monotonic() - self._lap
        return self._before[0] + seconds, self._before[1] + self.workers * seconds

    def save(self) -> None:
        """Write the checkpoint (worker 0 only), if a path was given."""
        start = time.monotonic()
        if self._checkpoint is not None and self.rank == 0:
            tensors = with_prefix("network", self.network.state_dict())
            tensors |= with_prefix("ema", self.ema.state_dict())
            tensors |= with_prefix("memory", self.stage.memory.state_dict())
            for index, parameter in enumerate(self._parameters):
                tensors |= with_prefix(f"optimizer.{index}", self._optimizer.state[parameter])
            tensors |= with_prefix("sums", self._sums)
            about = {"step": self.step, "identity": self._identity}
            about |= {"count": self._count, "spent": self._spent()}
            save_checkpoint(self._checkpoint, tensors, about)
            self._after_saving()
        self._saved = time.monotonic()
        self._saving = self._saved - start

    def _update(self) -> dict[str, Tensor]:
        config, step = self.config, self.step
        draws = Draws(
            self.seed, step, config.batch_size, self.device, rank=self.rank, workers=self.workers
        )
        # Dropout alone takes its numbers from the global generator.
        torch.manual_seed(generator(self.seed, step).initial_seed() % 2**31 + self.rank)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        self._loss.train()
        self._optimizer.zero_grad(set_to_none=True)
        info = self._accumulate(draws)
        # An infinite limit scales by exactly 1, and the norm is still reported.
        norm = nn.utils.clip_grad_norm_(self._parameters, config.grad_clip or math.inf)
        self._optimizer.step()
        # Early on the average follows the weights closely, so that short runs have one worth using.
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.ema.parameters()), list(self.network.parameters()), 1 - decay
            )
        self.stage.after_step()
        self.step += 1
        return {**info, "grad_norm": norm.detach()}

    def _accumulate(self, draws: Draws) -> dict[str, Tensor]:
        """Gradients and metrics of the mean loss over the rows of ``draws``."""
        bf16 = self.config.precision == "bf16"
        sums: dict[str, Tensor] = {}
        parts = draws.parts(self._micro_batch or draws.rows)
        for part in parts:
            # Workers' shares can differ by a row: their mean is to be the mean over the batch.
            share = part.rows * self.workers / self.config.batch_size
            with nullcontext() if part is parts[-1] else self._apart():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    loss, info = self._loss(part)
                (share * loss).backward()
            for key, value in info.items():
                sums[key] = sums[key] + share * value if key in sums else share * value
        return sums

    def _apart(self) -> AbstractContextManager[None]:
        """Where workers do not average their gradients yet."""
        if isinstance(self._loss, DistributedDataParallel):
            return self._loss.no_sync()
        return nullcontext()

    def _check_finite(self, info: dict[str, Tensor]) -> None:
        """Raise DivergedError on all workers if a value is not finite on any."""
        finite = torch.isfinite(torch.stack([value.float() for value in info.values()])).float()
        if self.workers > 1:
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        bad = [key for key, fine in zip(info, finite.tolist(), strict=True) if not fine]
        if bad:
            raise DivergedError(f"{', '.join(bad)} not finite at step {self.step}")

    def _agreed(self, stop: bool) -> bool:
        """Worker 0's answer, on every worker."""
        if self.workers == 1:
            return stop
        answer = torch.tensor(stop, dtype=torch.uint8, device=self.device)
        torch.distributed.broadcast(answer, src=0)
        return bool(answer)

    def _most(self, *values: int) -> list[int]:
        """The largest of each value over the workers."""
        if self.workers == 1:
            return list(values)
        most = torch.tensor(values, device=self.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return [int(value) for value in most]

    def _check_all_finite(self) -> None:
        """As :meth:`_check_finite`, of all steps since the last report and of the weights."""
        self._check_finite(self._sums)
        self._check_finite({"weights": self._largest_weight()})

    def _largest_weight(self) -> Tensor:
        """The last update can have spoilt weights whose loss nobody has seen yet."""
        with torch.no_grad():
            return torch.stack([p.abs().max() for p in self._parameters]).sum()

    def _means(self) -> Metrics:
        means = self._mean(torch.stack([v.float() for v in self._sums.values()])) / self._count
        return dict(zip(self._sums, means.tolist(), strict=True))

    def _mean(self, value: Tensor) -> Tensor:
        """The mean over the workers."""
        if self.workers > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
            value /= self.workers
        return value

    def _restore(self) -> None:
        if self._checkpoint is None or not self._checkpoint.exists():
            return
        try:
            tensors, about = load_checkpoint(self._checkpoint)
            if about.get("identity") != self._identity:
                raise CheckpointError(f"{self._checkpoint} belongs to another run")
        except CheckpointError as error:
            _log.warning("%s; training starts anew", error)
            return
        self.network.load_state_dict(under_prefix("network", tensors))
        self.ema.load_state_dict(under_prefix("ema", tensors))
        self.stage.memory.load_state_dict(under_prefix("memory", tensors))
        for index, parameter in enumerate(self._parameters):
            state = under_prefix(f"optimizer.{index}", tensors)
            if state:
                # fused AdamW keeps its step count beside the moments; safetensors keeps its shape.
                self._optimizer.state[parameter] = {
                    key: value.to(parameter.device) for key, value in state.items()
                }
        self._sums = {
            key: value.to(self.device) for key, value in under_prefix("sums", tensors).items()
        }
        self.step, self._count = int(about["step"]), int(about.get("count", 0))
        seconds, device_seconds = about.get("spent", (0.0, 0.0))
        self._before = (float(seconds), float(device_seconds))


def check_compiler(device: torch.device) -> None:
    """Raise RuntimeError if there is no compiler for :class:`Trainer`'s ``compile``."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")  # as torch looks for it
        if shutil.which(compiler) is None:
            raise RuntimeError(
                f"compile needs a C++ compiler, and {compiler} cannot be found; install it, name "
                "another in CXX, or leave compile out"
            )


def _compile_networks(stage: nn.Module, device: torch.device) -> None:
    """Compile the stage's networks in place: each once, where the whole loss holds them many times.

    Only their calls change, so that names and checkpoints stay as they are.
    """
    check_compiler(device)
    for network in _networks(stage):
        network.compile()


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """The networks of a stage, whose ``network`` and ``memory`` may be tables of them."""
    for child in module.children():
        if isinstance(child, nn.ModuleDict):
            # A table is never called itself, so compiling it would do nothing.
            yield from _networks(child)
        elif not hasattr(child, "after_step"):  # else a stage of a joint one, whose tables have all
            yield child
