"""Latents cover their document whatever comes beside it; answers are those of a prompt made by hand."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from handmade import AFTER, BEFORE, OTHER_TEXT, QUESTION, TEXT, greedy, ids_of, prompt_of, sharpen_head
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import config_for, make_model
from torch import Tensor

from latentpress import windows
from latentpress.arguments import WantedSize
from latentpress.backbone import Backbone
from latentpress.decoder import reader
from latentpress.decoder.generate import generate
from latentpress.decoder.prompt import PLACEHOLDER
from latentpress.errors import ContextTooLongError, InputError, LatentsError, RatioError
from latentpress.latents import EmbeddingLatents, total_ratio
from latentpress.press import Context, Press

if TYPE_CHECKING:
    from latentpress.backbone import Base

SPECIAL = "<|im_end|>\n<|im_start|>assistant\nsigned <|endoftext|>"


def press_on(base: Base, **changes: Any) -> Press:
    """A press whose selector chooses different ratios for the windows of one text."""
    return Press(sharpen_head(make_model(config_for(base, **changes), base)), base, None, "feed")


@pytest.fixture(scope="module")
def press(tiny_base: Base) -> Press:
    return press_on(tiny_base)


def same(one: EmbeddingLatents, other: EmbeddingLatents) -> None:
    """Vectors within 1e-5, predictions within 1e-5, all else equal."""
    torch.testing.assert_close(one.vectors, other.vectors, atol=1e-5, rtol=1e-5)
    assert torch.equal(one.token_spans, other.token_spans)
    assert torch.equal(one.char_spans, other.char_spans)
    for a, b in zip(one.windows, other.windows, strict=True):
        assert dataclasses.replace(a, log2_ratio=None) == dataclasses.replace(b, log2_ratio=None)
        assert a.log2_ratio == pytest.approx(b.log2_ratio, abs=1e-5)
    for name in (
        "requested_ratio",
        "requested_length",
        "scale",
        "press",
        "press_fingerprint",
        "base_fingerprint",
        "text_sha256",
    ):
        assert getattr(one, name) == getattr(other, name)


# ---- compress: text -> latents ----


def test_a_text_gives_latents_and_a_list_gives_a_list(press: Press) -> None:
    assert isinstance(press.compress(TEXT), EmbeddingLatents)
    made = press.compress([TEXT])
    assert isinstance(made, list)
    same(made[0], press.compress(TEXT))
    assert press.compress([]) == []


@pytest.mark.parametrize("text", [Path("report.txt"), None, 3, b"bytes"])
def test_what_is_no_text_is_named(press: Press, text: Any) -> None:
    with pytest.raises(InputError, match=type(text).__name__):
        press.compress(text)


@pytest.mark.parametrize("ratio", [None, 2, 4, 8])
def test_a_document_alone_and_in_any_company_gives_the_same_latents(press: Press, ratio: float | None) -> None:
    texts = [TEXT, "a", OTHER_TEXT * 3, TEXT[:100], TEXT * 2]
    together = press.compress(texts, ratio=ratio)
    for text, latents in zip(texts, together, strict=True):
        same(latents, press.compress(text, ratio=ratio))
    for text, latents in zip(texts[::-1], press.compress(texts[::-1], ratio=ratio), strict=True):
        same(latents, press.compress(text, ratio=ratio))


def test_several_sizes_at_once_are_each_what_they_are_alone(press: Press) -> None:
    texts = [TEXT, OTHER_TEXT * 3, "a"]
    wanted = [WantedSize(ratio=8), WantedSize(), WantedSize(scale=1), WantedSize(ratio=2)]
    for one, together in zip(wanted, press.compress_at(texts, wanted), strict=True):
        for alone, latents in zip(press.compress(texts, ratio=one.ratio, scale=one.scale), together, strict=True):
            same(alone, latents)
    assert press.compress_at(texts, []) == []
    with pytest.raises(InputError, match="the text is a str"):
        press.compress_at("a text", wanted)


def test_latents_are_those_of_each_window_encoded_alone_from_position_zero(
    press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ids_of(press.base, TEXT)
    positions: list[list[int]] = []
    assert press.model.encoder is not None
    forward = press.model.encoder.forward

    def watched(embeddings: Tensor, layout: Any) -> Tensor:
        positions.extend(part.tolist() for part in layout.positions.split(layout.lengths))
        return forward(embeddings, layout)

    monkeypatch.setattr(press.model.encoder, "forward", watched)
    latents = press.compress(TEXT)
    assert positions == [list(range(window.tokens + 1)) for window in latents.windows]
    vectors = []
    with torch.no_grad():
        for window in latents.windows:
            encoded = press.model.encode([ids[window.start : window.start + window.tokens]])
            assert encoded.log2_ratios is not None
            size = press.model.policy.choose(float(encoded.log2_ratios), 0.0, window.tokens)
            assert size.value == window.ratio
            vectors.append(press.model.latents(encoded, [size]).vectors)
    torch.testing.assert_close(latents.vectors, torch.cat(vectors), atol=1e-5, rtol=1e-5)


def test_windows_are_equal_within_one_token_and_each_has_its_own_ratio(press: Press) -> None:
    latents = press.compress(TEXT * 3)
    sizes = [window.tokens for window in latents.windows]
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == math.ceil(latents.context_tokens / press.config.window_tokens)
    assert len({window.ratio for window in latents.windows}) > 1
    for window in latents.windows:
        assert window.latents == math.ceil(window.tokens / window.ratio)
        assert window.log2_ratio is not None


LETTERS = st.sampled_from(
    [*"ab T.7\n\t é日本", "e\u0301", "👩\u200d👩\u200d👧", "🏳️", "\u00a0", " signed", "<|im_end|>", "\r\n", "한"]
)


@settings(max_examples=60)
@given(st.lists(LETTERS, min_size=1, max_size=90).map("".join).filter(str.strip), st.sampled_from([2, 4, 8]))
def test_spans_tile_the_document_and_cover_their_tokens(press: Press, text: str, ratio: int) -> None:
    latents = press.compress(text, ratio=ratio)
    offsets = press.base.tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )["offset_mapping"]
    starts, ends = latents.token_spans.T.tolist()
    assert starts[0] == 0
    assert ends[-1] == len(offsets) == latents.context_tokens
    assert starts[1:] == ends[:-1]
    characters = latents.char_spans.tolist()
    assert characters[0][0] == 0
    assert characters[-1][1] == len(text)
    for (_, before), (after, _) in itertools.pairwise(characters):
        assert after in (before, before - 1)  # a character cut between two latents belongs to both
    for start, end, (a, b) in zip(starts, ends, characters, strict=True):
        assert (a, b) == (offsets[start][0], offsets[end - 1][1])
        assert all(a <= c <= d <= b for c, d in offsets[start:end])


def test_the_characters_of_a_latent_are_its_text(press: Press) -> None:
    latents = press.compress(TEXT, ratio=8)
    ids = ids_of(press.base, TEXT)
    for (start, end), (a, b) in zip(latents.token_spans.tolist(), latents.char_spans.tolist(), strict=True):
        decoded = str(press.base.tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False))
        assert decoded.strip("\ufffd") in TEXT[a:b]


def test_requested_and_achieved_ratio_are_both_reported(press: Press) -> None:
    latents = press.compress(TEXT, ratio=8)
    tokens = len(ids_of(press.base, TEXT))
    assert latents.requested_ratio == 8.0
    assert latents.ratio == tokens / len(latents) < 8
    assert {window.ratio for window in latents.windows} == {8.0}
    assert {window.log2_ratio for window in latents.windows} == {None}
    chosen = press.compress(TEXT)
    assert chosen.requested_ratio is None
    assert chosen.ratio == tokens / sum(window.latents for window in chosen.windows)
    assert total_ratio([latents, chosen]) == 2 * tokens / (len(latents) + len(chosen))


def test_scale_shifts_the_choice_by_doublings(press: Press) -> None:
    sizes = [len(press.compress(TEXT * 3, scale=scale)) for scale in (-9, -1, 0, 1, 9)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 2
    assert sizes[0] == len(press.compress(TEXT * 3, ratio=2))
    assert sizes[-1] == len(press.compress(TEXT * 3, ratio=8))
    assert press.compress(TEXT, scale=1).scale == 1.0
    assert press.compress(TEXT, scale=1).windows[0].log2_ratio == press.compress(TEXT).windows[0].log2_ratio


def test_provenance_names_press_base_and_text(press: Press) -> None:
    latents = press.compress(TEXT)
    assert latents.press == "tiny"
    assert latents.press_fingerprint == press.fingerprint
    assert latents.base_fingerprint == press.base.fingerprint
    assert latents.text_sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


def test_latents_survive_a_file(press: Press, tmp_path: Path) -> None:
    latents = press.compress(TEXT, ratio=4)
    latents.save(tmp_path / "a.latents")
    loaded = EmbeddingLatents.load(tmp_path / "a.latents")
    same(latents, loaded)
    assert press.ask(loaded, QUESTION, max_new_tokens=5) == press.ask(latents, QUESTION, max_new_tokens=5)


def test_progress_counts_the_tokens_of_all_documents(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PASS_TOKENS", 100)
    calls: list[tuple[int, int]] = []
    made = press.compress([TEXT, OTHER_TEXT, TEXT], progress=lambda done, total: calls.append((done, total)))
    total = sum(latents.context_tokens for latents in made)
    assert [all_of_them for _, all_of_them in calls] == [total] * len(calls)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert len(calls) > 2
    assert calls[-1] == (total, total)


def test_a_hundred_thousand_tokens_go_through_in_bounded_passes(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    press = press_on(tiny_base, window_tokens=512)
    seen: list[int] = []
    encode = press.model.encode

    def watched(texts: Sequence[Sequence[int]]) -> Any:
        seen.append(sum(len(text) + 1 for text in texts))
        return encode(texts)

    monkeypatch.setattr(press.model, "encode", watched)
    text = TEXT * (100_000 // press.count_tokens(TEXT) + 1)
    latents = press.compress(text, ratio=8)
    assert latents.context_tokens >= 100_000
    assert max(seen) <= windows.PASS_TOKENS
    assert latents.char_spans[-1].tolist()[1] == len(text)
    sizes = {window.tokens for window in latents.windows}
    assert max(sizes) <= 512
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["", " \n\t ", "PK\x03\x04\x00\x00", "caf\udce9"])
def test_texts_that_are_no_texts_are_refused(press: Press, text: str) -> None:
    with pytest.raises(InputError, match=r"empty|NUL|half a character"):
        press.compress(text)
    with pytest.raises(InputError, match=r"empty|NUL|half a character"):
        press.compress([TEXT, text])
    with pytest.raises(InputError, match=r"empty|NUL|half a character"):
        press.ask(text, QUESTION)
    with pytest.raises(InputError, match=r"empty|NUL|half a character"):
        press.ask_text(text, QUESTION)


@pytest.mark.parametrize("text", [[b"bytes"], [None], b"bytes", [TEXT, 3]])
def test_what_is_no_text_at_all_is_refused_by_its_type(press: Press, text: Any) -> None:
    with pytest.raises(InputError, match=r"bytes|NoneType|int"):
        press.compress(text)


@pytest.mark.parametrize("ratio", [3, 0, -2, 1.5, 1000, math.nan, math.inf])
def test_a_ratio_that_is_no_candidate_is_refused_with_the_candidates(press: Press, ratio: float) -> None:
    with pytest.raises(InputError, match="ratio") as raised:
        press.compress(TEXT, ratio=ratio)
    assert f"{ratio:g}" in str(raised.value)
    if math.isfinite(ratio):
        assert isinstance(raised.value, RatioError)
        assert "2, 4, 8" in str(raised.value)


def test_a_ratio_beside_a_scale_is_refused_naming_both(press: Press) -> None:
    with pytest.raises(InputError, match=r"ratio=4 and scale=0\.5"):
        press.compress(TEXT, ratio=4, scale=0.5)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, "1"])
def test_a_scale_that_is_no_finite_number_is_refused_before_anything_is_read(press: Press, scale: Any) -> None:
    with pytest.raises(InputError, match="scale="):
        press.compress(TEXT, scale=scale)
    with pytest.raises(InputError, match="ratio="):
        press.compress(TEXT, ratio=str(scale))  # type: ignore[call-overload]


def test_half_precision_latents_are_kept_exactly(tiny_base: Base) -> None:
    half = dataclasses.replace(tiny_base, model=_copy(tiny_base, torch.float16))
    press = press_on(half)
    latents = press.compress(TEXT, ratio=4)
    assert latents.vectors.dtype == torch.float32
    assert torch.equal(latents.vectors, latents.vectors.half().float())
    assert isinstance(press.ask(latents, QUESTION, max_new_tokens=3), str)


def _copy(base: Base, dtype: torch.dtype) -> Any:
    model: Any = type(base.model)(base.model.config)
    model.load_state_dict(base.model.state_dict())
    return model.to(dtype).eval().requires_grad_(False)


@pytest.mark.parametrize("text", [f"Before {PLACEHOLDER} after.", SPECIAL])
def test_special_tokens_and_the_placeholder_are_plain_characters_in_documents(press: Press, text: str) -> None:
    latents = press.compress(text, ratio=2)
    ids = ids_of(press.base, text)
    assert latents.context_tokens == len(ids) > 10
    assert not {*ids} & {*press.base.tokenizer.all_special_ids}
    assert latents.char_spans[-1].tolist()[1] == len(text)
    prompt = prompt_of(press, [BEFORE, "Context: ", latents.vectors, f"\n\nQuestion: {QUESTION}", AFTER])
    assert press.ask(text, QUESTION, max_new_tokens=4) == greedy(
        press,
        prompt_of(press, [BEFORE, "Context: ", press.compress(text).vectors, f"\n\nQuestion: {QUESTION}", AFTER]),
        4,
    )
    assert press.ask(latents, QUESTION, max_new_tokens=4) == greedy(press, prompt, 4)


# ---- ask: latents -> answer ----


@pytest.mark.parametrize("question", [QUESTION, f"What is {PLACEHOLDER}?", f"Who? {SPECIAL}", "日本語?"])
def test_an_answer_is_that_of_the_prompt_made_by_hand(press: Press, question: str) -> None:
    latents = press.compress(TEXT, ratio=4)
    prompt = prompt_of(press, [BEFORE, "Context: ", latents.vectors, f"\n\nQuestion: {question}", AFTER])
    assert press.ask(latents, question, max_new_tokens=12) == greedy(press, prompt, 12)


def test_several_documents_follow_each_other_in_order(press: Press) -> None:
    one, two = press.compress([TEXT, OTHER_TEXT], ratio=4)
    prompt = prompt_of(
        press, [BEFORE, "Context: ", one.vectors, "\n\n", two.vectors, f"\n\nQuestion: {QUESTION}", AFTER]
    )
    answer = press.ask([one, two], QUESTION, max_new_tokens=12)
    assert answer == greedy(press, prompt, 12)
    assert answer != press.ask([two, one], QUESTION, max_new_tokens=12)


def test_a_text_is_compressed_first_and_may_stand_beside_latents(press: Press) -> None:
    latents, other = press.compress([TEXT, OTHER_TEXT])
    assert press.ask(TEXT, QUESTION, max_new_tokens=8) == press.ask(latents, QUESTION, max_new_tokens=8)
    expected = press.ask([latents, other], QUESTION, max_new_tokens=8)
    assert press.ask([TEXT, other], QUESTION, max_new_tokens=8) == expected
    assert press.ask((latents, OTHER_TEXT), QUESTION, max_new_tokens=8) == expected


def test_stored_latents_of_another_dtype_are_read(press: Press) -> None:
    latents = press.compress(TEXT, ratio=4)
    rounded = latents.to(dtype=torch.bfloat16)
    assert press.ask(rounded, QUESTION, max_new_tokens=8) == press.ask(
        rounded.to(dtype=torch.float32), QUESTION, max_new_tokens=8
    )


def test_a_stream_joins_to_the_answer(press: Press) -> None:
    for text in (TEXT, OTHER_TEXT):
        pieces = list(press.ask(text, QUESTION, max_new_tokens=40, stream=True))
        assert "".join(pieces) == press.ask(text, QUESTION, max_new_tokens=40)
        assert len(pieces) > 2
        assert all(pieces)


@settings(max_examples=60)
@given(st.lists(LETTERS, max_size=30).map("".join))
def test_a_stream_never_shows_half_a_character(press: Press, answer: str) -> None:
    """Also of text whose characters take several tokens each."""
    ids = ids_of(press.base, answer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "generate", lambda *_: ([i] for i in ids))
        pieces = list(press.ask("Fox.", QUESTION, stream=True))
    assert "".join(pieces) == answer
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_answer_that_ends_inside_a_character_shows_so_in_both_ways(
    press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ids_of(press.base, "a 👧")[:-1]
    monkeypatch.setattr(reader, "generate", lambda *_: ([i] for i in ids))
    assert press.ask(TEXT, QUESTION) == "".join(press.ask(TEXT, QUESTION, stream=True)) == "a \ufffd"


def test_an_answer_has_at_most_max_new_tokens_and_ends_at_a_stop_token(
    press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = press.compress(TEXT, ratio=4)
    made: list[int] = []

    def watched(*args: Any) -> Iterator[list[int | None]]:
        for row in generate(*args):
            made.extend(token for token in row if token is not None)
            yield row

    monkeypatch.setattr(reader, "generate", watched)  # it calls the one imported above
    for most in (1, 2, 9):
        made.clear()
        press.ask(latents, QUESTION, max_new_tokens=most)
        assert len(made) == most
    nine = list(made)
    stop = next(i for i in range(2, 9) if nine[i] not in nine[:i])
    monkeypatch.setattr(press._reader, "_stops", frozenset({nine[stop]}))
    made.clear()
    answer = press.ask(latents, QUESTION, max_new_tokens=9)
    assert made == nine[:stop]
    assert answer == press.base.tokenizer.decode(nine[:stop], skip_special_tokens=True)
    assert press.ask_many([latents], [QUESTION], max_new_tokens=9) == [answer]


def test_every_eos_that_the_model_names_is_a_stop(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reader.stop_tokens(tiny_base) == {2}
    monkeypatch.setattr(tiny_base.model.generation_config, "eos_token_id", [5, 7])
    assert reader.stop_tokens(tiny_base) == {2, 5, 7}


def test_sampling_is_reproducible_and_follows_its_seed(press: Press) -> None:
    latents = press.compress(TEXT, ratio=4)
    one = press.ask(latents, QUESTION, temperature=3.0, seed=1)
    assert one == press.ask(latents, QUESTION, temperature=3.0, seed=1)
    assert one == "".join(press.ask(latents, QUESTION, temperature=3.0, seed=1, stream=True))
    assert one != press.ask(latents, QUESTION, temperature=3.0, seed=2)


def test_asking_is_not_disturbed_by_random_state_and_leaves_it_alone(press: Press) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    press.ask(TEXT, QUESTION, temperature=1.0, max_new_tokens=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"question": ""}, "question is empty"),
        ({"question": " \n"}, "question is empty"),
        ({"question": [QUESTION]}, "question is a list"),
        ({"context": []}, "no context"),
        ({"context": ""}, "empty"),
        ({"context": 3}, "int"),
        ({"context": [None]}, "NoneType"),
        ({"max_new_tokens": 600}, "600"),
    ],
)
def test_mistakes_show_when_asking_also_with_a_stream(
    press: Press, stream: bool, changes: dict[str, Any], message: str
) -> None:
    arguments = {"context": TEXT, "question": QUESTION, "stream": stream, **changes}
    with pytest.raises(InputError, match=re.escape(message)):
        press.ask(arguments.pop("context"), arguments.pop("question"), **arguments)


def test_a_wrong_question_is_found_before_a_text_is_compressed(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(press.model, "encode", lambda *_: pytest.fail("compressed"))
    with pytest.raises(InputError, match="question is empty"):
        press.ask(TEXT, " ")
    with pytest.raises(InputError, match="question is empty"):
        press.ask_many([TEXT], [" "])


@pytest.mark.parametrize("stream", [False, True])
def test_latents_of_another_press_or_base_are_refused_naming_both(press: Press, stream: bool) -> None:
    latents = press.compress(TEXT, ratio=4)
    other = dataclasses.replace(latents, press="sibling", press_fingerprint="0123456789abcdef")
    with pytest.raises(LatentsError, match=r"'sibling' \(0123456789ab\).*'tiny' \(feed\)"):
        press.ask(other, QUESTION, stream=stream)  # type: ignore[call-overload]
    foreign = dataclasses.replace(latents, press="foreign", base_fingerprint="fedcba9876543210")
    with pytest.raises(LatentsError, match=r"'foreign'.*fedcba987654.*'tiny'.*'tiny-llama'"):
        press.ask([latents, foreign], QUESTION, stream=stream)  # type: ignore[call-overload]
    with pytest.raises(LatentsError):
        press.ask_many([latents, other], [QUESTION] * 2)
    with pytest.raises(LatentsError):
        press.session(foreign)


# ---- what exceeds the decoder's positions ----


@pytest.mark.parametrize("window_tokens", [7, 48])
@pytest.mark.parametrize("repeats", [8, 9, 12, 14, 20])
def test_what_does_not_fit_is_refused_with_the_smallest_ratio_that_does(
    tiny_base: Base, window_tokens: int, repeats: int
) -> None:
    """Windows of 7 tokens are each rounded up to whole latents: the ratio of the whole is far below the candidate."""
    press = press_on(tiny_base, window_tokens=window_tokens)
    text = " ".join([TEXT] * repeats)
    fitting = None
    for ratio in (8, 4, 2):
        latents = press.compress(text, ratio=ratio)
        message = refusal(press, latents)
        if message is None:
            fitting = ratio
            continue
        assert "512" in message
        assert re.findall(r"ratio=(\d+)", message) == ([] if fitting is None else [str(fitting)])
        assert fitting is not None or "2, 4, 8" in message


def refusal(press: Press, latents: EmbeddingLatents) -> str | None:
    """What a question is refused with, None if it is answered."""
    try:
        press.ask(latents, QUESTION, max_new_tokens=3)
    except ContextTooLongError as error:
        return str(error)
    return None


def test_prompts_up_to_the_last_position_are_answered(press: Press) -> None:
    latents = press.compress(TEXT, ratio=2)
    used = (
        len(latents)
        + len(ids_of(press.base, BEFORE + AFTER))
        + sum(len(ids_of(press.base, part)) for part in ("Context: ", f"\n\nQuestion: {QUESTION}"))
    )
    room = press.base.max_positions - used
    assert isinstance(press.ask(latents, QUESTION, max_new_tokens=room), str)
    with pytest.raises(ContextTooLongError, match=f"takes {used} positions and the answer up to {room + 1}"):
        press.ask(latents, QUESTION, max_new_tokens=room + 1)


def test_a_question_that_leaves_no_room_is_named_as_the_cause(press: Press) -> None:
    with pytest.raises(ContextTooLongError, match="shorten the question"):
        press.ask(TEXT, "why? " * 300)


def test_a_full_text_that_does_not_fit_is_refused(press: Press) -> None:
    with pytest.raises(ContextTooLongError, match="compress it"):
        press.ask_text(TEXT * 9, QUESTION)


def test_a_batch_is_refused_before_its_first_answer(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = press.compress([TEXT, TEXT * 12], ratio=2)
    monkeypatch.setattr(reader, "prefill", lambda *_: pytest.fail("read"))
    with pytest.raises(ContextTooLongError, match="ratio="):
        press.ask_many([short, long], [QUESTION] * 2)


# ---- many at once ----


def recorded(press: Press, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """All logits that the press computes from now on; no token ends an answer."""
    logits: list[Tensor] = []
    plain = press.model.decoder.logits

    def watched(states: Tensor) -> Tensor:
        logits.append(plain(states))
        return logits[-1]

    monkeypatch.setattr(press.model.decoder, "logits", watched)
    monkeypatch.setattr(press._reader, "_stops", frozenset())
    return logits


def test_a_batch_gives_the_logits_and_answers_of_one_at_a_time_in_every_family(
    tiny_bases: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    press = press_on(dataclasses.replace(tiny_bases, fingerprint="ba5e"))
    texts = [TEXT, "Fox.", OTHER_TEXT, TEXT[:60]]
    latents = [press.compress(text, ratio=ratio) for text, ratio in zip(texts, (8, 2, 4, 2), strict=True)]
    contexts: list[Context] = [latents[0], latents[1], [latents[2], latents[0]], latents[3]]
    questions = [QUESTION, "Why?", "Is this a long question, or is it a longer one, about the first of May?", "a"]
    logits = recorded(press, monkeypatch)
    together = press.ask_many(contexts, questions, max_new_tokens=6)
    assert len(logits) == 6
    batched = torch.stack(logits, 1)
    for context, question, answer in zip(contexts, questions, together, strict=True):
        logits.clear()
        assert press.ask(context, question, max_new_tokens=6) == answer
        own = torch.cat(logits)
        gaps = [float((row - own).abs().max()) for row in batched]
        assert min(gaps) <= 1e-5 * max(1.0, float(own.abs().max()))


def test_answers_come_in_the_order_of_the_questions_whatever_the_batches(press: Press) -> None:
    texts = [TEXT, "Fox.", OTHER_TEXT, TEXT[:80], OTHER_TEXT * 2]
    latents = press.compress(texts)
    questions = [QUESTION, "Why?", "Where was it signed?", "Who was elsewhere?", "What about the seals, and the emoji?"]
    alone = [press.ask(one, question, max_new_tokens=7) for one, question in zip(latents, questions, strict=True)]
    assert len({*alone}) > 2
    for size in (1, 2, 3, 16):
        assert press.ask_many(latents, questions, max_new_tokens=7, batch_size=size) == alone
    assert press.ask_many(latents[::-1], questions[::-1], max_new_tokens=7) == alone[::-1]
    assert press.ask_many([], []) == []


def test_rows_that_end_early_leave_the_others_as_they_are(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [TEXT, "Fox.", OTHER_TEXT, TEXT[:80], OTHER_TEXT * 2, TEXT[20:]]
    latents = press.compress(texts)
    stops = frozenset(range(0, len(press.base.tokenizer), 5))
    monkeypatch.setattr(press._reader, "_stops", stops)
    together = press.ask_many(latents, [QUESTION] * 6, max_new_tokens=20)
    assert together == [press.ask(one, QUESTION, max_new_tokens=20) for one in latents]
    assert len({len(press.base.tokenizer(answer)["input_ids"]) for answer in together}) > 2


def test_full_texts_in_batches_are_answered_as_one_by_one(press: Press) -> None:
    texts = [TEXT, "Fox.", OTHER_TEXT, TEXT[:80], TEXT, SPECIAL]
    questions = [QUESTION, "Why?", "Where was it signed?", "Who was elsewhere?", f"What? {SPECIAL}", "日本語?"]
    alone = [press.ask_text(text, question, max_new_tokens=7) for text, question in zip(texts, questions, strict=True)]
    assert len({*alone}) > 2
    for size in (1, 3, 16):
        assert press.ask_texts(texts, questions, max_new_tokens=7, batch_size=size) == alone
    assert press.ask_texts(texts[::-1], questions[::-1], max_new_tokens=7) == alone[::-1]
    assert press.ask_texts([], []) == []


def test_full_texts_are_read_by_the_base_model_in_the_prompt_of_the_press(press: Press) -> None:
    prompt = [BEFORE, "Context: ", TEXT, f"\n\nQuestion: {QUESTION}", AFTER]
    plain = Backbone(press.base.model)
    expected = greedy(press, prompt_of(press, prompt, backbone=plain), 12, backbone=plain)
    assert press.ask_texts([TEXT], [QUESTION], max_new_tokens=12) == [expected]


def test_a_full_text_that_does_not_fit_is_refused_before_the_first_answer(
    press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "prefill", lambda *_: pytest.fail("read"))
    with pytest.raises(ContextTooLongError, match="compress it"):
        press.ask_texts(["Fox.", TEXT * 9], [QUESTION] * 2)


@pytest.mark.parametrize(
    ("texts", "questions", "changes", "message"),
    [
        ([TEXT], [QUESTION] * 2, {}, "1 texts for 2 questions; give one text a question"),
        (TEXT, [QUESTION], {}, "list of texts"),
        ([TEXT], "?", {}, "list of questions"),
        ([TEXT], [" "], {}, "question is empty"),
        ([" "], [QUESTION], {}, "text is empty"),
        ([[TEXT]], [QUESTION], {}, "text is a list"),
        ([TEXT], [QUESTION], {"batch_size": 0}, "batch_size=0"),
        ([TEXT], [QUESTION], {"max_new_tokens": 0}, "max_new_tokens=0"),
    ],
)
def test_mistakes_in_a_batch_of_full_texts_are_named(
    press: Press, texts: Any, questions: Any, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        press.ask_texts(texts, questions, **changes)


def test_texts_of_a_batch_are_compressed_once_each(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [press.ask(TEXT, QUESTION, max_new_tokens=5), press.ask(TEXT, "Why?", max_new_tokens=5)]
    expected.append(press.ask(OTHER_TEXT, "Why?", max_new_tokens=5))
    calls: list[Any] = []
    compress = press.compress

    def watched(texts: list[str]) -> list[EmbeddingLatents]:
        calls.append(list(texts))
        return compress(texts)

    monkeypatch.setattr(press, "compress", watched)
    assert press.ask_many([TEXT, TEXT, OTHER_TEXT], [QUESTION, "Why?", "Why?"], max_new_tokens=5) == expected
    assert calls == [[TEXT, OTHER_TEXT]]


def test_a_batch_holds_the_prompts_of_one_batch_only(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = most = 0
    continued, embed = press._reader.continued, press._reader.embed

    def embedding(*args: Any) -> Tensor:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return embed(*args)

    def answering(*args: Any) -> list[str]:
        nonlocal alive
        alive = 0
        return continued(*args)

    monkeypatch.setattr(press._reader, "embed", embedding)
    monkeypatch.setattr(press._reader, "continued", answering)
    press.ask_many([press.compress("Fox.")] * 7, [QUESTION] * 7, max_new_tokens=1, batch_size=3)
    assert most == 3


@pytest.mark.parametrize(
    ("contexts", "questions", "changes", "message"),
    [
        ([TEXT], [QUESTION] * 2, {}, "1 contexts for 2 questions"),
        (TEXT, [QUESTION], {}, "list of contexts"),
        ([TEXT], "?", {}, "list of questions"),
        ([TEXT], [QUESTION], {"batch_size": 0}, "batch_size=0"),
        ([TEXT], [QUESTION], {"max_new_tokens": 0}, "max_new_tokens=0"),
        ([[]], [QUESTION], {}, "no context"),
    ],
)
def test_mistakes_in_a_batch_are_named(
    press: Press, contexts: Any, questions: Any, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        press.ask_many(contexts, questions, **changes)


# ---- the rest of the page ----


def test_tokens_are_counted_as_plain_text(press: Press) -> None:
    assert press.count_tokens(TEXT) == press.compress(TEXT).context_tokens
    assert press.count_tokens(SPECIAL) == len(ids_of(press.base, SPECIAL))
    assert press.count_tokens("") == 0
    with pytest.raises(InputError, match="NoneType"):
        press.count_tokens(None)  # type: ignore[arg-type]


def test_using_a_press_changes_nothing_in_it(press: Press, frozen: Any) -> None:
    frozen(press.model)
    frozen(press.base.model)
    latents = press.compress([TEXT, OTHER_TEXT])
    press.ask(latents, QUESTION, max_new_tokens=3)
    press.ask_many(latents, [QUESTION] * 2, max_new_tokens=3)
    press.session(latents).ask(QUESTION, max_new_tokens=3)
    press.ask_text(TEXT, QUESTION, max_new_tokens=3)
    assert not press.model.training
    assert not any(latent.vectors.requires_grad for latent in latents)


def test_a_press_without_an_encoder_is_asked_the_same_way(tiny_base: Base) -> None:
    config = config_for(
        tiny_base, compressor="first-tokens", policy="fixed", residual="none", candidates=(1, 2), window_tokens=4000
    )
    press = Press(make_model(config, tiny_base), tiny_base, None, "feed")
    latents = press.compress(TEXT)
    assert latents.ratio == 1
    decoder = press.model.decoder
    assert torch.equal(latents.vectors, decoder.embed(torch.tensor(ids_of(tiny_base, TEXT))))
    prompt = prompt_of(press, [BEFORE, "Context: ", TEXT, f"\n\nQuestion: {QUESTION}", AFTER])
    assert press.ask(latents, QUESTION, max_new_tokens=6) == greedy(press, prompt, 6)
    with pytest.raises(RatioError, match="fixed ratio"):
        press.compress(TEXT, scale=1)


def test_stream_is_typed_in_every_way_to_ask() -> None:
    from typing import get_overloads

    from latentpress.session import Session

    for method in (Press.ask, Press.chat, Session.ask):
        overloads = get_overloads(method)
        assert {str(inspect.signature(one).return_annotation) for one in overloads} == {"str", "Iterator[str]"}
        names = list(inspect.signature(method).parameters)
        assert all(list(inspect.signature(one).parameters) == names for one in overloads)


def test_a_plain_reader_shares_the_weights(press: Press) -> None:
    plain = {p.data_ptr() for p in press._plain_reader.backbone.parameters()}
    assert isinstance(press._plain_reader.backbone, Backbone)
    assert plain <= {p.data_ptr() for p in press.base.model.parameters()}
