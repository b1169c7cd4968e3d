"""The training loop: transformers' Trainer with this library's batches, loss, optimiser, evaluation and checkpoints."""

from __future__ import annotations

import contextlib
import json
import math
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy

from latentpress.checkpoints.io import read_config
from latentpress.compressors import Size
from latentpress.data.rows import KINDS, Example
from latentpress.model import PressModel
from latentpress.training import sharding
from latentpress.training.checkpoint import (
    COUNTERS,
    GUARD,
    PRESS,
    checkpoints,
    export_press,
    kept,
    load_masters,
    new_checkpoint,
    save_masters,
    trained,
)
from latentpress.training.data_stream import Step, StepStream
from latentpress.training.evaluate import DevSet, dev_metrics
from latentpress.training.guard import LossGuard
from latentpress.training.objective import (
    IMITATION,
    RowLoss,
    imitation_loss,
    latents_of,
    passes,
    row_loss,
    step_loss,
)
from latentpress.training.optimizer import adamw
from latentpress.training.recipes import Recipe
from latentpress.training.teacher import Teacher


class Rows(nn.Module):
    """The press as a module whose forward pass is the loss of rows, which is what data parallelism wraps."""

    def __init__(self, press: PressModel, teacher: Teacher | None = None, imitated: PressModel | None = None) -> None:
        super().__init__()
        self.press = press
        # No modules of this one: nothing of them is trained, saved or sent to other processes.
        self._others = (teacher, imitated)
        self._no_split_modules = [type(press.decoder.body.layers[0]).__name__]  # what is shared out as one part

    def forward(self, examples: Sequence[Example], size: Size) -> RowLoss:
        """Losses of rows at a size, summed."""
        teacher, imitated = self._others
        if imitated is not None:
            return imitation_loss(self.press, examples, size, imitated)
        return row_loss(self.press, examples, size, teacher=teacher)

    def judge(self, *args: Any, **given: Any) -> dict[str, float]:
        """See `dev_metrics`."""
        return dev_metrics(self.press, *args, **given)


def training_arguments(recipe: Recipe, out: Path) -> TrainingArguments:
    """What of a recipe transformers' Trainer is told."""
    args = TrainingArguments(
        output_dir=str(out),
        max_steps=recipe.steps,
        per_device_train_batch_size=1,
        max_grad_norm=recipe.clip,
        seed=recipe.seed,
        logging_steps=recipe.log_every,
        logging_nan_inf_filter=False,  # it would hide NaN from the log and train on
        eval_strategy="steps",
        eval_steps=recipe.eval_every,
        save_strategy="steps",
        save_steps=recipe.save_every,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )
    args._n_gpu = min(1, args.n_gpu)  # several GPUs are used through `accelerate launch`, never through nn.DataParallel
    return args


