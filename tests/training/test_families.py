"""The recipes train a press on bases of other families as they do on the default one: no code of theirs, no setting."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import make_network, make_tokenizer

import latentpress
from latentpress.errors import BaseModelError
from latentpress.training import run
from training.helpers import read_log

Train = Callable[..., Path]
# Sizes of the tiny bases and of the data alone; everything else is the recipe's, bfloat16 included.
SIZES = {
    "steps": 6,
    "tokens_per_step": 60,
    "max_context_tokens": 96,
    "log_every": 1,
    "dev_records": 0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "semidynamic": {"encoder_layers": 2, "long_documents": 0.3, "long_document_tokens": 200},
    "comprexit": {"ntp.max_context_tokens": 24, "ntp.continue_tokens": 6, "compressor_settings.segment_tokens": 32},
    "reader": {},
    "semidynamic-kv": {"long_documents": 0.3, "long_document_tokens": 200},
}


@pytest.fixture(scope="module", params=["qwen3", "llama", "gemma3"])
def base_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base with what is particular of its family: norms of queries and keys, sliding windows of six tokens."""
    tokenizer = make_tokenizer()
    folder = tmp_path_factory.mktemp("families") / str(request.param)
    network = make_network(str(request.param), len(tokenizer))
    names = {name for name, _ in network.named_parameters()}
    assert ("model.layers.0.self_attn.q_norm.weight" in names) == (request.param != "llama")
    assert ("sliding_attention" in (getattr(network.config, "layer_types", None) or ())) == (request.param == "gemma3")
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_shipped_recipe_trains_a_press_that_answers(
    train: Train, data: Path, base_folder: Path, tmp_path: Path, recipe: str
) -> None:
    overrides = [f"{name}={value}" for name, value in {**SIZES, **RECIPES[recipe]}.items()]
    if recipe == "semidynamic-kv" and base_folder.name == "gemma3":
        with pytest.raises(BaseModelError, match="latents cannot be cache entries of a Gemma3"):
            run.train(recipe, data=[str(data)], out=tmp_path / "run", base=str(base_folder), overrides=overrides)
        return
    folder = run.train(recipe, data=[str(data)], out=tmp_path / "run", base=str(base_folder), overrides=overrides)
    phases = [tmp_path / "run" / name for name in ("ntp", "sft")] if recipe == "comprexit" else [tmp_path / "run"]
    for phase in phases:
        losses = [line["loss"] for line in read_log(phase) if "loss" in line]
        assert len(losses) == SIZES["steps"]
        assert all(map(math.isfinite, losses))
    press = latentpress.load(folder, base=base_folder, device="cpu")
    latents = press.compress("The treaty was signed in Paris on the first day of May.", ratio=4)
    assert latents.ratio >= 3
    assert isinstance(press.ask(latents, "Where was it signed?", max_new_tokens=4), str)
    assert press.config.trained["step"] == SIZES["steps"]


def test_the_loss_falls_on_every_family(train: Train, base_folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text('{"context": "The fox signed it.", "qas": [{"question": "who?", "answers": ["the fox"]}]}\n' * 2)
    settings: dict[str, Any] = {"steps": 16, "tokens_per_step": 10, "multi_document": 0, "quotes": 0}
    settings |= {"quote_schedule": "", "save_every": 16, "dev_records": 0, "encoder_lora__dropout": 0}
    rates = {"learning_rate": 1e-2, "other_learning_rate": 1e-2}
    log = read_log(train(arguments={"data": [str(few)], "base": str(base_folder)}, **settings, **rates))
    answers = [line["answer"] for line in log if "loss" in line]
    assert len(answers) == 16
    assert answers[-1] < 0.6 * answers[0]
