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
from latentpress.training import callbacks, run, trainer
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


def test_a_run_keeps_the_type_that_it_began_with(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = []
    for usual in (torch.float32, torch.bfloat16):  # on another machine the second time
        monkeypatch.setattr(run, "usual_dtype", lambda device, usual=usual: usual)
        out = train(steps=2, dtype="auto", save_every=1)
        recorded.append(json.loads((out / "run.json").read_text())["recipe"]["dtype"])
    assert recorded == ["float32", "float32"]
    train("other", steps=1, dtype="auto")
    assert json.loads((out.parent / "other" / "run.json").read_text())["recipe"]["dtype"] == "bfloat16"


def test_a_frozen_base_is_trained_around(train: Train, tiny_base_folder: Path) -> None:
    plain = {"compressor": "comprexit", "policy": "fixed", "residual": "none", "encoder_layers": "none"}
    frozen = {"encoder_lora": "none", "decoder_lora": "none"}
    out = train(steps=4, **plain, **frozen, compressor_settings__segment_tokens=16)
    model, _, _ = load_model(out / "press", base=tiny_base_folder, device="cpu", dtype="float32")
    assert model.config.compressor_settings == {"segment_tokens": 16}
    assert model.config.encoder_lora is model.config.decoder_lora is None
    start = {"from_press": str(out / "press")}
    further = train("further", start, steps=2, **plain, **frozen, compressor_settings__segment_tokens=16)
    assert (further / "press" / "modules.safetensors").is_file()
    losses = [line["loss"] for line in read_log(out) if "loss" in line]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))


def test_next_tokens_are_predicted_and_judged_where_nothing_is_asked(train: Train) -> None:
    changes = {"questions": 0, "quotes": 0, "quote_schedule": "", "continue_tokens": 8, "f1_questions": 2}
    log = read_log(train(steps=3, **changes))
    steps, (evaluation,) = [line for line in log if "loss" in line], [line for line in log if "eval_loss" in line]
    assert all(line["continuation"] > 0 and "answer" not in line for line in steps)
    assert evaluation["eval_loss"] == evaluation["eval_x4_continuation"]
    assert "eval_f1_x4" not in evaluation


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


def test_a_run_goes_on_when_the_press_that_it_started_from_was_replaced_or_is_gone(train: Train) -> None:
    first = train("first", steps=1)
    start = {"from_press": str(first / "press")}
    whole = train("whole", start, steps=3, save_every=1)
    train("stopped", {**start, "minutes": 1e-9}, steps=3, save_every=1)
    shutil.rmtree(first / "press")
    shutil.copytree(whole / "press", first / "press")  # the better one in the place of the one before
    out = train("stopped", start, steps=3, save_every=1)
    shutil.rmtree(first / "press")
    train("stopped", start, steps=3, save_every=1)
    (config, modules, _, _), (expected, same, _, _) = (read_press(folder / "press") for folder in (out, whole))
    assert all(torch.equal(same[name], tensor) for name, tensor in modules.items())
    assert config.trained["after"] == expected.trained["after"]
    assert config.trained["after"]["step"] == 1


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "masters.safetensors", "counters.json"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(train: Train, name: str, how: str) -> None:
    out = train(arguments={"minutes": 1e-9}, steps=3)
    damaged = out / "checkpoint-1" / name
    if how == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(TrainingError, match=rf"{name} cannot be read .* remove .*checkpoint-1 to resume"):
        train(steps=3)


def test_the_press_of_a_failed_last_export_is_written_by_the_same_command(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"steps": 2, "save_every": 1, "dev_records": 0}
    with monkeypatch.context() as patched:
        export = trainer.PressTrainer.export

        def full(self: trainer.PressTrainer, metrics: dict[str, float]) -> None:
            if self.state.global_step == 2:
                raise OSError(28, "No space left on device")
            export(self, metrics)

        patched.setattr(trainer.PressTrainer, "export", full)
        with pytest.raises(TrainingError, match="No space"):
            train(**settings)
    out = train(**settings)
    assert read_press(out / "press")[0].trained["step"] == 2


def test_losses_on_other_dev_rows_do_not_keep_an_older_press(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.5, 2.0, 1.5])
    monkeypatch.setattr("latentpress.training.trainer.dev_metrics", lambda *_, **__: {"loss": next(losses)})
    out = train(arguments={"minutes": 1e-9}, steps=3, eval_every=1)
    assert read_press(out / "press")[0].trained["dev"] == {"loss": 0.5}
    train(steps=3, eval_every=1, dev_ratios="8")
    assert read_press(out / "press")[0].trained["dev"] == {"loss": 1.5}


def test_rows_that_exceed_the_decoders_positions_are_refused(train: Train) -> None:
    with pytest.raises(InputError, match=r"1200 context tokens is 600 latents at ratio 2, .* has 512 positions"):
        train(max_context_tokens=1200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compressor": "c"}, "compressor 'c' is unknown"),
        ({"policy": "p"}, "policy 'p' is unknown"),
        ({"residual": "r"}, "residual 'r' is unknown"),
        ({"candidates": "4,2", "ratio_schedule": ""}, r"candidates \[4, 2\]"),
        ({"decoder_lora__alpha": "nan"}, r"decoder_lora\.alpha is nan"),
    ],
)
def test_settings_that_cannot_be_are_named_before_anything_is_read(
    train: Train, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(**changes)
    assert not (tmp_path / "run").exists()


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
