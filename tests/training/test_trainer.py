"""What a step moves, what it never moves, and when a training stops by itself."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import config_for, make_model

from latentpress.backbone import Base
from latentpress.compressors import Ratio
from latentpress.data.records import read_records
from latentpress.data.rows import ExampleMaker
from latentpress.errors import TrainingError
from latentpress.lora import LoraLinear
from latentpress.model import PressModel
from latentpress.training import guard, run, trainer
from latentpress.training.checkpoint import checkpoints, trained
from latentpress.training.memory import keep_freed_memory
from latentpress.training.objective import RowLoss, row_loss
from latentpress.training.optimizer import adamw
from latentpress.training.overrides import make_recipe
from latentpress.training.trainer import PressTrainer
from training.helpers import (
    SHARED_OUT,
    as_one_training,
    assert_close_but_for_noise,
    assert_same_training,
    in_processes,
    overrides,
    read_log,
)

Train = Callable[..., Path]


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[PressTrainer]:
    """The trainers that a test makes."""
    made: list[PressTrainer] = []

    class Watched(PressTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(run, "PressTrainer", Watched)
    return made


def step_of(model: PressModel, base: Base, data: Path) -> None:
    """One forward and backward pass and one step of the optimiser."""
    maker = ExampleMaker(base.tokenizer, model.config.prompt, model.config.window_tokens)
    records = [maker.tokenize(record) for record in read_records(data, limit=4)]
    examples = [maker.example([r], random.Random(0), questions=2, quotes=1, quote_tokens=10) for r in records]
    loss = row_loss(model.train(), examples, Ratio(4))
    (loss.lm + loss.ratio).backward()
    adamw(model, make_recipe("semidynamic", overrides(learning_rate=1e-2))).step()


def test_one_step_moves_both_adapters_and_every_module_and_never_the_base(
    tiny_model: PressModel, tiny_base: Base, data: Path
) -> None:
    before = {name: p.detach().clone() for name, p in tiny_model.named_parameters()}
    base = {name: p.detach().clone() for name, p in tiny_base.model.named_parameters()}
    step_of(tiny_model, tiny_base, data)
    moved = {name for name, p in tiny_model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(trained(tiny_model))
    for part in ("encoder.", "decoder.", "converter.", "head.", "residual."):
        assert any(name.startswith(part) for name in moved)
    for role in (tiny_model.encoder, tiny_model.decoder):
        assert role is not None
        assert sum(isinstance(layer, LoraLinear) for layer in role.modules()) == 7 * role.depth
    for name, parameter in tiny_base.model.named_parameters():
        assert torch.equal(parameter, base[name])
        assert parameter.grad is None


def test_optimiser_holds_states_of_what_is_trained_and_of_nothing_else(train: Train, trainers: list[Any]) -> None:
    out = train(steps=2, weight_decay=0.1, other_learning_rate=3e-4)
    press = trainers[0].press
    state = torch.load(out / "checkpoint-2" / "optimizer.pt", weights_only=True)
    sizes = [tensor["exp_avg"].numel() for tensor in state["state"].values()]
    assert sorted(sizes) == sorted(p.numel() for p in trained(press).values())
    assert all(tensor["exp_avg"].dtype == torch.float32 for tensor in state["state"].values())
    rates = {(group["initial_lr"], group["weight_decay"]) for group in state["param_groups"]}
    assert rates == {(5e-4, 0.1), (3e-4, 0.1), (3e-4, 0.0)}


def test_vectors_do_not_decay_and_adapters_have_their_own_rate(tiny_model: PressModel) -> None:
    recipe = make_recipe("semidynamic", overrides(weight_decay=0.1, learning_rate=1e-3, other_learning_rate=2e-3))
    names = {id(p): name for name, p in trained(tiny_model).items()}
    for group in adamw(tiny_model, recipe).param_groups:
        for parameter in group["params"]:
            assert group["lr"] == (1e-3 if "lora_" in names[id(parameter)] else 2e-3)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_prompt_vectors_learn_at_the_rate_of_the_adapters(tiny_base: Base) -> None:
    press = make_model(config_for(tiny_base, prompt_vectors=3), tiny_base, trained=False).train()
    press.decoder.prompt.requires_grad_(True)
    recipe = make_recipe("semidynamic", overrides(learning_rate=1e-2, other_learning_rate=2e-3))
    rates = {
        group["lr"]
        for group in adamw(press, recipe).param_groups
        if any(p is press.decoder.prompt for p in group["params"])
    }
    assert rates == {1e-2}


def test_training_leaves_the_base_as_it_was(train: Train, trainers: list[Any], tiny_base_folder: Path) -> None:
    train(steps=3, learning_rate=1e-2, other_learning_rate=1e-2)
    press = trainers[0].press
    stored = load_file(tiny_base_folder / "model.safetensors")
    seen = 0
    for name, parameter in press.decoder.body.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, stored[f"model.{name.replace('.base.', '.')}"])
            seen += 1
    assert seen == len(stored)


def test_the_loss_of_a_few_texts_goes_down(train: Train, tmp_path: Path) -> None:
    records = Path(tmp_path / "few.jsonl")
    records.write_text('{"context": "The fox signed it.", "qas": [{"question": "who?", "answers": ["the fox"]}]}\n' * 2)
    settings = {"steps": 40, "tokens_per_step": 10, "multi_document": 0, "quotes": 0, "quote_schedule": ""}
    rates = {"learning_rate": 1e-2, "other_learning_rate": 1e-2, "save_every": 40, "encoder_lora__dropout": 0}
    log = read_log(train(arguments={"data": [str(records)]}, **settings, **rates))
    answers = [line["answer"] for line in log]
    assert len(answers) == 40
    assert answers[-1] < 0.2 * answers[0]


def test_logged_means_cover_all_steps_since_the_line_before(train: Train) -> None:
    each = read_log(train("each", steps=6, save_every=6, eval_every=100))
    three = read_log(train("three", steps=6, save_every=6, eval_every=100, log_every=3))
    each, three = ([line for line in log if "loss" in line] for log in (each, three))
    assert [line["step"] for line in three] == [3, 6]
    for i, line in enumerate(three):
        assert line["loss"] == pytest.approx(sum(one["loss"] for one in each[3 * i : 3 * i + 3]) / 3, rel=1e-5)
        assert line["questions_seen"] == each[3 * i + 2]["questions_seen"]


@pytest.mark.parametrize("clip", [0, 1])
def test_a_gradient_that_is_no_number_stops_before_it_reaches_the_weights(
    train: Train, trainers: list[Any], monkeypatch: pytest.MonkeyPatch, clip: int
) -> None:
    def poisoned(model: PressModel, *args: Any, **given: Any) -> RowLoss:
        loss = row_loss(model, *args, **given)
        if len(trainers) and trainers[0].state.global_step == 3:
            assert model.residual is not None
            zero = (model.residual.log_gain * 0.0).sqrt()  # 0, with a gradient of 0 * infinity
            return replace(loss, lm=loss.lm + zero)
        return loss

    monkeypatch.setattr(trainer, "row_loss", poisoned)
    with pytest.raises(TrainingError, match=r"the norm of the gradient is nan at step 4; .*checkpoint-2; lower"):
        train(clip=clip)
    assert all(bool(p.isfinite().all()) for p in trained(trainers[0].press).values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    train: Train, trainers: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: float
) -> None:
    def poisoned(model: PressModel, *args: Any, **given: Any) -> RowLoss:
        loss = row_loss(model, *args, **given)
        bad = len(trainers) == 1 and trainers[0].state.global_step >= 3
        return replace(loss, lm=loss.lm * value) if bad else loss

    monkeypatch.setattr(trainer, "row_loss", poisoned)
    with pytest.raises(TrainingError) as raised:
        train()
    out = tmp_path / "run"
    assert f"the loss is {value} at step 4; the last good checkpoint is {out / 'checkpoint-2'}" in str(raised.value)
    assert "lower learning_rate=0.0005 or clip=1" in str(raised.value)
    assert [step for step, _ in checkpoints(out)] == [2]
    assert (out / "press" / "config.json").is_file()
    assert [line["step"] for line in read_log(train()) if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_a_diverging_loss_stops(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "DIVERGED_STEPS", 3)
    with pytest.raises(TrainingError, match=r"the loss diverges: its mean over 3 steps is .* lower learning_rate=3"):
        train(steps=60, learning_rate=3, other_learning_rate=3, warmup_steps=5, clip=0, save_every=60, eval_every=60)


def test_a_step_in_several_passes_is_the_step_in_one(train: Train, trainers: list[Any]) -> None:
    settings = {"steps": 4, "tokens_per_step": 90, "encoder_lora__dropout": 0, "multi_document": 0, "f1_questions": 0}
    logs = [read_log(train(f"of {most}", tokens_per_pass=most, **settings)) for most in (0, 20)]
    names = ("loss", "grad_norm", "answer", "quote", "ratio_error", "questions_seen")
    for one, other in zip(*logs, strict=True):
        assert {name: one[name] for name in names if name in one} == pytest.approx(
            {name: other[name] for name in names if name in one}, rel=1e-4
        )
    whole, parts = (trained(each.press) for each in trainers)
    for name, weight in whole.items():
        assert_close_but_for_noise(parts[name].detach(), weight.detach())


@pytest.mark.parametrize("environment", [{}, SHARED_OUT], ids=["whole", "shared out"])
@pytest.mark.parametrize(("tokens", "most"), [(10, 0), (60, 12)])
def test_two_processes_have_the_losses_of_one(
    train: Train, tmp_path: Path, tokens: int, most: int, environment: dict[str, str]
) -> None:
    """Some steps of the first run have a single row, so that one of the processes has none.

    In the second run the two have unequal numbers of passes.
    """
    settings = {"steps": 5, "tokens_per_step": tokens, "tokens_per_pass": most, "encoder_lora__dropout": 0}
    settings |= {"multi_document": 0, "eval_every": 5}
    alone = train("one", **settings)
    work = functools.partial(train, "two", **settings)
    assert as_one_training([work, work], **environment) == [0, 0]
    assert_same_training(tmp_path / "two", alone)
    rows = [line["examples_seen"] for line in read_log(alone) if "loss" in line]
    assert most or 1 in {b - a for a, b in zip([0, *rows], rows, strict=False)}


def test_memory_is_kept_where_the_allocator_takes_the_settings() -> None:
    assert in_processes([lambda: check(keep_freed_memory())]) == [0]


def check(taken: bool) -> None:
    import platform

    assert taken == (platform.libc_ver()[0] == "glibc")


def test_rows_of_the_reader_train_without_an_encoder(tiny_base: Base, data: Path) -> None:
    config = config_for(tiny_base, compressor="first-tokens", policy="fixed", residual="none", candidates=(1, 4))
    model = make_model(config, tiny_base)
    before = {name: p.detach().clone() for name, p in trained(model).items()}
    step_of(model, tiny_base, data)
    assert all(not torch.equal(p, before[name]) for name, p in trained(model).items())
    assert all(name.startswith("decoder.") for name in before)
