"""Presses that count in latents, and presses that choose for a whole document, from the text to the answer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from handmade import OTHER_TEXT, QUESTION, TEXT, save_press, sharpen_head
from tiny import config_for, make_model

from latentpress import windows
from latentpress.arguments import WantedSize
from latentpress.compressors import COMPRESSORS, Length
from latentpress.errors import ContextTooLongError, InputError, PressError, RatioError
from latentpress.inspection import inspect
from latentpress.latents import EmbeddingLatents
from latentpress.loading import load_model
from latentpress.press import Press
from latentpress.ratios import POLICIES

if TYPE_CHECKING:
    from latentpress.backbone import Base

LENGTHS = (2, 4, 8, 16)


def press_on(base: Base, *, factor: float = 30.0, **changes: Any) -> Press:
    """A press whose selector, if it has one, chooses different sizes for the windows of one text."""
    model = make_model(config_for(base, **changes), base)
    return Press(model if model.head is None else sharpen_head(model, factor), base, None, "feed")


def by_length(base: Base, policy: str = "length-selector", **changes: Any) -> Press:
    return press_on(base, policy=policy, candidates=LENGTHS, **changes)


def counts(latents: EmbeddingLatents) -> list[int]:
    return [window.latents for window in latents.windows]


@pytest.mark.parametrize("selection", ["window", "document"])
@pytest.mark.parametrize("policy", ["fixed-length", "length-selector", "continuous-length", "continuous"])
def test_every_policy_goes_from_the_text_through_a_file_to_the_answer(
    tiny_base: Base, tmp_path: Path, policy: str, selection: str
) -> None:
    press = by_length(tiny_base, policy, selection=selection)
    latents = press.compress(TEXT * 2)
    assert latents.context_tokens == press.count_tokens(TEXT * 2)
    assert (latents.requested_ratio, latents.requested_length) == (None, None)
    latents.save(tmp_path / "a.latents")
    loaded = EmbeddingLatents.load(tmp_path / "a.latents")
    assert loaded.windows == latents.windows
    answer = press.ask(loaded, QUESTION, max_new_tokens=5)
    assert answer == press.ask(TEXT * 2, QUESTION, max_new_tokens=5)
    folder = save_press(press.model, tmp_path / "press")
    model, (base, _), fingerprint = load_model(folder, base=_written(tiny_base, tmp_path), dtype="float32")
    again = Press(model, base, None, fingerprint)
    assert again.config == press.config
    assert counts(again.compress(TEXT * 2)) == counts(latents)


def _written(base: Base, folder: Path) -> Path:
    base.model.save_pretrained(folder / "base")
    base.tokenizer.save_pretrained(folder / "base")
    return folder / "base"


def test_a_selector_by_length_gives_each_window_what_it_chooses_of_it(tiny_base: Base) -> None:
    press = by_length(tiny_base)
    latents = press.compress(TEXT * 3)
    assert len(set(counts(latents))) > 1
    for window in latents.windows:
        assert window.log2_ratio is not None
        size = press.model.policy.choose(window.log2_ratio, 0.0, window.tokens)
        assert window.latents == min(size.value, window.tokens)
        assert window.ratio == window.tokens / window.latents
    fewer = press.compress(TEXT * 3, scale=1.0)
    assert all(b <= a for a, b in zip(counts(latents), counts(fewer), strict=True))
    assert len(fewer) < len(latents)


def test_a_length_is_that_of_every_window_and_of_a_short_text_all_it_has(tiny_base: Base) -> None:
    press = by_length(tiny_base)
    latents = press.compress(TEXT * 2, length=8)
    assert set(counts(latents)) == {8}
    assert {window.log2_ratio for window in latents.windows} == {None}
    assert (latents.requested_ratio, latents.requested_length) == (None, 8)
    short = press.compress("a fox", length=16)
    assert len(short) == short.context_tokens < 16


def test_a_length_of_a_document_is_shared_out_among_its_windows(tiny_base: Base) -> None:
    press = by_length(tiny_base, "fixed-length", selection="document")
    for length in LENGTHS:
        latents = press.compress(TEXT, length=length)
        windows = len(latents.windows)
        assert windows > 2
        assert len(latents) == max(length, windows)
        assert max(counts(latents)) - min(counts(latents)) <= 1
    assert len(press.compress(TEXT)) == 16


@pytest.mark.parametrize("policy", ["selector", "continuous", "length-selector", "continuous-length"])
def test_a_document_has_one_choice_from_the_mean_of_its_windows(tiny_base: Base, policy: str) -> None:
    changes = {"policy": policy, "candidates": LENGTHS, "window_tokens": 24}
    press = press_on(tiny_base, factor=10.0, selection="document", **changes)
    latents = press.compress(TEXT * 2)
    known = [(window.log2_ratio, window.tokens) for window in latents.windows]
    mean = sum((y or 0) * tokens for y, tokens in known) / latents.context_tokens
    size = press.model.policy.choose(mean, 0.0, latents.context_tokens)
    if press.model.policy.word() == "ratio":
        assert {window.ratio for window in latents.windows} == {float(size.value)}
        assert counts(latents) == [math.ceil(tokens / size.value) for _, tokens in known]
    else:
        assert len(latents) == max(size.value, len(known))
    alone = press_on(tiny_base, factor=10.0, selection="window", **changes).compress(TEXT * 2)
    for one, other in zip(alone.windows, latents.windows, strict=True):
        assert one.log2_ratio == pytest.approx(other.log2_ratio, abs=1e-4)
    assert counts(alone) != counts(latents)


@pytest.mark.parametrize("selection", ["window", "document"])
def test_the_length_that_counts_is_that_of_the_document_whatever_its_passes(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch, selection: str
) -> None:
    changes = {"candidates": (1, 2, 4, 8, 16, 32), "window_tokens": 24, "selection": selection, "length_exponent": 1.0}
    press = press_on(tiny_base, factor=3.0, **changes)
    read_in_short_passes(press, monkeypatch)
    short, long = press.compress([TEXT, TEXT * 8])
    for latents in (short, long):
        windows = latents.windows
        told, tokens = [window.log2_ratio for window in windows], [window.tokens for window in windows]
        sizes = press.model.policy.choose_parts(told, 0.0, tokens)
        assert [window.ratio for window in windows] == [float(size.value) for size in sizes]
    assert long.ratio > short.ratio
    plain = press_on(tiny_base, factor=3.0, **{**changes, "length_exponent": 0.0}).compress(TEXT * 8)
    assert long.ratio > plain.ratio


def read_in_short_passes(press: Press, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes passes of 100 tokens; tokens of each text that the encoder reads from here on, as they come."""
    read: list[int] = []
    encode = press.model.encode

    def watched(texts: Sequence[Sequence[int]]) -> Any:
        read.extend(map(len, texts))
        return encode(texts)

    monkeypatch.setattr(windows, "PASS_TOKENS", 100)
    monkeypatch.setattr(press.model, "encode", watched)
    return read


