"""Checkpoints are complete or absent, and an out folder belongs to one run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import config_for, make_model

from latentpress.backbone import Base
from latentpress.checkpoints.config import PressConfig
from latentpress.checkpoints.io import read_press
from latentpress.errors import TrainingError
from latentpress.model import PressModel
from latentpress.training.checkpoint import (
    alone_in,
    checkpoints,
    claim,
    export_press,
    load_masters,
    new_checkpoint,
    save_masters,
    sweep,
    trained,
    writing,
)
from training.helpers import in_processes

IDENTITY: dict[str, Any] = {"recipe": {"seed": 0, "candidates": (2, 4)}, "data": "abc"}


def save(out: Path, step: int, text: str = "x") -> None:
    with new_checkpoint(out, step) as folder:
        (folder / "file").write_text(text)


def hidden(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.name.startswith("."))


def test_the_last_two_checkpoints_are_kept_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (2, 9, 10, 11):
        save(tmp_path, step)
    assert [step for step, _ in checkpoints(tmp_path)] == [10, 11]
    assert hidden(tmp_path) == []


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 3, "old")
    save(tmp_path, 3, "new")
    assert (tmp_path / "checkpoint-3" / "file").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("stream failed")])
def test_a_full_disk_leaves_the_checkpoints_as_they_were_and_names_the_remedy(tmp_path: Path, error: Exception) -> None:
    save(tmp_path, 3)

    def fail() -> None:
        with new_checkpoint(tmp_path, 4) as folder:
            (folder / "file").write_text("half")
            raise error

    with pytest.raises(TrainingError, match=r"checkpoint of step 4 cannot be written .* free space"):
        fail()
    assert [step for step, _ in checkpoints(tmp_path)] == [3]
    assert hidden(tmp_path) == []


def test_an_interruption_passes_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    def interrupt() -> None:
        with new_checkpoint(tmp_path, 4) as folder:
            (folder / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_a_half_swapped_press_put_back(tmp_path: Path) -> None:
    for name in (
        ".checkpoint-3.abababab.partial",
        ".checkpoint-1.cdcdcdcd.old",
        ".press.efefefef.partial",
        ".press.aaaaaaaa.old",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / ".log.jsonl.abababab.new").write_text("half")
    (tmp_path / "mine").mkdir()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "press"]
    assert (tmp_path / "press" / "file").read_text() == ".press.aaaaaaaa.old"


def test_what_others_keep_in_the_folder_stays(tmp_path: Path) -> None:
    strangers = (".config.old", ".download.partial", ".press.old", ".checkpoint-3.mine.partial")
    for name in strangers:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("x")
    (tmp_path / ".bashrc.new").write_text("x")
    sweep(tmp_path)
    assert hidden(tmp_path) == sorted((*strangers, ".bashrc.new"))
    assert all((tmp_path / name / "precious").exists() for name in strangers)


def test_a_whole_press_is_not_replaced_by_the_one_before(tmp_path: Path) -> None:
    for name in ("press", ".press.aaaaaaaa.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    sweep(tmp_path)
    assert (tmp_path / "press" / "file").read_text() == "press"
    assert hidden(tmp_path) == []


def test_the_same_run_resumes_from_its_newest_checkpoint(tmp_path: Path) -> None:
    assert claim(tmp_path, IDENTITY, resume=True) is None
    save(tmp_path, 5)
    save(tmp_path, 10)
    assert claim(tmp_path, IDENTITY, resume=True) == tmp_path / "checkpoint-10"


def test_another_run_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    claim(tmp_path, IDENTITY, resume=True)
    save(tmp_path, 5)
    other = {"recipe": {"seed": 1, "candidates": (2, 8)}, "data": "abc"}
    with pytest.raises(TrainingError) as raised:
        claim(tmp_path, other, resume=True)
    message = str(raised.value)
    assert "recipe.seed was 0, is 1" in message
    assert "recipe.candidates was [2, 4], is [2, 8]" in message
    assert "data" not in message
    assert "another folder" in message


def test_a_run_without_a_checkpoint_gives_way_to_another(tmp_path: Path) -> None:
    claim(tmp_path, IDENTITY, resume=True)
    other = {**IDENTITY, "data": "xyz"}
    assert claim(tmp_path, other, resume=True) is None
    save(tmp_path, 5)
    assert claim(tmp_path, other, resume=True) == tmp_path / "checkpoint-5"


def test_a_run_from_before_a_setting_existed_had_its_default(tmp_path: Path) -> None:
    claim(tmp_path, IDENTITY, resume=True)
    save(tmp_path, 5)
    later = {**IDENTITY, "recipe": {**IDENTITY["recipe"], "rounding": "linear", "prompt": {"system": ""}}}
    defaults = {"recipe": {"seed": 7, "rounding": "linear", "prompt": {"system": ""}}}
    assert claim(tmp_path, later, resume=True, defaults=defaults) == tmp_path / "checkpoint-5"
    changed = {**later, "recipe": {**later["recipe"], "rounding": "log"}}
    with pytest.raises(TrainingError, match=r"recipe\.rounding was 'linear', is 'log'"):
        claim(tmp_path, changed, resume=True, defaults=defaults)


def test_a_run_is_not_continued_against_the_users_will(tmp_path: Path) -> None:
    claim(tmp_path, IDENTITY, resume=False)
    save(tmp_path, 5)
    with pytest.raises(TrainingError, match="holds a run at step 5"):
        claim(tmp_path, IDENTITY, resume=False)


@pytest.mark.parametrize("text", [None, "", "[1]", '{"recipe":'])
def test_checkpoints_of_an_unknown_run_are_refused(tmp_path: Path, text: str | None) -> None:
    save(tmp_path, 5)
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(TrainingError, match=r"checkpoint-5 but no readable run.json"):
        claim(tmp_path, IDENTITY, resume=True)


def test_two_trainings_never_share_a_folder_and_a_killed_one_leaves_it_free(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def enter() -> None:
        with alone_in(out):
            pass

    def killed() -> None:
        with alone_in(out):
            os.kill(os.getpid(), 9)

    with alone_in(out):
        assert in_processes([enter]) == [1]
    assert in_processes([killed]) == [-9]
    assert in_processes([enter]) == [0]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    def enter() -> None:
        with alone_in(tmp_path / "file" / "out"):
            pass

    with pytest.raises(TrainingError, match=r"file/out cannot be written to .* another folder"):
        enter()


def test_errors_of_the_disk_become_errors_of_the_training(tmp_path: Path) -> None:
    def fail() -> None:
        with writing(tmp_path):
            raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match=r"No space left on device.*free space"):
        fail()


def test_masters_come_back_bit_for_bit_and_hold_nothing_of_the_base(
    tmp_path: Path, tiny_config: PressConfig, tiny_base: Base
) -> None:
    first, second = make_model(tiny_config, tiny_base), make_model(tiny_config, tiny_base, trained=False)
    save_masters(trained(first), tmp_path)
    load_masters(second, tmp_path)
    base = {id(parameter) for parameter in tiny_base.model.parameters()}
    assert trained(first).keys() == trained(second).keys()
    for name, parameter in trained(second).items():
        assert torch.equal(parameter, trained(first)[name])
        assert parameter.dtype == torch.float32
        assert id(parameter) not in base


def test_masters_of_another_shape_are_refused(tmp_path: Path, tiny_model: PressModel, tiny_base: Base) -> None:
    save_masters(trained(tiny_model), tmp_path)
    other = make_model(config_for(tiny_base, converter_width=16), tiny_base)
    with pytest.raises(TrainingError, match="does not hold the parameters of this training; remove"):
        load_masters(other, tmp_path)


def test_an_exported_press_holds_the_weights_of_the_model(tmp_path: Path, tiny_model: PressModel) -> None:
    export_press(tmp_path / "press", tiny_model, tiny_model.config)
    config, modules, adapters, _ = read_press(tmp_path / "press")
    assert config == tiny_model.config
    for name, tensor in tiny_model.own_state().items():
        assert torch.equal(modules[name], tensor.to(torch.bfloat16))
    for role, state in tiny_model.adapter_states().items():
        assert {name: tensor.shape for name, tensor in adapters[role].items()} == {
            name: tensor.shape for name, tensor in state.items()
        }
