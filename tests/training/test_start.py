"""What a training takes from the press it starts from, and what it may have beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from latentpress.checkpoints.config import BaseReference, PressConfig
from latentpress.checkpoints.io import read_press
from latentpress.errors import TrainingError
from latentpress.lora import LoraSettings
from latentpress.training.start import different_settings

Train = Callable[..., Path]
PLAIN: dict[str, Any] = {"compressor": "comprexit", "policy": "fixed", "residual": "none", "encoder_layers": "none"}
FROZEN = PLAIN | {"encoder_lora": "none", "decoder_lora": "none", "compressor_settings__segment_tokens": 16}


def config(**changes: Any) -> PressConfig:
    return PressConfig(name="p", base=BaseReference(id="b", fingerprint="f", width=8), **changes)


def test_an_adapter_that_the_press_lacks_starts_at_zero(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    first = train("first", steps=3, **FROZEN)
    start = {"from_press": str(first / "press")}
    adapted = {name: value for name, value in FROZEN.items() if name != "decoder_lora"}
    capfd.readouterr()
    rates = {"learning_rate": 0, "other_learning_rate": 0}
    still = train("still", start, steps=1, **adapted, **rates)
    assert "the press that this starts from has none of the decoder; a new one starts at zero" in capfd.readouterr().err
    (_, modules, none, _), (made, same, adapters, _) = (read_press(folder / "press") for folder in (first, still))
    assert none == {}
    assert made.decoder_lora is not None
    assert all(torch.equal(same[name], tensor) for name, tensor in modules.items())
    assert not any(tensor.any() for name, tensor in adapters["decoder"].items() if "lora_B" in name)
    assert all(tensor.any() for name, tensor in adapters["decoder"].items() if "lora_A" in name)
    moved = train("moved", start, steps=2, **adapted, learning_rate=1e-2)
    assert any(tensor.any() for name, tensor in read_press(moved / "press")[2]["decoder"].items() if "lora_B" in name)
    train("stopped", {**start, "minutes": 1e-9}, steps=2, **adapted)
    capfd.readouterr()
    train("stopped", start, steps=2, **adapted)
    assert "a new one starts at zero" not in capfd.readouterr().err  # it goes on from where it was


READER: dict[str, Any] = {
    "compressor": "first-tokens",
    "policy": "fixed",
    "residual": "none",
    "encoder_layers": "none",
    "encoder_lora": "none",
    "candidates": "1,4,8",
}


def test_a_reader_starts_from_the_decoder_of_any_press(train: Train) -> None:
    first = train("first", steps=2, learning_rate=1e-2)
    start, rates = {"from_press": str(first / "press")}, {"learning_rate": 0, "other_learning_rate": 0}
    reader = train("reader", start, steps=1, **READER, **rates)
    (_, _, before, _), (made, modules, after, _) = (read_press(folder / "press") for folder in (first, reader))
    assert any(tensor.any() for name, tensor in before["decoder"].items() if "lora_B" in name)
    assert set(after) == {"decoder"}
    assert set(after["decoder"]) == set(before["decoder"])
    assert all(torch.equal(after["decoder"][name], tensor) for name, tensor in before["decoder"].items())
    assert modules == {}
    assert made.compressor == "first-tokens"
    with pytest.raises(TrainingError, match=r"decoder_lora is LoraSettings\(.*\) there, .*rank=2.* here"):
        train("other", start, steps=1, **READER, decoder_lora__rank=2)
    press = {"from_press": str(reader / "press")}
    with pytest.raises(TrainingError, match="compressor is 'first-tokens' there, 'mean-pooling' here"):
        train("back", press, steps=1)


def test_what_a_reader_does_not_take_over_may_differ() -> None:
    reader = config(compressor="first-tokens", residual="none", policy="fixed", encoder_lora=None)
    press = config(residual="mean", policy="selector", encoder_layers=2)
    assert different_settings(press, reader, frozenset()) == []
    other = config(residual="mean", policy="selector", prompt_vectors=4)
    assert different_settings(other, reader, frozenset()) == ["prompt_vectors is 4 there, 0 here"]
    none = config(residual="mean", policy="selector", decoder_lora=None)  # nothing to take over
    assert "compressor" in {text.partition(" ")[0] for text in different_settings(none, reader, frozenset())}
    two = config(compressor="first-tokens", residual="none", policy="fixed", encoder_lora=None, candidates=(1, 4))
    assert different_settings(two, reader, frozenset()) != []


def test_an_adapter_is_not_dropped_and_not_changed(train: Train) -> None:
    first = train("first", steps=1)
    start = {"from_press": str(first / "press")}
    with pytest.raises(TrainingError, match=r"decoder_lora is LoraSettings\(.*\) there, None here"):
        train("second", start, steps=1, decoder_lora="none")
    with pytest.raises(TrainingError, match=r"encoder_lora is LoraSettings\(.*rank=4.* there, .*rank=2.* here"):
        train("third", start, steps=1, encoder_lora__rank=2)


def test_settings_of_a_compressor_differ_where_what_they_say_does() -> None:
    given: dict[str, Any] = {"segment_tokens": 128, "epsilon": 0.1, "layer": None}
    plain, spelled, other = (
        config(compressor="comprexit", compressor_settings=settings)
        for settings in ({}, given, {**given, "segment_tokens": 64})
    )
    assert different_settings(plain, spelled, frozenset()) == []
    assert different_settings(spelled, plain, frozenset()) == []
    assert different_settings(other, spelled, frozenset({"compressor_settings"})) == [
        "compressor_settings is {'segment_tokens': 64} there, {} here"
    ]
    differing = different_settings(config(compressor="mean-pooling"), other, frozenset())
    assert [text.partition(" ")[0] for text in differing] == ["compressor", "compressor_settings"]


def test_a_press_without_adapters_may_get_either_and_nothing_else_is_let_through() -> None:
    none = config(encoder_lora=None, decoder_lora=None)
    assert different_settings(none, config(), frozenset()) == []
    assert different_settings(config(decoder_lora=LoraSettings(rank=2)), config(), frozenset({"decoder_lora"}))
    assert different_settings(config(residual="none"), config(residual="mean"), frozenset({"residual"}))


def test_a_press_without_a_selector_may_be_given_one(train: Train) -> None:
    first = train("first", steps=1, policy="fixed")
    start = {"from_press": str(first / "press")}
    rates = {"learning_rate": 0, "other_learning_rate": 0}
    second = train("second", start, steps=1, policy="selector", **rates)
    (_, before, _, _), (made, after, _, _) = (read_press(folder / "press") for folder in (first, second))
    assert made.policy == "selector"
    assert {name for name in after if name not in before} == {"head.linear.weight", "head.linear.bias"}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with pytest.raises(TrainingError, match="policy is 'selector' there, 'fixed' here"):
        train("third", {"from_press": str(second / "press")}, steps=1, policy="fixed")


def test_what_a_selector_chooses_for_may_change_where_it_is_asked_for() -> None:
    old, new = (
        config(compressor="comprexit"),
        config(compressor="comprexit", compressor_settings={"selects": "segment"}),
    )
    assert different_settings(old, new, {"compressor_settings"}) == []
    assert different_settings(old, new, frozenset()) != []
    other = config(compressor="comprexit", compressor_settings={"selects": "segment", "segment_tokens": 64})
    assert different_settings(old, other, {"compressor_settings"}) == [
        "compressor_settings is {} there, {'segment_tokens': 64} here"
    ]
