"""The trained presses answer from their latents. Needs the base model in the cache (`latentpress doctor --fetch`)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import latentpress
from latentpress.base_model import DEFAULT_BASE, base_folder
from latentpress.evaluation.metrics import f1
from latentpress.latents import Latents
from latentpress.press import Press

pytestmark = pytest.mark.slow

SELECTOR = "semidynamic-smollm2-135m"
NAMES = (SELECTOR, "comprexit-smollm2-135m", "semidynamic-kv-smollm2-135m")
SAMPLES = Path(__file__).parent / "samples" / "squad_sample.jsonl"
QUESTIONS = 40
# Beginning of a document of the samples, question, and the answer that its latents at ratio 4 must hold.
KNOWN = [
    ("Apollo set several major human", "What was the first spacecraft to orbit another celestial body?", "Apollo 8"),
    ("The next direct threat to Tem", "What does the title Gür Khan mean?", "universal ruler"),
    ("Administrator Webb realized", "Who did Webb recruit for better project management?", "George E. Mueller"),
    ("Legislative power in Warsaw", "How many days does the Council have to override the mayor's veto?", "30 days"),
    (
        "Teaching in Canada requires",
        "What may also be required of teachers, in some areas?",
        "second Bachelor's degree",
    ),
]


def load(name: str, dtype: str | None = None) -> Press:
    try:
        base_folder(DEFAULT_BASE)
    except latentpress.BaseModelError as error:
        pytest.skip(str(error))
    return latentpress.load(name, device="cpu", dtype=dtype)


def test_every_press_that_ships_is_tested() -> None:
    assert {*latentpress.shipped_presses()} == {*NAMES}


@pytest.fixture(scope="module", params=NAMES)
def press(request: pytest.FixtureRequest) -> Press:
    """In the type that is fast on this machine."""
    return load(request.param)


@pytest.fixture(scope="module")
def asked(press: Press) -> list[tuple[Latents, Latents, str, list[str]]]:
    """Latents at ratio 4, those of another document, question and answers; at most two questions a document."""
    records = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    latents = press.compress([record["context"] for record in records], ratio=4)
    shifted = [*latents[1:], latents[0]]
    draw = random.Random(0)
    every = [
        (own, other, qa["question"], qa["answers"])
        for record, own, other in zip(records, latents, shifted, strict=True)
        for qa in draw.sample(record["qas"], min(2, len(record["qas"])))
    ]
    return draw.sample(every, min(QUESTIONS, len(every)))


def mean_f1(answers: list[str], references: list[list[str]]) -> float:
    return sum(f1(answer, right) for answer, right in zip(answers, references, strict=True)) / len(answers)


def test_answers_come_from_the_document_that_was_pressed(
    press: Press, asked: list[tuple[Latents, Latents, str, list[str]]]
) -> None:
    """The same questions asked about the latents of another document are answered far worse."""
    own, others, questions, references = (list(column) for column in zip(*asked, strict=True))
    assert len(questions) >= 30
    right = mean_f1(press.ask_many(own, questions, max_new_tokens=24), references)
    wrong = mean_f1(press.ask_many(others, questions, max_new_tokens=24), references)
    assert right >= wrong + 0.10


@pytest.mark.parametrize("name", [SELECTOR, "semidynamic-kv-smollm2-135m"])
def test_the_selector_chooses_among_its_candidates(name: str) -> None:
    press = load(name)
    records = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()[:8]]
    for latents in press.compress([record["context"] for record in records]):
        assert {window.ratio for window in latents.windows} <= {*map(float, press.config.candidates)}
        assert latents.ratio > 1


@pytest.fixture(scope="module", params=NAMES)
def exact(request: pytest.FixtureRequest) -> Press:
    """In float32, so that an answer is the same on every machine."""
    return load(request.param, "float32")


def test_known_questions_are_answered_from_latents_and_not_without_them(exact: Press) -> None:
    texts = [json.loads(line)["context"] for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    other = exact.compress(texts[0], ratio=4)
    right = 0
    for beginning, question, answer in KNOWN:
        (document,) = (text for text in texts if text.startswith(beginning))
        latents = exact.compress(document, ratio=4)
        assert latents.ratio > 3
        right += answer.lower() in exact.ask(latents, question, max_new_tokens=16).lower()
        assert answer.lower() not in exact.ask(other, question, max_new_tokens=16).lower()
    assert right >= len(KNOWN) - 1


def test_a_batch_answers_as_one_at_a_time_does(exact: Press) -> None:
    """In bfloat16 rounding differs with the batch, and now and then a word with it; how often depends on the CPU."""
    records = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()[:10]]
    pressed = exact.compress([record["context"] for record in records], ratio=4)
    pairs = [(one, qa["question"]) for record, one in zip(records, pressed, strict=True) for qa in record["qas"][:2]]
    latents, questions = (list(column) for column in zip(*pairs, strict=True))
    assert len(questions) >= 15
    together = exact.ask_many(latents, questions, max_new_tokens=16)
    assert together == [exact.ask(one, question, max_new_tokens=16) for one, question in pairs]
