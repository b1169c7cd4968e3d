"""A session answers as `ask` does, for its questions' own tokens, and forgets each of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from handmade import AFTER, BEFORE, OTHER_TEXT, QUESTION, TEXT, greedy, ids_of, prompt_of
from tiny import config_for, make_model
from torch import Tensor

from latentpress.decoder import reader
from latentpress.errors import ContextTooLongError, InputError
from latentpress.press import Press

if TYPE_CHECKING:
    from latentpress.backbone import Base

QUESTIONS = (QUESTION, "Why?", "Where was the fox on the first day of May, and what did the dog do?")


@pytest.fixture(scope="module")
def press(tiny_base: Base) -> Press:
    return Press(make_model(config_for(tiny_base), tiny_base), tiny_base, None, "feed")


def test_a_session_answers_as_ask_does(press: Press) -> None:
    one, two = press.compress([TEXT, OTHER_TEXT])
    for context in (one, two, [one, two], TEXT):
        session = press.session(context)
        for question in QUESTIONS:
            assert session.ask(question, max_new_tokens=10) == press.ask(context, question, max_new_tokens=10)


def test_a_question_does_not_see_the_ones_before(press: Press) -> None:
    session = press.session(press.compress(TEXT, ratio=4))
    first = [session.ask(question, max_new_tokens=10) for question in QUESTIONS]
    again = [session.ask(question, max_new_tokens=10) for question in reversed(QUESTIONS)]
    assert again == first[::-1]
    assert len({*first}) > 1


def test_logits_are_those_of_one_pass_over_the_whole_prompt(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    latents = press.compress(TEXT, ratio=4)
    seen: list[Tensor] = []
    logits = press.model.decoder.logits

    def watched(states: Tensor) -> Tensor:
        seen.append(logits(states))
        return seen[-1]

    monkeypatch.setattr(press.model.decoder, "logits", watched)
    session = press.session(latents)
    for question in QUESTIONS:
        seen.clear()
        press.ask(latents, question, max_new_tokens=5)
        whole = torch.cat(seen)
        seen.clear()
        session.ask(question, max_new_tokens=5)
        torch.testing.assert_close(torch.cat(seen), whole, atol=1e-5, rtol=1e-5)


def test_sessions_and_streams_may_be_interleaved(press: Press) -> None:
    one, two = press.session(press.compress(TEXT)), press.session(press.compress(OTHER_TEXT))
    expected = [session.ask(question, max_new_tokens=12) for session in (one, two) for question in QUESTIONS]
    streams = [
        session.ask(question, max_new_tokens=12, stream=True) for session in (one, two) for question in QUESTIONS
    ]
    texts = [""] * len(streams)
    for _ in range(12):
        for i, stream in enumerate(streams):
            texts[i] += next(stream, "")
        assert one.ask("And now?", max_new_tokens=2) == one.ask("And now?", max_new_tokens=2)
    assert [text + "".join(stream) for text, stream in zip(texts, streams, strict=True)] == expected


def test_a_question_pays_for_its_own_tokens_only(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    session = press.session(press.compress(TEXT, ratio=2))
    read: list[int] = []
    forward = press.model.decoder.forward

    def watched(embeddings: Tensor, layout: Any) -> Tensor:
        read.append(len(embeddings))
        return forward(embeddings, layout)

    monkeypatch.setattr(press.model.decoder, "forward", watched)
    session.ask(QUESTION, max_new_tokens=4)
    request = f"\n\nQuestion: {QUESTION}"
    own = len(ids_of(press.base, request)) + len(ids_of(press.base, AFTER))
    assert read == [own, 1, 1, 1]


def test_size_is_that_of_the_prefilled_keys_and_values_whatever_is_asked(press: Press) -> None:
    latents = press.compress(TEXT, ratio=4)
    session = press.session(latents)
    opening = len(ids_of(press.base, BEFORE)) + len(ids_of(press.base, "Context: "))
    assert session.tokens == opening + len(latents)
    config = press.base.model.config
    row = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert session.nbytes == session.tokens * row
    session.ask(QUESTION, max_new_tokens=30)
    assert session.nbytes == session.tokens * row


def test_a_text_session_is_the_base_model_as_it_is(press: Press) -> None:
    """Without adapters, and equal to what transformers itself generates."""
    text = OTHER_TEXT
    session = press.text_session(text)
    parts = [BEFORE, "Context: ", text, f"\n\nQuestion: {QUESTION}", AFTER]
    ids = [i for part in parts for i in ids_of(press.base, part)]
    model: Any = press.base.model
    made = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        max_new_tokens=15,
        do_sample=False,
        pad_token_id=2,
    )
    answer = press.base.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)
    assert session.ask(QUESTION, max_new_tokens=15) == press.ask_text(text, QUESTION, max_new_tokens=15) == answer
    plain = press._plain_reader.backbone
    assert answer == greedy(press, prompt_of(press, parts, backbone=plain), 15, backbone=plain)
    assert answer != greedy(press, prompt_of(press, parts), 15)
    assert session.tokens == sum(len(ids_of(press.base, p)) for p in parts[:3])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("question", "changes", "message"),
    [
        (" ", {}, "question is empty"),
        (None, {}, "question is a NoneType"),
        (QUESTION, {"max_new_tokens": 0}, "max_new_tokens=0"),
        (QUESTION, {"temperature": -1}, "temperature=-1"),
        (QUESTION, {"max_new_tokens": 512}, "512"),
        ("why? " * 300, {}, "shorten the question"),
    ],
)
def test_mistakes_show_when_asking_also_with_a_stream(
    press: Press, question: Any, changes: dict[str, Any], message: str, stream: bool
) -> None:
    session = press.session(press.compress(TEXT, ratio=8))
    with pytest.raises(InputError, match=re.escape(message)):
        session.ask(question, stream=stream, **changes)  # type: ignore[call-overload]
    assert isinstance(session.ask(QUESTION, max_new_tokens=1), str)


def test_a_context_that_does_not_fit_is_refused_before_it_is_read(
    press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = press.compress(TEXT * 20, ratio=2)
    monkeypatch.setattr(reader, "prefill", lambda *_: pytest.fail("read"))
    monkeypatch.setattr("latentpress.session.prefill", lambda *_: pytest.fail("read"))
    with pytest.raises(ContextTooLongError, match="ratio=8"):
        press.session(latents)
    with pytest.raises(ContextTooLongError, match="compress it"):
        press.text_session(TEXT * 20)
    with pytest.raises(InputError, match="question is empty"):
        press.ask_text(TEXT, "")
