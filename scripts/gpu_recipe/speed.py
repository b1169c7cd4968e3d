"""How fast a training is, and what share of the chip's peak that is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.work import backward_work, forward_work, latents_work, logits_work, row_work
from latentpress.compressors import Size
from latentpress.data.rows import Example
from latentpress.model import PressModel
from latentpress.training.objective import latents_of

# Dense bfloat16 matrix products by the name that CUDA gives, TFLOP/s, from the makers' data sheets. The first that is
# part of the name counts.
_PEAKS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
}


def peak_tflops(given: float | None, device: str) -> float | None:
    """The chip's highest rate of bfloat16 products, TFLOP/s: as given, or by its name; None if neither says.

    Args:
        given: by the user.
        device: name of the chip.
    """
    return given or next((peak for name, peak in _PEAKS.items() if name.lower() in device.lower()), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast some steps were."""

    steps: int
    """Number of steps timed."""
    seconds: float
    """All of them together, data and optimiser included; evaluations and checkpoints not."""
    samples: int
    """Rows."""
    tokens: int
    """Context tokens."""
    operations: float
    """Of the products that the rows cannot do without; see `operations`."""
    peak_bytes: int
    """Most memory of the GPU that was allocated; 0 without one."""

    def line(self, peak: float | None) -> str:
        """Samples and tokens a second, the share of a peak in TFLOP/s, and the least time of a step at that peak."""
        rate = self.operations / self.seconds / 1e12
        share = f"{_shown(100 * rate / peak)}% of {peak:g}" if peak else "share unknown; give --peak-tflops"
        floor = f", floor {_shown(self.operations / self.steps / peak / 1e12)} s" if peak else ""
        memory = f", {self.peak_bytes / 1e9:.1f} GB" if self.peak_bytes else ""
        return (
            f"{_shown(self.samples / self.seconds)} samples/s, {_shown(self.tokens / self.seconds)} tokens/s, "
            f"{_shown(rate)} TFLOP/s ({share}), {_shown(self.seconds / self.steps)} s a step{floor}{memory}"
        )


def _shown(value: float) -> str:
    """A number in three digits, or more where it has more before its point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def operations(model: PressModel, examples: Sequence[Example], size: Size, *, imitates: bool) -> float:
    """Operations of a forward and backward pass over rows that no implementation can do without.

    Matrix products (two operations a multiply-add) of the layers, the adapters, the converter and the output layer at
    the labels, and attention where tokens see each other. Left out: the compressor's own, a teacher's predictions,
    which are made once a record, and the press that is imitated.

    Args:
        model: the press.
        examples: the rows.
        size: of every window.
        imitates: latents alone are learned; the decoder does not run.
    """
    work = latents_work(model, latents_of(model, examples, size)) * 3
    windows = [len(window) + 1 for example in examples for window in example.windows]
    if (encoder := model.encoder) is not None:
        causal = model.compressor.visibility == "causal"
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            pairs = sum(n * (n + 1) / 2 if causal else n * n for n in windows)
            work = work + backward_work(encoder, sum(windows), pairs)
        else:
            work = work + forward_work(encoder, windows, causal=causal)
    if imitates:
        return work.operations
    tokens, pairs = 0, 0.0
    for example in examples:
        read, seen = row_work(model, example, latents_of(model, [example], size))
        tokens, pairs = tokens + read, pairs + seen
    work = work + backward_work(model.decoder, tokens, pairs)
    vocabulary = model.decoder.body.config.vocab_size
    labels = sum(example.labels for example in examples)
    return (work + logits_work(model.decoder, labels, vocabulary, backward=True)).operations


class Meter(TrainerCallback):
    """Times the steps of a training and counts what is in them.

    Args:
        imitates: of each phase that is trained, whether it learns latents alone; see `operations`.
        samples: stops the training after so many, without a checkpoint; None for not at all.
        seconds: likewise after so long.
    """

    def __init__(self, imitates: Sequence[bool], *, samples: int | None = None, seconds: float | None = None) -> None:
        self._phases, self._most_samples, self._most_seconds = iter(imitates), samples, seconds
        self._imitates = False
        self._begun = 0.0
        self._since: float | None = None
        self._hook: Any = None
        self._rows: list[tuple[int, int, float]] = []
        self._steps: list[tuple[float, int, int, float]] = []

    @property
    def steps(self) -> list[tuple[float, int]]:
        """Seconds and samples of each step."""
        return [(seconds, samples) for seconds, samples, _, _ in self._steps]

    def pace(self) -> Pace | None:
        """What was measured, without the first step; None if no step was."""
        timed = self._steps[1:] or self._steps
        if not timed:
            return None
        seconds, samples, tokens, work = (sum(column) for column in zip(*timed, strict=True))
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return Pace(
            steps=len(timed), seconds=seconds, samples=samples, tokens=tokens, operations=work, peak_bytes=memory
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Looks at every forward pass from now on."""
        self._begun, self._since = time.monotonic(), None
        self._imitates = next(self._phases)
        self._hook = kwargs["model"].register_forward_pre_hook(self._count)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock, unless it runs since the end of the step before."""
        self._rows.clear()
        if self._since is None:
            self._since = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Takes the time; the norm of the gradient has been read by then, so that no device is behind."""
        now = time.perf_counter()
        assert self._since is not None
        samples, tokens, work = (sum(column) for column in zip(*self._rows, strict=True))
        self._steps.append((now - self._since, int(samples), int(tokens), work))
        self._since = now
        late = self._most_seconds is not None and time.monotonic() - self._begun >= self._most_seconds
        enough = self._most_samples is not None and sum(one[1] for one in self._steps) >= self._most_samples
        if late or enough:
            control.should_training_stop = True

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Stops the clock for what is no step."""
        self._since = None

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Stops the clock for what is no step."""
        self._since = None

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        """Stops the clock for what is no step."""
        self._since = None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Looks no longer."""
        self._hook.remove()

    def _count(self, rows: Any, given: tuple[Sequence[Example], Size]) -> None:
        examples, size = given
        work = operations(rows.press, examples, size, imitates=self._imitates)
        self._rows.append((len(examples), sum(example.tokens for example in examples), work))