class PressTrainer(Trainer):
    """Trains a press.

    Args:
        press: the model; only its adapters, converter, head, compressor and residual require gradients.
        recipe: every setting.
        stream: its steps.
        dev: what is evaluated, None for nothing.
        tokenizer: of the decoder.
        out: the out folder.
        args: see `training_arguments`.
        provenance: what the press's config says of its training.
        callbacks: watch the training.
        teacher: what the press learns from beside the targets, None for nothing.
        imitated: press whose latents are learned, and nothing else; None for targets.
    """

    def __init__(
        self,
        press: PressModel,
        recipe: Recipe,
        stream: StepStream,
        dev: DevSet | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        out: Path,
        args: TrainingArguments,
        provenance: dict[str, Any],
        callbacks: Sequence[TrainerCallback] = (),
        teacher: Teacher | None = None,
        imitated: PressModel | None = None,
    ) -> None:
        self._imitated, self._teacher = imitated, teacher
        self.press, self.recipe, self.stream, self.dev, self.out = press, recipe, stream, dev, out
        self.decoder_tokenizer, self.provenance = tokenizer, provenance
        self.loss_is_scaled_for_ga = True
        self.counters: dict[str, float] = {"questions": 0, "examples": 0, "context_tokens": 0, "best_loss": math.inf}
        # Losses on other dev rows or ratios cannot be compared with these.
        self.counters["judged_by"] = zlib.crc32(repr((recipe.dev_rows, recipe.dev_ratios)).encode())
        self._sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        self._seconds = 0.0
        self._guard = LossGuard(self._remedy)
        self._numbers: frozenset[str] = frozenset()  # parameters that are numbers where weights are not shared out
        if dev is None:
            args.eval_strategy = IntervalStrategy.NO
        self._rows = Rows(press, teacher, imitated)
        super().__init__(
            model=self._rows,
            args=args,
            train_dataset=stream,
            eval_dataset=[] if dev else None,
            data_collator=_only,
            callbacks=list(callbacks),
        )

    # Processes

    def create_accelerator_and_postprocess(self) -> None:
        """Shares weights out on CPUs too, if asked for."""
        super().create_accelerator_and_postprocess()
        sharding.use_on_cpus(self.accelerator)
        self.is_fsdp_enabled = getattr(self.accelerator.state, "fsdp_plugin", None) is not None

    def _prepare_for_training(self, *args: Any) -> Any:
        prepared = super()._prepare_for_training(*args)  # type: ignore[no-untyped-call]
        register_fsdp_forward_method(self._rows, "judge")  # changes nothing where weights are not shared out
        return prepared

    def _put_together(self) -> contextlib.AbstractContextManager[None]:
        if not self.is_fsdp_enabled:
            return contextlib.nullcontext()
        return sharding.put_together(self._rows, again=self.accelerator.state.fsdp_plugin.reshard_after_forward)

    def first_says(self, answer: bool) -> bool:
        """The first process's answer: the others look at the out folder a moment later. All processes call it."""
        (said,) = self._over_processes([float(answer and self.args.process_index == 0)])
        return said > 0

    def _over_processes(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes."""
        local = torch.tensor(
            values, dtype=torch.float64 if self.args.device.type != "mps" else torch.float32, device=self.args.device
        )
        total = self.accelerator.reduce(local, "sum") if self.args.world_size > 1 else local
        return [float(value) for value in total]

    # Data

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Steps in order, all of them in every process: a process takes its share of the rows in `compute_loss`."""
        return DataLoader(self.stream, batch_size=1, collate_fn=_only)

    # Loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Seeds dropout by the step, so that it does not depend on what ran before; then forward and backward."""
        step: Step = inputs["step"]
        torch.manual_seed((self.recipe.seed * 1_000_003 + step.number) * 4_099 + self.args.process_index)
        start = time.perf_counter()
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._seconds += time.perf_counter() - start
        for name, value in (
            ("questions", step.questions),
            ("examples", len(step.examples)),
            ("context_tokens", step.tokens),
        ):
            self.counters[name] += value
            self._add(name, value, 0)
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of this process's share of a step; see `step_loss`.

        Raises:
            TrainingError: it is not finite, or the loss diverges; in all processes at once.
        """
        step: Step = inputs["step"]
        *first, last = self._passes(step)
        before = 0.0
        for part in first:
            with self.accelerator.no_sync(model):
                loss, _ = self._part(model, *part, step)
                self.accelerator.backward(loss)
            before += float(loss.detach())
        loss, rows = self._part(model, *last, step)
        (total,) = self._over_processes([(float(loss.detach()) + before) / self.args.world_size])
        self._guard.check_finite("the loss", total, self.state.global_step + 1)
        self._guard.check_divergence(total, self.state.global_step + 1)
        loss = loss + before  # what went back already is in the value alone, which is logged
        return (loss, rows) if return_outputs else loss

    def _passes(self, step: Step) -> list[tuple[Sequence[Example], bool]]:
        """This process's passes over its share of a step, and whether each counts.

        A process without a share runs a row all the same, and drops its loss: the others wait for its gradients. Where
        weights are shared out every process has as many passes as any other, for each puts weights together.
        """
        size = self.args.world_size
        cut = [
            passes(share, self.recipe.tokens_per_pass) if (share := step.examples[i::size]) else [] for i in range(size)
        ]
        mine = cut[self.args.process_index]
        wanted = max(map(len, cut)) if self.is_fsdp_enabled else max(1, len(mine))
        return [*[(step.examples[:1], False)] * (wanted - len(mine)), *((part, True) for part in mine)]

    def _part(self, model: nn.Module, examples: Sequence[Example], counted: bool, step: Step) -> tuple[Tensor, RowLoss]:
        """Loss of some rows of a step, as their part of the whole step's."""
        rows: RowLoss = model(examples, step.size)
        if counted:
            for kind, (total, count) in rows.by_kind.items():
                self._add(kind, total, count)
            self._add("ratio_error", float(rows.ratio.detach()), rows.labelled)
        labels = step.labels
        if self._imitated is not None:
            labels = latents_of(self.press, step.examples, step.size)
        loss = step_loss(
            rows,
            labels=labels,
            labelled=step.labelled,
            weight=self.recipe.ratio_loss,
            processes=self.args.world_size,
        )
        return (loss if counted else loss * 0.0), rows

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = sharding.whole_tensor(super()._get_grad_norm(model, grad_norm))  # type: ignore[no-untyped-call]
        self._guard.check_finite("the norm of the gradient", float(norm), self.state.global_step + 1)
        return norm

    def _remedy(self) -> str:
        found = checkpoints(self.out)
        kept = f"the last good checkpoint is {found[-1][1]}" if found else "there is no checkpoint yet"
        return (
            f"{kept}; lower learning_rate={self.recipe.learning_rate:g} or clip={self.recipe.clip:g} in another out "
            "folder (with --from-press to go on from the press of this one)"
        )

    # Optimiser

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """See `adamw`."""
        if self.optimizer is None:
            if self.is_fsdp_enabled:
                self._numbers = sharding.make_shareable(self.press)
            self.optimizer = adamw(self.press, self.recipe)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The recipe's schedule, by steps."""
        if self.lr_scheduler is None:
            wrapped: Any = optimizer or self.optimizer
            inner = getattr(wrapped, "optimizer", wrapped)  # accelerate wraps it
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(inner, self.recipe.learning_rate_factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Log and evaluation

    def _add(self, name: str, total: float, count: float) -> None:
        before = self._sums[name]
        self._sums[name] = (before[0] + total, before[1] + count)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a line of the log: losses by kind, speed, and what was seen so far."""
        if "loss" in logs:
            names = (*KINDS, IMITATION, "ratio_error")
            sums = self._over_processes([value for name in names for value in self._sums[name]])
            for i, name in enumerate(names):
                if sums[2 * i + 1]:
                    logs[name] = sums[2 * i] / sums[2 * i + 1]
            for name in ("examples", "context_tokens"):
                logs[f"{name}_per_second"] = self._sums[name][0] / max(self._seconds, 1e-9)
                logs[f"{name}_seen"] = self.counters[name]
            logs["questions_seen"] = self.counters["questions"]
            self._sums.clear()
            self._seconds = 0.0
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Losses with right and wrong latents at each dev size, and F1 (see `dev_metrics`); keeps the best press."""
        assert self.dev is not None
        self.press.eval()
        share = slice(self.args.process_index, None, self.args.world_size)
        # Processes have unequal shares: each needs all weights, and none of the others.
        with self._put_together():
            found = self._rows.judge(
                self.dev, self.recipe, self.decoder_tokenizer, share=share, reduce=self._over_processes
            )
        if found["loss"] < self.counters["best_loss"]:
            self.counters["best_loss"] = found["loss"]
            self.export({name: round(value, 4) for name, value in found.items()})
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def export(self, metrics: dict[str, float]) -> None:
        """Writes the press as it is now to the out folder. All processes call it."""
        own = sharding.whole(self.press.own_state(), self._numbers)
        adapters = {role: sharding.whole(state, self._numbers) for role, state in self.press.adapter_states().items()}
        if not self.args.should_save:
            return
        seen = {name: int(self.counters[name]) for name in ("questions", "examples", "context_tokens")}
        trained_with = {**self.provenance, "step": self.state.global_step, "seen": seen, "dev": metrics}
        config = self.recipe.press_config(self.press.config.base, trained_with)
        export_press(self.out / PRESS, self.press, config, own=own, adapters=adapters)

    def export_is_behind(self) -> bool:
        """Whether the out folder lacks the press of a finished training, because its last export failed."""
        if not (self.out / PRESS).exists():
            return True
        # With dev records the best press is kept, whichever step it is of.
        return self.dev is None and read_config(self.out / PRESS)[0].trained.get("step") != self.recipe.steps

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves by rename; Trainer itself writes into the final folder, where a kill leaves half a checkpoint."""
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        moved = trained(self.press)
        masters = sharding.whole(kept(self.press), self._numbers)
        optimizer = sharding.whole_optimizer_state(self.optimizer, moved, self._numbers)
        if self.args.should_save:
            with new_checkpoint(self.out, self.state.global_step) as folder:
                save_masters(masters, folder)
                torch.save(optimizer, folder / OPTIMIZER_NAME)
                torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
                (folder / COUNTERS).write_text(json.dumps({**self.counters, GUARD: self._guard.state()}))
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        if self.dev is None:  # nothing says which press is the best; the newest is kept
            self.export({})
        if self._teacher is not None:
            self._teacher.save()
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Leaves the weights as `load` has set them, before they are shared out."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        folder = Path(checkpoint)
        whole = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(sharding.shared_optimizer_state(whole, self.optimizer))
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))

    def load(self, folder: Path) -> None:
        """Takes weights, counters and the step from a checkpoint, before `train`, which reads the rest.

        Raises:
            TrainingError: they do not fit.
        """
        load_masters(self.press, folder)
        counters = json.loads((folder / COUNTERS).read_text())
        if GUARD in counters:
            self._guard.restore(counters.pop(GUARD))
        if counters.get("judged_by", self.counters["judged_by"]) != self.counters["judged_by"]:
            counters["best_loss"] = math.inf
        self.counters = {**counters, "judged_by": self.counters["judged_by"]}
        self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))


def _only(batch: list[Step]) -> dict[str, Step]:
    """The one step of a batch."""
    return {"step": batch[0]}
