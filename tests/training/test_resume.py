"""A run that is killed, stopped or repeated ends where an uninterrupted one does, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from latentpress.checkpoints import io
from latentpress.checkpoints.io import read_press
from latentpress.errors import TrainingError
from latentpress.training import callbacks, checkpoint, run, trainer
from latentpress.training.checkpoint import checkpoints
from training.helpers import assert_complete, half_a_swap, in_processes, killing, read_log, write_data

Train = Callable[..., Path]
SETTINGS: dict[str, Any] = {"steps": 12, "save_every": 2, "eval_every": 5, "multi_document": 0.3}


def half_an_optimiser(state: Any, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def half_a_removal(folder: Path) -> None:
    doomed = folder.parent / f".{folder.name}.abababab.old"
    os.replace(folder, doomed)
    (doomed / "masters.safetensors").unlink()


def half_a_line(files: callbacks.Files, *args: Any, **kwargs: Any) -> None:
    with (files.out / "log.jsonl").open("a") as file:
        file.write('{"loss": 3.1')


# Ten places to die in, in the order of a training, and what each leaves behind. Checkpoints come after every second
# step, evaluations after 5 and 10.
KILLS: dict[str, tuple[Callable[[], Any], str]] = {
    "before the first checkpoint": (lambda: killing(trainer, "row_loss", call=2), "log.jsonl"),
    "in a forward pass": (lambda: killing(trainer, "row_loss", call=4), "checkpoint-2"),
    "while writing the optimiser": (
        lambda: killing(torch, "save", before=half_an_optimiser),
        ".checkpoint-4.*.partial/optimizer.pt",
    ),
    "while evaluating": (lambda: killing(trainer, "dev_metrics"), "checkpoint-4"),
    "while drawing the plot": (lambda: killing(callbacks, "plot_losses"), "checkpoint-6"),
    "before a checkpoint has its name": (lambda: killing(checkpoint, "_flush", call=6), ".checkpoint-8.*.partial"),
    "when a checkpoint has its name": (lambda: killing(checkpoint, "_flush", call=7), "checkpoint-8"),
    "between the two renames of a press": (lambda: killing(io, "_swap", before=half_a_swap), ".press.abababab.old"),
    "while an old checkpoint is removed": (
        lambda: killing(checkpoint, "remove", before=half_a_removal),
        ".checkpoint-4.abababab.old",
    ),
    "while writing the log": (lambda: killing(callbacks.Files, "on_log", before=half_a_line), "checkpoint-10"),
}


def assert_same_end(out: Path, expected: Path) -> None:
    """Every line of the log, every weight and every state of the optimiser is the same, to the last bit."""
    assert read_log(out) == read_log(expected)
    last = f"checkpoint-{SETTINGS['steps']}"
    for name, tensor in load_file(expected / last / "masters.safetensors").items():
        assert torch.equal(load_file(out / last / "masters.safetensors")[name], tensor)
    states = [torch.load(folder / last / "optimizer.pt", weights_only=True)["state"] for folder in (out, expected)]
    for key, state in states[1].items():
        assert all(torch.equal(states[0][key][name], value) for name, value in state.items())
    assert_same_press(out, expected)


def assert_same_press(out: Path, expected: Path) -> None:
    (mine, modules, adapters, _), (theirs, others, other_adapters, _) = (
        read_press(f / "press") for f in (out, expected)
    )
    assert mine == theirs
    for found, wanted in ((modules, others), *((adapters[role], other_adapters[role]) for role in adapters)):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_ten_kills_change_no_loss_and_no_weight(train: Train, tmp_path: Path) -> None:
    whole = train("whole", **SETTINGS)
    out = tmp_path / "killed"
    for place, (deadly, left_behind) in KILLS.items():

        def attempt(deadly: Callable[[], Any] = deadly) -> None:
            torch.set_num_threads(1)
            with deadly():
                train("killed", **SETTINGS)

        assert in_processes([attempt]) == [-signal.SIGKILL], place
        assert list(out.glob(left_behind)), place
        assert_complete(out)
    train("killed", **SETTINGS)
    assert_complete(out)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [".lock"]
    assert len(read_log(whole)) == SETTINGS["steps"] + 3
    assert_same_end(out, whole)


def test_minutes_stop_with_a_full_checkpoint_and_the_same_call_goes_on(
    train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = train("whole", **SETTINGS)
    out = tmp_path / "stopped"
    for step in (1, 2, 3):
        capfd.readouterr()
        train("stopped", {"minutes": 1e-9}, **SETTINGS)
        assert checkpoints(out)[-1][0] == step
        assert_complete(out)
        assert (out / "press").exists()
        assert f"time is up at step {step} of 12; the same command goes on" in capfd.readouterr().err
    train("stopped", {"minutes": 10}, **SETTINGS)
    assert_same_end(out, whole)


def test_the_clock_changes_no_learning_rate(train: Train) -> None:
    rates = [line["learning_rate"] for line in read_log(train(steps=4)) if "loss" in line]
    train("stopped", {"minutes": 1e-9}, steps=4)
    resumed = read_log(train("stopped", {"minutes": 10}, steps=4))
    assert [line["learning_rate"] for line in resumed if "loss" in line] == rates


def test_a_finished_run_returns_at_once_and_changes_nothing(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    out = train(steps=2)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    monkeypatch.setattr(trainer, "row_loss", None)  # nothing is computed
    train(steps=2)
    assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_without_its_press_exports_the_trained_one(train: Train) -> None:
    settings = {"steps": 2, "learning_rate": 1e-2, "dev_records": 0}
    out = train(**settings)
    shutil.copytree(out / "press", out / "copy" / "press")
    shutil.rmtree(out / "press")
    train(**settings)
    assert_same_press(out, out / "copy")


def test_without_a_dev_set_the_press_is_the_newest(train: Train) -> None:
    settings = {"steps": 4, "learning_rate": 1e-2, "dev_records": 0}
    out = train(arguments={"minutes": 1e-9}, **settings)
    assert read_press(out / "press")[0].trained["step"] == 1
    train(**settings)
    assert read_press(out / "press")[0].trained["step"] == 4
    assert not any("eval_loss" in line for line in read_log(out))


def test_settings_that_change_no_weight_may_change_and_are_obeyed(train: Train) -> None:
    settings = {"steps": 6, "save_every": 2, "eval_every": 100}
    whole = train("whole", **settings)
    train("stopped", {"minutes": 1e-9}, **settings)
    out = train("stopped", steps=6, save_every=5, eval_every=4, log_every=3, dev_rows=2, f1_questions=0)
    assert [step for step, _ in checkpoints(out)] == [5, 6]
    log = read_log(out)
    assert [line["step"] for line in log if "loss" in line] == [1, 3, 5, 6]
    assert [line["step"] for line in log if "eval_loss" in line] == [4, 6]
    for name, tensor in load_file(whole / "checkpoint-6" / "masters.safetensors").items():
        assert torch.equal(load_file(out / "checkpoint-6" / "masters.safetensors")[name], tensor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e-3}, r"recipe\.learning_rate was 0\.0005, is 0\.001"),
        ({"steps": 5}, r"recipe\.steps was 4, is 5"),
        ({"prompt__context": "Text: "}, r"recipe\.prompt\.context was 'Context: ', is 'Text: '"),
        ({"rounding": "log"}, r"recipe\.rounding was 'linear', is 'log'"),
        ({"encoder_lora__rank": 2}, r"recipe\.encoder_lora\.rank was 4, is 2"),
    ],
)
def test_another_recipe_in_the_same_folder_is_refused_by_what_differs(
    train: Train, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "_run", lambda *_: None)
        train(steps=4)
    (tmp_path / "run" / "checkpoint-2").mkdir()
    with pytest.raises(TrainingError, match=message):
        train(**{"steps": 4, **changes})


def test_other_data_in_the_same_folder_is_refused(train: Train, tmp_path: Path) -> None:
    train(arguments={"minutes": 1e-9})
    other = write_data(tmp_path / "other.jsonl", 21)
    with pytest.raises(
        TrainingError, match=r"holds a run with other settings: data was '\w+', is '\w+'; give the same"
    ):
        train(arguments={"data": [str(other)]})
    with pytest.raises(TrainingError, match=r"data was"):
        train(arguments={"dev": str(other)})


def test_a_run_may_be_refused_to_go_on(train: Train) -> None:
    train(arguments={"minutes": 1e-9})
    with pytest.raises(TrainingError, match="holds a run at step 1; resume it, or give another folder"):
        train(arguments={"resume": False})


def test_a_full_disk_ends_with_a_message_and_the_run_goes_on_later(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    train(arguments={"minutes": 1e-9}, steps=3)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(TrainingError, match=r"checkpoint of step 2 cannot be written .* free space"):
            train(steps=3)
    assert_complete(tmp_path / "run")
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [1]
    assert [step for step, _ in checkpoints(train(steps=3))] == [2, 3]