@pytest.mark.parametrize("policy", ["selector", "length-selector", "fixed-length"])
def test_passes_change_no_choice_for_a_document(tiny_base: Base, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    press = by_length(tiny_base, policy, selection="document")
    texts = ["a fox", TEXT, OTHER_TEXT, TEXT * 3]
    whole = press.compress(texts)
    read = read_in_short_passes(press, monkeypatch)
    cut = press.compress(texts)
    for one, other in zip(whole, cut, strict=True):
        assert counts(one) == counts(other)
        torch.testing.assert_close(one.vectors, other.vectors, atol=1e-5, rtol=1e-5)
    tokens = [latents.context_tokens for latents in whole]
    twice = sum(read) - sum(tokens)
    assert (twice == 0) if policy == "fixed-length" else (tokens[-1] <= twice < sum(tokens))
    read.clear()
    asked = {"ratio": 4} if policy == "selector" else {"length": 4}
    press.compress(texts, **asked)  # type: ignore[call-overload]
    assert sum(read) == sum(tokens)  # known before anything is read


def test_all_sizes_of_a_document_are_chosen_from_one_reading_ahead(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    press = by_length(tiny_base, "selector", selection="document")
    scales = (-1.0, 0.0, 1.0)
    each = [press.compress(TEXT * 3, scale=scale) for scale in scales]
    read = read_in_short_passes(press, monkeypatch)
    made = press.compress_at([TEXT * 3], [WantedSize(scale=scale) for scale in scales])
    assert sum(read) == 2 * each[0].context_tokens
    assert [counts(one) for (one,) in made] == [counts(one) for one in each]


@pytest.mark.parametrize("policy", ["selector", "length-selector", "fixed-length"])
def test_progress_counts_what_is_read_ahead_as_it_is_read(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    press = by_length(tiny_base, policy, selection="document")
    monkeypatch.setattr(windows, "PASS_TOKENS", 100)
    read: list[int] = []
    encode = press.model.encode

    def watched(texts: Sequence[Sequence[int]]) -> Any:
        read.append(sum(map(len, texts)))
        return encode(texts)

    monkeypatch.setattr(press.model, "encode", watched)
    told: list[tuple[int, int]] = []
    for asked in ({}, {"ratio": 4} if policy == "selector" else {"length": 4}):
        read.clear()
        told.clear()
        press.compress([OTHER_TEXT, TEXT * 3], progress=lambda *now: told.append(now), **asked)  # type: ignore[call-overload]
        assert told == [(done, sum(read)) for done in itertools.accumulate(read)]


@pytest.mark.parametrize("policy", ["fixed", "fixed-length"])
def test_a_scale_for_a_press_without_a_selector_is_refused_before_anything_is_read(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    press = by_length(tiny_base, policy)
    monkeypatch.delattr(type(press.model), "encode")
    with pytest.raises(RatioError, match="scale=1 shifts a selector's prediction"):
        press.compress(TEXT, scale=1.0)


def test_segments_with_ratios_of_their_own_have_one_when_a_document_is_chosen_for(tiny_base: Base) -> None:
    changes = {"compressor": "comprexit", "residual": "none", "encoder_lora": None, "encoder_layers": None}
    settings = {"segment_tokens": 8, "selects": "segment"}
    each, one = (
        press_on(tiny_base, compressor_settings=settings, selection=selection, **changes).compress(TEXT)
        for selection in ("window", "document")
    )
    assert [window.tokens for window in each.windows] == [window.tokens for window in one.windows]
    assert len({window.log2_ratio for window in one.windows}) > 2
    assert len({window.ratio for window in one.windows}) == 1 < len({window.ratio for window in each.windows})


@pytest.mark.parametrize(
    ("policy", "asked", "message"),
    [
        (
            "selector",
            {"length": 8},
            r"length=8 cannot be had: .* for ratios; use ratio= with one of 2, 4, 8, 16",
        ),
        ("fixed", {"length": 8}, r"length=8 cannot be had: .*use ratio= with one of 2, 4, 8, 16"),
        ("continuous", {"length": 8}, r"use ratio= with a whole number from 2 to 16"),
        ("length-selector", {"ratio": 4}, r"ratio=4 cannot be had: .* trained for lengths; use length= with one of 2"),
        ("continuous-length", {"ratio": 4}, r"use length= with a whole number from 2 to 16"),
        (
            "length-selector",
            {"length": 5},
            r"length 5 is not one .* trained for; choose one of 2, 4, 8, 16",
        ),
        ("continuous-length", {"length": 17}, r"length 17 .*choose a whole number from 2 to 16"),
        ("continuous", {"ratio": 2.5}, r"ratio 2\.5 .*choose a whole number from 2 to 16"),
        ("length-selector", {"ratio": 4, "length": 8}, r"ratio=4 and length=8 contradict each other"),
        ("length-selector", {"length": 8, "scale": 1.0}, r"length=8 and scale=1 contradict each other"),
        ("length-selector", {"length": "8"}, r"length='8' is not a finite number"),
        ("fixed-length", {"scale": 1.0}, r"scale=1 shifts .* fixed length; use length= with one of 2, 4, 8, 16"),
    ],
)
def test_what_a_press_does_not_count_in_is_refused_with_what_it_has(
    tiny_base: Base, policy: str, asked: dict[str, Any], message: str
) -> None:
    press = by_length(tiny_base, policy)
    with pytest.raises(InputError, match=message) as raised:
        press.compress(TEXT, **asked)
    if len(asked) == 1 and not isinstance(asked.get("length"), str):
        assert isinstance(raised.value, RatioError)


@pytest.mark.parametrize("selection", ["window", "document"])
@pytest.mark.parametrize("asked", [{}, {"length": 4}, {"scale": 1.0}])
def test_an_inspection_looks_at_the_sizes_that_were_used(
    tiny_base: Base, selection: str, asked: dict[str, Any]
) -> None:
    press = by_length(tiny_base, selection=selection)
    shown = inspect(press, TEXT * 2, **asked)
    made = press.compress(TEXT * 2, **asked)
    assert shown.windows == made.windows
    assert shown.spans.tolist() == made.token_spans.tolist()
    assert shown.salience is not None
    assert shown.slots is not None
    for slot in range(len(made)):
        assert shown.salience[shown.slots == slot].sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("selection", ["window", "document"])
def test_a_prompt_that_is_too_long_names_the_length_at_which_it_would_fit(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch, selection: str
) -> None:
    press = by_length(tiny_base, "fixed-length", selection=selection)
    latents = press.compress(TEXT * 2)
    fits = {length: len(press.compress(TEXT * 2, length=length)) for length in LENGTHS}
    beside = press._reader.positions([*press._reader.opening(1), press._reader.request("Who?")], [latents]) + 1
    monkeypatch.setattr(press._reader, "_limit", beside - len(latents) + fits[8])
    with pytest.raises(ContextTooLongError, match="compress at length=8 or less"):
        press.ask(latents, "Who?", max_new_tokens=1)
    monkeypatch.setattr(press._reader, "_limit", beside - len(latents) + fits[2] - 1)
    with pytest.raises(ContextTooLongError, match="none of the lengths 2, 4, 8, 16 makes"):
        press.ask(latents, "Who?", max_new_tokens=1)


OWN = {
    "comprexit": {"residual": "none", "encoder_lora": None, "encoder_layers": None},
    "first-tokens": {"residual": "none", "encoder_lora": None},
    "kv-pooling": {"residual": "none", "encoder_lora": None, "encoder_layers": None},
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_a_compressor_goes_with_a_policy_or_the_pair_is_refused_naming_both(
    tiny_base: Base, compressor: str, policy: str
) -> None:
    kind, made = POLICIES[policy], COMPRESSORS[compressor]
    changes = OWN.get(compressor, {"residual": "salient" if made.tiles else "none"})
    if kind.kind not in made.sizes or (kind.predicts and made.reads == "embeddings"):
        with pytest.raises(PressError, match=f"ratio policy '{policy}' .* compressor '{compressor}'"):
            by_length(tiny_base, policy, compressor=compressor, **changes)
        return
    for selection in ("window", "document"):
        press = by_length(tiny_base, policy, compressor=compressor, selection=selection, **changes)
        latents = press.compress(TEXT)
        shared = selection == "document" and kind.kind is Length
        bound = max(LENGTHS[-1], len(latents.windows)) if shared else press.model.policy.most(latents.context_tokens)
        assert 1 <= len(latents) <= bound * (1 if shared else len(latents.windows))
        assert isinstance(press.ask(latents, QUESTION, max_new_tokens=2), str)
