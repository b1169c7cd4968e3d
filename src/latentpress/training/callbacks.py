"""What watches a training: the time limit, the progress bar, and the files that show how it goes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from latentpress.files import replacing, write_whole
from latentpress.training.plot import plot_losses

LOG = "log.jsonl"
PLOT = "loss.png"


class StopAfter(TrainerCallback):
    """Stops a run with a checkpoint when its time is up.

    Args:
        minutes: from the start of the command; None for no limit.
        started: `time.monotonic()` at that start.
    """

    def __init__(self, minutes: float | None, started: float) -> None:
        self.deadline = None if minutes is None else started + 60 * minutes
        self.stopped = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Looks at the clock of the first process."""
        if self.deadline is None:
            return
        late = torch.tensor(float(time.monotonic() >= self.deadline), device=args.device)
        if args.world_size > 1:
            torch.distributed.broadcast(late, 0)
        if late and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True


class Pace(TrainerCallback):
    """Logs, evaluates and saves as often as the recipe says now, whatever the resumed checkpoint says.

    Each checkpoint comes with a line of the log, so that no line is a mean over steps before and after an interruption;
    the last step is evaluated too.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Replaces the numbers that came with a checkpoint."""
        state.compute_steps(args, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks for more than the Trainer's own callback did; stands behind those that ask for a checkpoint."""
        if state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True
        if control.should_save:
            control.should_log = True


class Files(TrainerCallback):
    """Keeps `log.jsonl`, `trainer_state.json` and `loss.png` in the out folder up to date."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the log from what the checkpoint knows: lines of steps that are done again are dropped."""
        if state.is_world_process_zero:
            write_whole(self.out / LOG, "".join(json.dumps(line) + "\n" for line in state.log_history))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Appends the newest line."""
        if state.is_world_process_zero:
            with (self.out / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Writes state and plot."""
        if state.is_world_process_zero:
            self._write(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes both once more, with the last lines."""
        if state.is_world_process_zero:
            self._write(state)

    def _write(self, state: TrainerState) -> None:
        with replacing(self.out / TRAINER_STATE_NAME) as building:
            state.save_to_json(str(building))
        plot_losses(state.log_history, self.out / PLOT)


class ShowProgress(TrainerCallback):
    """A progress bar with loss, learning rate, samples a second and the time left; lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.begun, self.first = 0.0, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the bar at the step that the run continues from."""
        self.begun, self.first = time.monotonic(), state.global_step
        if state.is_world_process_zero and self.console.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step)
            self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Shows the newest line."""
        if not state.is_world_process_zero or not logs:
            return
        line = _line(logs)
        if self.bar is not None and "loss" in logs:
            self.bar.update(self.task, description=line)
        elif "loss" in logs or "eval_loss" in logs:
            done = max(1, state.global_step - self.first)
            left = (time.monotonic() - self.begun) / done * (state.max_steps - state.global_step)
            self.console.print(
                f"step {state.global_step}/{state.max_steps}  {line}  left {left / 3600:.1f} h",
                highlight=False,
                soft_wrap=True,
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leaves the bar as it stands."""
        self.close()

    def close(self) -> None:
        """Gives the terminal back, also after an error."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _line(logs: dict[str, float]) -> str:
    names = {"learning_rate": "lr", "examples_per_second": "samples/s", "context_tokens_per_second": "tokens/s"}
    hidden = {"epoch", "grad_norm", "examples_seen", "context_tokens_seen"}
    return " ".join(
        f"{names.get(name, name.removeprefix('eval_'))} {value:.4g}"
        for name, value in logs.items()
        if name not in hidden
    )
