"""Tokens that are asked for: found in texts by the answers, told again by the states of a press."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny import config_for, make_model

from latentpress.data.records import QA, Record
from latentpress.data.rows import ExampleMaker, TokenizedRecord
from latentpress.training import asking
from latentpress.training.asking import answered, learn_what_is_asked
from latentpress.training.recipes import RECIPES

if TYPE_CHECKING:
    from latentpress.backbone import Base

TEXTS = (
    "The treaty was signed in Paris on the first day of May, and there was nothing.",
    "In Paris the quick brown fox jumps over the lazy dog, and Paris is a city.",
    "In the beginning there was nothing, and then there were words in Paris.",
    "Nothing of this is known to the lazy dog.",
)


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ([5, 6, 7, 8], [[6, 7]], [False, True, True, False]),
        ([5, 6, 5, 6], [[5], [6, 5]], [True, True, True, False]),
        ([1, 6, 7], [[6, 7, 8], []], [False, False, False]),
        ([3, 13, 4], [[3, 4]], [False, True, True]),  # 13 is 3 with white space before it
        ([6, 6, 6], [[6, 6]], [True, True, True]),
    ],
)
def test_every_place_of_an_answer_is_found(text: list[int], answers: list[list[int]], expected: list[bool]) -> None:
    kind = [*range(10), *range(5)]
    assert answered(text, answers, kind) == expected


def records(base: Base, answer: str) -> list[TokenizedRecord]:
    maker = ExampleMaker(base.tokenizer, config_for(base).prompt, 64)
    return [
        maker.tokenize(
            Record(
                id=str(i),
                contexts=(text,),
                qas=(QA(id="0", question="where?", answers=(answer,)),),
                summary=None,
                short_summary=None,
                source="test",
                lang=None,
            )
        )
        for i, text in enumerate(TEXTS)
    ]


def press(base: Base) -> Any:
    config = config_for(
        base,
        compressor="kv-pooling",
        compressor_settings={"windows": "asked"},
        residual="none",
        encoder_lora=None,
        encoder_layers=None,
    )
    return make_model(config, base)


def test_what_answers_hold_is_told_from_the_rest(tiny_base: Base) -> None:
    model = press(tiny_base).train()
    made = records(tiny_base, "Paris")
    told = learn_what_is_asked(model, made, tiny_base.tokenizer, RECIPES["semidynamic-kv"]())
    assert re.fullmatch(
        r"windows: learned what is asked for from \d+ tokens of text, \d+\.\d% of them in answers", told
    )
    assert model.training
    assert not model.compressor.asks_clues
    kinds: dict[str, int] = {}
    names = tiny_base.tokenizer.batch_decode([[i] for i in range(len(tiny_base.tokenizer))])
    kind = [kinds.setdefault(name.strip(), len(kinds)) for name in names]
    model.eval()
    inside, outside = [], []
    for record in made:
        text = record.documents[0]
        with torch.no_grad():
            clues = model.compressor.clues(model.encode([text]).states)
            odds = clues @ model.compressor.asked[:-1] + model.compressor.asked[-1]
        part = torch.tensor(answered(text, [record.answers[0][1][:-1]], kind))
        inside.append(odds[part])
        outside.append(odds[~part])
    assert float(torch.cat(inside).min()) > float(torch.cat(outside).mean()) + 1


def test_without_an_answer_in_a_text_nothing_is_learned(tiny_base: Base) -> None:
    model = press(tiny_base)
    learn_what_is_asked(model, records(tiny_base, "Berlin, perhaps"), tiny_base.tokenizer, RECIPES["semidynamic-kv"]())
    assert not bool(model.compressor.asked.any())
    assert "all tokens count" in learn_what_is_asked(model, [], tiny_base.tokenizer, RECIPES["semidynamic-kv"]())
    assert not bool(model.compressor.asked.any())


def test_texts_are_read_until_enough_is_known(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_PASS", 10)
    monkeypatch.setattr(asking, "_TOKENS", 30)
    model = press(tiny_base)
    seen: list[int] = []
    monkeypatch.setattr(model.compressor, "start_from_asked", lambda clues, _: seen.append(len(clues)))
    learn_what_is_asked(model, records(tiny_base, "Paris") * 20, tiny_base.tokenizer, RECIPES["semidynamic-kv"]())
    assert len(seen) == 1
    assert 30 <= seen[0] < 60
