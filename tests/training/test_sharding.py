"""Weights shared out over two processes on the CPU: each has its part, and nothing else tells the difference."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_network, make_tokenizer
from torch import nn
from torch.distributed.tensor import DTensor

from latentpress.backbone import Base
from latentpress.errors import TrainingError
from latentpress.model import PressModel
from latentpress.training import run
from latentpress.training.sharding import check_settings, make_shareable
from latentpress.training.trainer import PressTrainer
from training.helpers import SHARED_OUT, as_one_training, assert_complete, assert_same_training

Train = Callable[..., Path]
SETTINGS: dict[str, Any] = {"steps": 6, "eval_every": 100, "encoder_lora__dropout": 0, "tokens_per_step": 60}


def test_each_process_has_its_part_of_every_weight_and_nothing_beside(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[PressTrainer] = []
    whole: set[torch.Size] = set()

    class Watched(PressTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            kept = [one for one in gc.get_objects() if type(one) is nn.Parameter and one.dtype == torch.bfloat16]
            whole.update(one.shape for one in kept if one.untyped_storage().size())
            return loss

    def work() -> None:
        train(steps=2, dtype="bfloat16")
        press = made[0].press
        parts = [parameter for parameter in press.parameters() if isinstance(parameter, DTensor)]
        assert len(parts) == len([*press.parameters()])
        assert {part.dtype for part in parts if part.requires_grad} == {torch.float32}
        assert {part.dtype for part in parts if not part.requires_grad} == {torch.bfloat16}
        assert 0.4 < sum(part.to_local().numel() for part in parts) / sum(part.numel() for part in parts) < 0.6
        states = made[0].optimizer.state_dict()["state"]
        assert all(isinstance(state["exp_avg"], DTensor) for state in states.values())
        assert whole == {press.decoder.body.get_input_embeddings().weight.shape}  # the output layer

    monkeypatch.setattr(run, "PressTrainer", Watched)
    assert as_one_training([work, work], **SHARED_OUT) == [0, 0]


def test_a_run_goes_on_with_another_number_of_processes_shared_out_or_not(train: Train, tmp_path: Path) -> None:
    whole = train("whole", **SETTINGS)
    stopped = functools.partial(train, "moved", {"minutes": 1e-9}, **SETTINGS)
    assert as_one_training([stopped, stopped], **SHARED_OUT) == [0, 0]
    assert_complete(tmp_path / "moved")
    assert as_one_training([stopped, stopped], **SHARED_OUT) == [0, 0]
    assert as_one_training([stopped, stopped]) == [0, 0]
    assert as_one_training([stopped, stopped]) == [0, 0]
    stopped()
    to_the_end = functools.partial(train, "moved", **SETTINGS)
    assert as_one_training([to_the_end, to_the_end], **SHARED_OUT) == [0, 0]
    assert_complete(tmp_path / "moved")
    assert_same_training(tmp_path / "moved", whole)


def test_a_frozen_base_whose_layers_are_all_read_is_shared_out(train: Train, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    make_network("qwen3", len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings: dict[str, Any] = {
        "steps": 3,
        "compressor": "comprexit",
        "compressor_settings__segment_tokens": 16,
        "policy": "fixed",
        "residual": "none",
        "encoder_layers": "none",
        "encoder_lora": "none",
        "decoder_lora": "none",
        "dev_records": 0,
    }
    left_out = ("encoder_lora__rank", "encoder_lora__dropout", "decoder_lora__rank")
    start = functools.partial(train, arguments={"base": str(tmp_path / "base")}, dropped=left_out, **settings)
    whole = start("whole")
    assert as_one_training([lambda: start("shared")] * 2, **SHARED_OUT) == [0, 0]
    assert_same_training(tmp_path / "shared", whole)
    presses = [load_file(tmp_path / name / "press" / "modules.safetensors") for name in ("shared", "whole")]
    assert {name: tensor.shape for name, tensor in presses[0].items()} == {k: v.shape for k, v in presses[1].items()}


@pytest.mark.parametrize("environment", [SHARED_OUT, {}], ids=["shared out", "copied"])
def test_latents_that_are_cache_entries_are_learned_alike_by_two_processes(
    train: Train, tmp_path: Path, environment: dict[str, str]
) -> None:
    settings: dict[str, Any] = {
        "steps": 3,
        "eval_every": 100,
        "tokens_per_step": 60,
        "compressor": "kv-pooling",
        "compressor_settings__windows": "salient",
        "policy": "fixed",  # no head, which would read the last layer beside the entries
        "candidates": "1,2,4",  # at ratio 1 nothing is pooled
        "residual": "none",
        "encoder_layers": "none",
        "encoder_lora": "none",
    }
    start = functools.partial(train, dropped=("encoder_lora__rank", "encoder_lora__dropout"), **settings)
    whole = start("whole")
    assert as_one_training([lambda: start("two")] * 2, **environment) == [0, 0]
    assert_same_training(tmp_path / "two", whole)


def test_what_is_made_ready_computes_the_same_from_the_same_memory(tiny_model: PressModel, tiny_base: Base) -> None:
    ids = list(range(10, 40))
    before = tiny_model.encode([ids]).states
    assert make_shareable(tiny_model) == {"residual.log_gain"}
    assert all(parameter.ndim for parameter in tiny_model.parameters())
    assert (tiny_model.encode([ids]).states == before).all()
    assert tiny_model.encoder is not None
    sides = [dict(part.body.layers.named_parameters()) for part in (tiny_model.encoder, tiny_model.decoder)]
    frozen = [name for name, parameter in sides[0].items() if not parameter.requires_grad]
    assert frozen
    for name in frozen:
        assert sides[0][name] is not sides[1][name]
        assert sides[0][name].data_ptr() == sides[1][name].data_ptr()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("version", "1"),
        ("cpu_ram_efficient_loading", "true"),
        ("activation_checkpointing", "true"),
        ("offload_params", "true"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, setting: str, value: str) -> None:
    for name, usual in SHARED_OUT.items():
        monkeypatch.setenv(name, usual)
    check_settings()
    monkeypatch.setenv(f"FSDP_{setting.upper()}", value)
    with pytest.raises(TrainingError, match=f"fsdp_{setting} of the accelerate configuration .* set it to "):
        check_settings()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    check_settings()
