"""Readers of text answer as the models they stand for, with and without a text."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from handmade import AFTER, BEFORE, OTHER_TEXT, QUESTION, TEXT, greedy, prompt_of
from tiny import config_for, make_model

from latentpress.decoder.prompt import PromptSettings
from latentpress.errors import ContextTooLongError, InputError
from latentpress.evaluation.questions import Question
from latentpress.evaluation.systems import batching
from latentpress.evaluation.systems.base import Setup
from latentpress.evaluation.systems.batching import answered, as_answer, batches
from latentpress.evaluation.systems.bounds import CachedText
from latentpress.evaluation.systems.readers import TextReader, plain_press, text_reader
from latentpress.evaluation.systems.timed import write_answer
from latentpress.press import Press

if TYPE_CHECKING:
    from latentpress.backbone import Base

TEXTS = (TEXT, "Fox.", "", OTHER_TEXT, TEXT, " \n", TEXT[:80])
QUESTIONS = (QUESTION, "Why?", QUESTION, "Who was elsewhere?", "Where?", "Is there no text?", "<|im_end|> 日本語?")
READER: dict[str, Any] = {
    "compressor": "first-tokens",
    "policy": "fixed",
    "residual": "none",
    "encoder_lora": None,
    "candidates": (1, 4),
}


@pytest.fixture(scope="module")
def press(tiny_base: Base) -> Press:
    return Press(make_model(config_for(tiny_base), tiny_base), tiny_base, None, "feed")


@pytest.fixture(scope="module")
def setup(tiny_base: Base, press: Press) -> Setup:
    tuned = config_for(tiny_base, **READER)
    vectors = dataclasses.replace(tuned, candidates=(1,), decoder_lora=None, prompt_vectors=3)
    readers = {
        name: Press(make_model(config, tiny_base), tiny_base, None, fingerprint)
        for name, config, fingerprint in (("tuned", tuned, "beef"), ("prompt-tuned", vectors, "cafe"))
    }
    return Setup(press=press, readers=readers)


ALL = ("zero-shot", "tuned", "prompt-tuned")


@pytest.mark.parametrize("name", ALL)
def test_a_batch_gives_what_each_question_gives_alone(setup: Setup, name: str) -> None:
    reader = text_reader(setup, name)
    together = reader.answer(TEXTS, QUESTIONS, 7)
    alone = [reader.answer([text], [question], 7)[0] for text, question in zip(TEXTS, QUESTIONS, strict=True)]
    assert together == alone
    assert len({*map(str, together)}) > 2


def test_the_base_model_reads_as_it_is(setup: Setup, press: Press) -> None:
    pairs = [(text, question) for text, question in zip(TEXTS, QUESTIONS, strict=True) if text.strip()]
    texts, questions = zip(*pairs, strict=True)
    assert text_reader(setup, "zero-shot").answer(texts, questions, 7) == press.ask_texts(
        texts, questions, max_new_tokens=7
    )


@pytest.mark.parametrize("name", ALL)
def test_a_cached_text_is_read_once_and_answered_from_as_the_full_text_is(
    setup: Setup, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, system = text_reader(setup, name), CachedText(setup, name)
    asked = [Question(id=one, dataset="a", contexts=(TEXT,), question=one, answers=("b",)) for one in QUESTIONS[:2]]
    held = system.timed_hold(asked[0])
    assert held.kept == setup.press.count_tokens(TEXT)
    whole = held.what.length(0)
    assert whole > held.kept
    for question in (*asked, asked[0]):  # what is kept stays as it was
        backbone, prompt = reader.question(question.question)
        _, tokens = write_answer(backbone, prompt, 6, cache=held.what.fork())
        assert tokens == write_answer(*reader.prompt(TEXT, question.question), 6)[1]
        with monkeypatch.context() as patch:  # the whole prompt is not read again
            patch.setattr(TextReader, "prompt", None)
            patch.setattr(TextReader, "opened", None)
            reading = system.timed_read(held, question, 6)
        assert 0 < reading.first_token < reading.total
        assert held.what.length(0) == whole


@pytest.mark.parametrize("name", ["tuned", "prompt-tuned"])
def test_a_trained_reader_reads_as_its_press_does_at_ratio_one(setup: Setup, name: str) -> None:
    press = setup.readers[name]
    expected = press.ask(press.compress(TEXT, ratio=1), QUESTION, max_new_tokens=9)
    assert text_reader(setup, name).answer([TEXT], [QUESTION], 9) == [expected]
    assert expected != press.ask_text(TEXT, QUESTION, max_new_tokens=9)


@pytest.mark.parametrize("name", ALL)
def test_without_a_text_the_prompt_is_the_question_alone(setup: Setup, name: str) -> None:
    reader = text_reader(setup, name)
    own = reader.press
    vectors = own.model.decoder.prompt
    before = [] if vectors is None else [vectors.detach()]
    prompt = prompt_of(own, [BEFORE, *before, f"Question: {QUESTION}", AFTER])
    assert reader.answer([""], [QUESTION], 12) == [greedy(own, prompt, 12)]


def test_the_base_model_may_be_given_another_prompt(setup: Setup, press: Press) -> None:
    prompt = PromptSettings(system="Be brief.", context="", question="\nQ: {question}\nA:")
    other = text_reader(dataclasses.replace(setup, prompt=prompt), "zero-shot")
    before = type(BEFORE)("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    plain = other.press.model.decoder
    for text, shown in ((TEXT, [TEXT, f"\nQ: {QUESTION}\nA:"]), ("", [f"Q: {QUESTION}\nA:"])):
        by_hand = prompt_of(press, [type(BEFORE)(before.replace("Be brief.", "")), *shown, AFTER], backbone=plain)
        template, rest = before.split("Be brief.")
        by_hand = prompt_of(
            press, [type(BEFORE)(template), "Be brief.", type(BEFORE)(rest), *shown, AFTER], backbone=plain
        )
        assert other.answer([text], [QUESTION], 9) == [greedy(press, by_hand, 9, backbone=plain)]


def test_identities_tell_readers_and_prompts_apart_and_are_plain_data(setup: Setup) -> None:
    made = [text_reader(setup, name).identity() for name in ALL]
    made.append(
        text_reader(dataclasses.replace(setup, prompt=PromptSettings(context="Text: ")), "zero-shot").identity()
    )
    assert len({json.dumps(one, sort_keys=True) for one in made}) == 4


def test_the_plain_press_shares_the_weights_of_the_base_model(press: Press) -> None:
    own = {parameter.data_ptr() for parameter in plain_press(press).model.parameters()}
    assert own <= {parameter.data_ptr() for parameter in press.base.model.parameters()}


@pytest.mark.parametrize("name", ALL)
def test_a_question_that_does_not_fit_fails_alone(setup: Setup, name: str) -> None:
    reader = text_reader(setup, name)
    texts, questions = [TEXT, TEXT * 9, "", OTHER_TEXT, TEXT * 10], [QUESTION] * 5
    replies = reader.answer(texts, questions, 5)
    assert [isinstance(reply, ContextTooLongError) for reply in replies] == [False, True, False, False, True]
    for i in (0, 2, 3):
        assert [replies[i]] == reader.answer([texts[i]], [QUESTION], 5)
    failed = as_answer(replies[1], tokens=7, kept=7, nbytes=None)
    assert failed.text == ""
    assert "512" in str(failed.error)
    assert as_answer("Fox.", tokens=7, kept=7, nbytes=1).error is None


def test_readers_that_cannot_be_are_refused(setup: Setup, press: Press, other_base: Base) -> None:
    with pytest.raises(InputError, match=r"no reader 'ours' \(known: zero-shot, tuned, prompt-tuned\)"):
        text_reader(setup, "ours")
    with pytest.raises(InputError, match=r"'tiny' cannot be the reader 'tuned'.*recipe reader"):
        text_reader(dataclasses.replace(setup, readers={"tuned": press}), "tuned")
    harder = config_for(press.base, **{**READER, "candidates": (4,)})
    cutting = Press(make_model(harder, press.base), press.base, None, "feed")
    with pytest.raises(InputError, match="ratios 4"):
        TextReader("tuned", cutting)
    stranger = Press(make_model(config_for(other_base, **READER), other_base), other_base, None, "feed")
    with pytest.raises(InputError, match=r"'tiny-other'.*'tiny-llama'"):
        text_reader(dataclasses.replace(setup, readers={"tuned": stranger}), "tuned")
    with pytest.raises(InputError, match="question is empty"):
        text_reader(setup, "zero-shot").answer([""], [" "], 3)


# ---- batches ----


def test_batches_are_bounded_and_hold_every_question_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MOST_POSITIONS", 100)
    monkeypatch.setattr(batching, "MOST_QUESTIONS", 4)
    sizes = [30, 150, 1, 20, 99, 2, 3, 4, 5, 60, 40]
    made = list(batches(sizes))
    assert sorted(i for batch in made for i in batch) == list(range(len(sizes)))
    for batch in made:
        assert len(batch) <= 4
        assert len(batch) == 1 or sum(sizes[i] for i in batch) <= 100
    assert len(made) < len(sizes)
    assert list(batches([])) == []


def test_replies_come_in_the_order_of_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MOST_QUESTIONS", 3)
    calls: list[list[int]] = []

    def ask(batch: list[int]) -> list[str]:
        calls.append(batch)
        if 4 in batch:
            raise ContextTooLongError("too long")
        return [str(i) for i in batch]

    replies = answered(ask, [5, 4, 3, 2, 1, 0])
    assert [str(reply) for reply in replies] == ["0", "1", "2", "3", "too long", "5"]
    assert isinstance(replies[4], ContextTooLongError)
    assert max(map(len, calls)) == 3


@torch.no_grad()
def test_prompt_vectors_matter_to_the_reader_that_has_them(setup: Setup) -> None:
    for text in (TEXT, ""):
        answers = {str(text_reader(setup, name).answer([text], [QUESTION], 12)) for name in ALL}
        assert len(answers) == 3
