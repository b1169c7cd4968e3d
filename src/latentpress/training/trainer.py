"""The training loop: transformers' Trainer with this library's batches, loss, optimiser, evaluation and checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy

from latentpress.compressors import Ratio
from latentpress.data.rows import Example
from latentpress.errors import TrainingError
from latentpress.lora import LoraLinear
from latentpress.model import PressModel
from latentpress.training.checkpoint import COUNTERS, PRESS, checkpoints, export_press, load_masters, new_checkpoint, save_masters, trained
from latentpress.training.data_stream import Step, StepStream
from latentpress.training.evaluate import DevSet, evaluate_f1, loss_sums
from latentpress.training.objective import RowLoss, row_loss
from latentpress.training.recipes import Recipe

_DIVERGED_NATS = 3.0
_DIVERGED_STEPS = 50


class Rows(nn.Module):
    """The press as a module whose forward pass is the loss of rows, which is what data parallelism wraps."""

    def __init__(self, press: PressModel) -> None:
        super().__init__()
        self.press = press

    def forward(self, examples: Sequence[Example], ratio: int) -> RowLoss:
        """Losses of rows at a ratio, summed."""
        return row_loss(self.press, examples, Ratio(ratio))


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


def step_loss(rows: RowLoss, step: Step, weight: float, processes: int) -> Tensor:
    """Loss of one process's share of a step, so that the mean over the processes is the loss of the whole step.

    `mean_p(processes * sum_p / total) = sum / total`: the token mean over the global batch, and the mean over its labelled windows.

    Args:
        rows: losses of the share, summed.
        step: the whole step.
        weight: of the ratio loss, lambda.
        processes: their number; data parallelism averages their gradients.
    """
    return processes * (rows.lm / max(1, step.labels) + weight * rows.ratio / max(1, step.labelled))


class PressTrainer(Trainer):  # type: ignore[misc]
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
    ) -> None:
        self.press, self.recipe, self.stream, self.dev, self.out = press, recipe, stream, dev, out
        self.decoder_tokenizer, self.provenance = tokenizer, provenance
        self.loss_is_scaled_for_ga = True
        self.counters: dict[str, float] = {"questions": 0, "examples": 0, "context_tokens": 0, "best_loss": math.inf}
        self._sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        self._seconds = 0.0
        self._recent: list[float] = []
        self._best_mean, self._above = math.inf, 0
        if dev is None:
            args.eval_strategy = IntervalStrategy.NO
        super().__init__(model=Rows(press), args=args, train_dataset=stream, eval_dataset=[] if dev else None, data_collator=_only, callbacks=list(callbacks))

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
        for name, value in (("questions", step.questions), ("examples", len(step.examples)), ("context_tokens", step.tokens)):
            self.counters[name] += value
            self._add(name, value, 0)
        return loss

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Loss of this process's share of a step; see `step_loss`.

        Raises:
            TrainingError: it is not finite, or the loss diverges.
        """
        step: Step = inputs["step"]
        share = step.examples[self.args.process_index :: self.args.world_size]
        rows: RowLoss = model(share or step.examples[:1], step.ratio)
        loss = step_loss(rows, step, self.recipe.ratio_loss, self.args.world_size)
        if not share:
            return loss * 0.0
        for kind, (total, count) in rows.by_kind.items():
            self._add(kind, total, count)
        self._add("ratio_error", float(rows.ratio.detach()), rows.labelled)
        self._check(float(loss.detach()), float(rows.lm.detach()) / max(1, rows.tokens))
        return (loss, rows) if return_outputs else loss

    def _check(self, loss: float, token_mean: float) -> None:
        """Stops a training that cannot come to anything."""
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {self.state.global_step + 1}; {self._remedy()}")
        self._recent = [*self._recent[1 - _DIVERGED_STEPS :], token_mean]
        if len(self._recent) < _DIVERGED_STEPS:
            return
        mean = sum(self._recent) / len(self._recent)
        self._best_mean = min(self._best_mean, mean)
        self._above = self._above + 1 if mean > self._best_mean + _DIVERGED_NATS else 0
        if self._above >= _DIVERGED_STEPS:
            raise TrainingError(
                f"the loss diverges: {mean:.2f} nats a token over the last {_DIVERGED_STEPS} steps, it was {self._best_mean:.2f} at its best; {self._remedy()}"
            )

    def _remedy(self) -> str:
        found = checkpoints(self.out)
        kept = f"the last good checkpoint is {found[-1][1]}" if found else "there is no checkpoint yet"
        return f"{kept}; lower learning_rate={self.recipe.learning_rate:g} (with --from-press to go on from the press) or clip={self.recipe.clip:g} in another out folder"

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        if not math.isfinite(float(norm)):
            raise TrainingError(f"the gradient's norm is {float(norm)} at step {self.state.global_step + 1}; {self._remedy()}")
        return norm

    # Optimiser

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the float32 masters: adapters and the rest with their own learning rates, weight decay for matrices only."""
        if self.optimizer is None:
            adapters = {id(p) for layer in self.press.modules() if isinstance(layer, LoraLinear) for p in (layer.lora_A, layer.lora_B)}
            groups = []
            for lr, in_adapters in ((self.recipe.learning_rate, True), (self.recipe.other_learning_rate, False)):
                for decay, matrices in ((self.recipe.weight_decay, True), (0.0, False)):
                    chosen = [p for p in trained(self.press).values() if (id(p) in adapters) == in_adapters and (p.ndim > 1) == matrices]
                    if chosen:
                        groups.append({"params": chosen, "lr": lr, "weight_decay": decay})
            assert all(p.dtype == torch.float32 for group in groups for p in group["params"]), "masters are float32"
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, self.recipe.beta2), fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The recipe's schedule, by steps."""
        if self.lr_scheduler is None:
            inner = getattr(optimizer or self.optimizer, "optimizer", optimizer or self.optimizer)  # accelerate wraps it
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
            names = ("answer", "summary", "quote", "ratio_error")
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

    def _over_processes(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes."""
        local = torch.tensor(values, dtype=torch.float64 if self.args.device.type != "mps" else torch.float32, device=self.args.device)
        total = self.accelerator.reduce(local, "sum") if self.args.world_size > 1 else local
        return [float(value) for value in total]

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Losses with right and wrong latents at each dev ratio, and F1; keeps the best press.

        `eval_loss`, which the best press has lowest, is the mean over the ratios of the answers' loss (of all targets, if the dev
        records have no answers).
        """
        assert self.dev is not None
        self.press.eval()
        rank, processes = self.args.process_index, self.args.world_size
        metrics: dict[str, float] = {}
        means = []
        for ratio in [r for r in self.recipe.dev_ratios if r in self.recipe.candidates] or list(self.recipe.candidates):
            sums = loss_sums(self.press, self.dev.batches[rank::processes], ratio)
            names = [f"{kind}{suffix}" for kind in ("answer", "summary", "quote") for suffix in ("", "_wrong")] + ["ratio_error"]
            totals = self._over_processes([value for name in names for value in sums.get(name, (0.0, 0))])
            found = {name: (totals[2 * i], totals[2 * i + 1]) for i, name in enumerate(names) if totals[2 * i + 1]}
            metrics |= {f"{metric_key_prefix}_x{ratio}_{name}": total / count for name, (total, count) in found.items() if name != "ratio_error"}
            if "ratio_error" in found:
                metrics[f"{metric_key_prefix}_ratio_error"] = found["ratio_error"][0] / found["ratio_error"][1]
            judged = [found["answer"]] if "answer" in found else [found[kind] for kind in ("summary", "quote") if kind in found]
            means.append(sum(total for total, _ in judged) / sum(count for _, count in judged))
        metrics[f"{metric_key_prefix}_loss"] = sum(means) / len(means)
        if self.dev.questions and self.recipe.f1_ratio in self.recipe.candidates:
            scores = evaluate_f1(self.press, self.decoder_tokenizer, self.dev.questions[rank::processes], self.recipe.f1_ratio)
            total, count = self._over_processes([sum(scores), len(scores)])
            metrics[f"{metric_key_prefix}_f1_x{self.recipe.f1_ratio}"] = total / count
        self._keep_best(metrics, metric_key_prefix)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _keep_best(self, metrics: dict[str, float], prefix: str) -> None:
        loss = metrics[f"{prefix}_loss"]
        if loss < self.counters["best_loss"]:
            self.counters["best_loss"] = loss
            self.export({name.removeprefix(f"{prefix}_"): round(value, 4) for name, value in metrics.items()})

    def export(self, metrics: dict[str, float]) -> None:
        """Writes the press as it is now to the out folder."""
        if not self.args.should_save:
            return
        seen = {name: int(self.counters[name]) for name in ("questions", "examples", "context_tokens")}
        trained_with = {**self.provenance, "step": self.state.global_step, "seen": seen, "dev": metrics}
        base = self.press.config.base
        export_press(self.out / PRESS, self.press, self.recipe.press_config(base, trained_with))

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves by rename; Trainer itself writes into the final folder, where a kill leaves half a checkpoint."""
        if self.args.should_save:
            with new_checkpoint(self.out, self.state.global_step) as folder:
                save_masters(self.press, folder)
                torch.save(self.optimizer.state_dict(), folder / OPTIMIZER_NAME)
                torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
                (folder / COUNTERS).write_text(json.dumps(self.counters))
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_masters(self.press, folder)
        self.counters = json.loads((folder / COUNTERS).read_text())


def _only(batch: list[Step]) -> dict[str, Step]:
    """The one step of a batch."""
    return {"step": batch[0]}
