"""From the command to the press: the files of a run, the press that comes out, and starting from another press."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from latentpress.checkpoints.io import read_press
from latentpress.errors import DataError, InputError, TrainingError
from latentpress.loading import load_model
from latentpress.training import callbacks, run
from latentpress.training.callbacks import ShowProgress
from latentpress.training.plot import plot_losses
from training.helpers import read_log

Train = Callable[..., Path]


def test_a_run_leaves_log_state_plot_and_a_press_that_loads(
    train: Train, monkeypatch: pytest.MonkeyPatch, tiny_base_folder: Path
) -> None:
    monkeypatch.setattr(callbacks, "plot_losses", plot_losses)
    out = train(steps=3)
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 3
    log = read_log(out)
    steps, evaluations = ([line for line in log if name in line] for name in ("loss", "eval_loss"))
    assert [line["step"] for line in steps] == [1, 2, 3]
    seen = {"loss", "grad_norm", "learning_rate", "quote", "questions_seen", "examples_seen", "context_tokens_seen"}
    assert all(seen <= set(line) for line in steps)
    assert all(math.isfinite(value) for line in log for value in line.values())
    (evaluation,) = evaluations
    assert evaluation["step"] == 3
    assert {"eval_x4_answer", "eval_x4_answer_wrong", "eval_x4_quote", "eval_x4_quote_wrong"} <= set(evaluation)
    assert evaluation["eval_loss"] == evaluation["eval_x4_answer"]
    assert 0 <= evaluation["eval_f1_x4"] <= 100
    model, (base, other), _ = load_model(out / "press", base=tiny_base_folder, device="cpu", dtype="float32")
    assert other is None
    assert model.config.base.fingerprint == base.fingerprint
    trained = model.config.trained
    assert trained["step"] == 3
    assert trained["recipe"]["recipe"] == "semidynamic"
    assert trained["data"] == ["records.jsonl"]
    assert trained["seen"] == {name: steps[-1][f"{name}_seen"] for name in ("questions", "examples", "context_tokens")}
    assert trained["dev"]["loss"] == pytest.approx(evaluation["eval_loss"], abs=1e-4)


def test_the_best_press_is_kept_and_not_the_last(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 1.0, 2.0, math.nan])
    monkeypatch.setattr("latentpress.training.trainer.dev_metrics", lambda *_, **__: {"loss": next(losses)})
    out = train(steps=4, eval_every=1)
    config = read_press(out / "press")[0]
    assert config.trained["step"] == 2
    assert config.trained["dev"] == {"loss": 1.0}


def test_a_press_trains_further_from_another(train: Train, tmp_path: Path) -> None:
    first = train("first", steps=3, learning_rate=1e-2, other_learning_rate=1e-2)
    rates = {"learning_rate": 0, "other_learning_rate": 0}
    second = train("second", {"from_press": str(first / "press")}, steps=1, **rates)
    (_, modules, adapters, _), (_, same, same_adapters, _) = (read_press(f / "press") for f in (first, second))
    assert all(torch.equal(same[name], tensor) for name, tensor in modules.items())
    for role, state in adapters.items():
        assert all(torch.equal(same_adapters[role][name], tensor) for name, tensor in state.items())
    other = tmp_path / "other"
    shutil.copytree(first / "press", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "name": "other"}))
    with pytest.raises(TrainingError, match=r"other settings: from_press was '\w+', is '\w+'"):
        train("second", {"from_press": str(other)}, steps=1, **rates)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"converter_width": 16}, r"converter_width is 32 there, 16 here; give the press's settings"),
        ({"encoder_layers": 1, "residual": "mean"}, r"encoder_layers is 2 there, 1 here; residual is 'salient' there"),
        ({"decoder_lora__alpha": 3}, r"decoder_lora is LoraSettings\(.*alpha=32.0.* there, .*alpha=3.0.* here"),
    ],
)
def test_a_press_of_other_modules_is_refused_by_what_differs(
    train: Train, changes: dict[str, Any], message: str
) -> None:
    first = train("first", steps=1)
    with pytest.raises(TrainingError, match=rf"cannot start from press .*: {message}"):
        train("second", {"from_press": str(first / "press")}, steps=1, **changes)


def test_settings_that_shape_no_weight_differ_from_the_press_only_where_the_user_says_so(
    train: Train, tmp_path: Path, tiny_base_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train("first", steps=1, rounding="log", prompt__context="Text: ")
    start: dict[str, Any] = {"from_press": str(first / "press")}
    with pytest.raises(TrainingError, match=r"prompt is .*'Text: '.* there, .*'Context: '.*; rounding is 'log' there"):
        train("second", start, steps=1)
    out = train(
        "third",
        start,
        steps=1,
        rounding="linear",
        prompt__context="Context: ",
        candidates="2,4,8,16",
        ratio_schedule="",
    )
    config = read_press(out / "press")[0]
    assert (config.rounding, config.prompt.context, config.candidates) == ("linear", "Context: ", (2, 4, 8, 16))


def test_mistakes_are_named_before_anything_is_written(train: Train, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no setting 'stepz'"):
        train(stepz=3)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="no such file"):
        train(arguments={"data": [str(tmp_path / "missing.jsonl")]})
    assert not (tmp_path / "run" / "run.json").exists()


def test_two_trainings_in_one_folder_are_refused(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: Any) -> None:
        with pytest.raises(TrainingError, match=r"another training is running in .*run; wait"):
            train(steps=1)

    monkeypatch.setattr(run, "_run", again)
    train(steps=1)


def test_the_plot_shows_training_and_dev_losses_and_copes_with_none(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "loss": 3.0, "answer": 3.1, "quote": 2.0},
        {"step": 2, "eval_x4_answer": 2.0, "eval_x4_answer_wrong": 2.5, "eval_loss": 2.0},
    ]
    sizes = []
    for name, history in (("none.png", []), ("some.png", lines)):
        plot_losses(history, tmp_path / name)
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        sizes.append(len(data))
    assert sizes[0] < sizes[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.png", "some.png"]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_loss_rate_speed_and_time_left(tmp_path: Path, terminal: bool) -> None:
    text = StringIO()
    progress = ShowProgress(Console(file=text, force_terminal=terminal, width=200))
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    state, control = TrainerState(max_steps=10, global_step=4), TrainerControl()
    progress.on_train_begin(args, state, control)
    state.global_step = 5
    progress.on_step_end(args, state, control)
    logs = {"loss": 3.25, "learning_rate": 1e-3, "examples_per_second": 2.5, "grad_norm": 9.0}
    progress.on_log(args, state, control, logs=logs)
    progress.on_log(args, state, control, logs={"train_runtime": 1.0})
    progress.on_train_end(args, state, control)
    progress.close()
    shown = text.getvalue()
    assert "5/10" in shown
    assert "loss 3.25 lr 0.001 samples/s 2.5" in shown
    assert "left" in shown
    assert "grad_norm" not in shown
    assert "train_runtime" not in shown
