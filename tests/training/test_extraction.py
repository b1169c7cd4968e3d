"""Trainings of each way of extraction: what moves, at which rate, and that latents are learned and kept."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import config_for, make_model

from latentpress.backbone import Base
from latentpress.checkpoints.io import read_press
from latentpress.compressors import CompressionTokens, Ratio
from latentpress.data.records import read_records
from latentpress.data.rows import ExampleMaker
from latentpress.errors import PressError, TrainingError
from latentpress.loading import load_model
from latentpress.training import run
from latentpress.training.checkpoint import trained
from latentpress.training.objective import row_loss
from latentpress.training.optimizer import adamw
from latentpress.training.overrides import make_recipe
from training.helpers import assert_same_training, overrides, read_log, write_data

Train = Callable[..., Path]
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "last tokens": ("last-tokens", {}),
    "a token each": ("compression-tokens", {}),
    "one token": ("compression-tokens", {"compressor_settings__embeddings": "shared"}),
    "causal means": ("semidynamic", {"compressor_settings__attention": "causal"}),
}


@pytest.fixture
def train_as(train: Train, data: Path, tiny_base_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """As `train`, which it needs on the CPU, of any recipe."""

    def start(recipe: str, out: str = "run", arguments: dict[str, Any] | None = None, **settings: Any) -> Path:
        folder = tmp_path / out
        given = {"data": [str(data)], "base": str(tiny_base_folder), **(arguments or {})}
        run.train(recipe, out=folder, overrides=overrides(**settings), **given)
        return folder

    return start


@pytest.mark.parametrize("way", WAYS)
def test_the_loss_of_one_text_goes_down_and_the_press_that_comes_out_is_loaded(
    train_as: Train, tiny_base_folder: Path, tmp_path: Path, way: str
) -> None:
    recipe, settings = WAYS[way]
    records = tmp_path / "few.jsonl"
    row = {"context": "The fox signed it.", "qas": [{"question": "who?", "answers": ["the fox"]}]}
    records.write_text((json.dumps(row) + "\n") * 2)
    few = {"steps": 8, "tokens_per_step": 10, "multi_document": 0, "quotes": 0, "quote_schedule": "", "save_every": 8}
    rates = {"learning_rate": 1e-2, "other_learning_rate": 1e-2, "encoder_lora__dropout": 0, "warmup_steps": 0}
    out = train_as(recipe, arguments={"data": [str(records)]}, **few, **rates, **settings)
    answers = [line["answer"] for line in read_log(out) if "answer" in line]
    assert len(answers) == 8
    assert answers[-1] < 0.8 * answers[0]
    model, _, _ = load_model(out / "press", base=tiny_base_folder, dtype="float32", device="cpu")
    assert model.compressor.name == make_recipe(recipe).compressor
    assert model.compressor.visibility == "causal"
    with torch.no_grad():
        made = model.latents(model.encode([[7, 8, 9, 10, 11]]), Ratio(2))
    assert made.counts == (3,)


@pytest.mark.parametrize("embeddings", ["different", "shared"])
@pytest.mark.parametrize("adapter", [True, False])
def test_one_step_moves_the_tokens_at_the_rate_of_what_is_no_adapter(
    tiny_base: Base, data: Path, embeddings: str, adapter: bool
) -> None:
    own: dict[str, Any] = {"compressor_settings": {"embeddings": embeddings}, "residual": "none"}
    own |= {} if adapter else {"encoder_lora": None}
    model = make_model(config_for(tiny_base, compressor="compression-tokens", **own), tiny_base)
    before = {name: p.detach().clone() for name, p in trained(model).items()}
    maker = ExampleMaker(tiny_base.tokenizer, model.config.prompt, model.config.window_tokens)
    records = [maker.tokenize(record) for record in read_records(data, limit=4)]
    examples = [maker.example([r], random.Random(0), questions=2, quotes=1, quote_tokens=10) for r in records]
    loss = row_loss(model.train(), examples, Ratio(2))
    (loss.lm + loss.ratio).backward()
    optimiser = adamw(model, make_recipe("compression-tokens", overrides(learning_rate=1e-2, other_learning_rate=1e-3)))
    optimiser.step()
    assert isinstance(model.compressor, CompressionTokens)
    (group,) = (g for g in optimiser.param_groups if any(p is model.compressor.tokens for p in g["params"]))
    assert group["lr"] == 1e-3
    moved = {name for name, p in trained(model).items() if not torch.equal(p, before[name])}
    assert moved == set(before)
    read = max(model.compressor.adds(len(window)) for example in examples for window in example.windows)
    steps = (model.compressor.tokens.detach() - before["compressor.tokens"]).abs().sum(1)
    assert bool((steps[:read] > 0).all())
    assert any(name.startswith("encoder.") for name in moved) == adapter


def test_tokens_are_in_checkpoint_and_press_and_a_training_goes_on_from_them(
    train_as: Train, tiny_base_folder: Path
) -> None:
    first = train_as("compression-tokens", "first", steps=2)
    masters = load_file(first / "checkpoint-2" / "masters.safetensors")
    kept = read_press(first / "press")[1]["compressor.tokens"]
    assert masters["compressor.tokens"].dtype == torch.float32
    assert kept.shape == masters["compressor.tokens"].shape == (24, 64)
    start = {"from_press": str(first / "press")}
    second = train_as("compression-tokens", "second", start, steps=1, learning_rate=0, other_learning_rate=0)
    assert torch.equal(read_press(second / "press")[1]["compressor.tokens"], kept)
    with pytest.raises(TrainingError, match=r"its compressor\.tokens is \[24, 64\] there, \[20, 64\] here; give"):
        train_as("compression-tokens", "third", start, steps=1, window_tokens=40)


def test_a_resumed_training_has_the_tokens_that_one_in_a_piece_has(train_as: Train) -> None:
    whole = train_as("compression-tokens", "whole", steps=4)
    train_as("compression-tokens", "parts", {"minutes": 1e-9}, steps=4)
    parts = train_as("compression-tokens", "parts", steps=4)
    weights = [load_file(out / "checkpoint-4" / "masters.safetensors") for out in (whole, parts)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_residual_beside_states_of_tokens_is_refused_with_the_remedy(train_as: Train) -> None:
    for recipe in ("last-tokens", "compression-tokens"):
        with pytest.raises(PressError, match=f"'{recipe}' is none; set residual='none'"):
            train_as(recipe, residual="salient")


def test_salient_windows_are_those_of_the_press_a_training_starts_from_also_after_a_stop(
    train: Train, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "dropped": ("encoder_lora__rank", "encoder_lora__dropout"),
        "compressor": "kv-pooling",
        "compressor_settings__windows": "salient",
        "residual": "none",
        "encoder_layers": "none",
        "encoder_lora": "none",
    }
    other = write_data(tmp_path / "other.jsonl", 12, seed=5)
    first = train("first", {"data": [str(other)]}, steps=1, **settings)
    given = {"from_press": str(first / "press")}
    whole = train("whole", given, steps=4, **settings)
    for _ in range(2):
        train("parts", given | {"minutes": 1e-9}, steps=4, **settings)
    assert_same_training(train("parts", given, steps=4, **settings), whole)
    tables = [load_file(out / "press" / "modules.safetensors")["compressor.salience"] for out in (first, whole)]
    assert torch.equal(*tables)
    here = load_file(train("here", steps=1, **settings) / "press" / "modules.safetensors")["compressor.salience"]
    assert not torch.equal(tables[0], here)
