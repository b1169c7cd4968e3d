"""What of a reply can be used: its form, its language, its length, and whether the answers stand in the texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from latentpress.data.held_out import normalised
from latentpress.synthesis.likeness import holds_cjk, is_cjk
from latentpress.synthesis.requests import Request
from latentpress.synthesis.settings import ABOUT_SEVERAL

_FENCE = re.compile(r"```[\w-]*\s*\n(.*?)```", re.DOTALL)
_THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_QUOTES = " \t\n.,;:!?\"'“”‘’«»()[]。，；：！？「」『』（）《》"
_WORD_END = re.compile(r"[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_CJK_LANGUAGES = ("zh", "ja", "ko")
_MOST_QUESTION_TOKENS = 128
_MOST_ANSWER_TOKENS = 128
_SHOWN = 200  # characters of what was rejected


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """Something of a reply that cannot be used."""

    reason: str
    """Why, in words that many rejections share."""
    detail: str = ""
    """What it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionMade:
    """A question that can be used."""

    question: str
    """The question."""
    answer: str
    """Its answer."""
    in_context: bool
    """Whether the answer stands in the texts word for word; if not, the teacher says so itself."""
    passages: tuple[int, ...] = ()
    """Numbers of the passages that it needs, of several; none where there is one."""


@dataclass(kw_only=True, slots=True)
class Checked:
    """What a reply gave."""

    questions: list[QuestionMade] = field(default_factory=list)
    """Questions of a request for such."""
    summary: str | None = None
    """Summary of a request for one, of either kind."""
    rejections: list[Rejection] = field(default_factory=list)
    """Everything else in it, or the whole."""


class _UnusableError(Exception):
    """Holds the rejection of what is being looked at."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason)
        shown = detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)
        self.rejection = Rejection(reason=reason, detail=shown[:_SHOWN])


def check(request: Request, reply: str, *, cut_off: bool, count: Callable[[str], int]) -> Checked:
    """Takes from a reply what can be used.

    Args:
        request: what was asked.
        reply: the teacher's words.
        cut_off: whether they ended because they had become too long.
        count: tokens of a text.
    """
    checked = Checked()
    try:
        content = _content(reply, cut_off)
        if "summary" in request.task:
            checked.summary = _summary(content, request, count)
        else:
            _questions(content, request, count, checked)
    except _UnusableError as error:
        checked.rejections.append(error.rejection)
    return checked


def _content(reply: str, cut_off: bool) -> dict[str, Any]:
    """The JSON object in a reply: all of it, in a code fence, or with words around it."""
    text = _THOUGHTS.sub("", reply)
    if not text.strip():
        raise _UnusableError("empty reply")
    for candidate in _candidates(text):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    raise _UnusableError("cut off before its end" if cut_off else "no JSON object", text.strip())


def _candidates(text: str) -> Iterator[str]:
    yield text
    yield from _FENCE.findall(text)
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        yield text[start : end + 1]


def _text(content: dict[str, Any], name: str, most: int, count: Callable[[str], int]) -> str:
    """A field that holds some words, without white space around them."""
    value = content.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _UnusableError(f"no {name}", content)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _UnusableError(f"{name} with half a character", repr(value)) from error
    text = value.strip()
    if not text or (name != "answer" and not any(map(str.isalnum, text))):  # marks may answer a question about code
        raise _UnusableError(f"blank {name}", content)
    if count(text) > most:
        raise _UnusableError(f"{name} longer than {most} tokens", text)
    return text


def _summary(content: dict[str, Any], request: Request, count: Callable[[str], int]) -> str:
    passage = request.passages[0]
    text = _text(content, "summary", 10**9, count)
    if count(text) >= passage.tokens:
        raise _UnusableError("summary not shorter than its text", text)
    _check_language(text, request)
    return text


def _questions(content: dict[str, Any], request: Request, count: Callable[[str], int], checked: Checked) -> None:
    rows = content.get("questions")
    if not isinstance(rows, list):
        raise _UnusableError("no list of questions", content)
    if not rows:
        raise _UnusableError("no questions")
    seen: set[str] = set()
    for row in rows:
        try:
            made = _question(row, request, count)
            if normalised(made.question) in seen:
                raise _UnusableError("question asked twice", made.question)
        except _UnusableError as error:
            checked.rejections.append(error.rejection)
        else:
            seen.add(normalised(made.question))
            checked.questions.append(made)


def _question(row: Any, request: Request, count: Callable[[str], int]) -> QuestionMade:
    if not isinstance(row, dict):
        raise _UnusableError("question that is no object", row)
    question = _text(row, "question", _MOST_QUESTION_TOKENS, count)
    answer = _text(row, "answer", _MOST_ANSWER_TOKENS, count)
    _check_language(question, request)
    found = any(stands_in(answer, passage.text) for passage in request.passages)
    if not found and row.get("in_context") is not False:
        raise _UnusableError("answer not in the context", f"{question} {answer}")
    needed: tuple[int, ...] = ()
    if request.task in ABOUT_SEVERAL:
        needed = _needed(row.get("passages"), len(request.passages), question)
    return QuestionMade(question=question, answer=answer, in_context=found, passages=needed)


def _needed(numbers: Any, passages: int, question: str) -> tuple[int, ...]:
    """Numbers of two passages or more."""
    valid = isinstance(numbers, list) and all(type(number) is int and 1 <= number <= passages for number in numbers)
    if not valid:
        raise _UnusableError("no numbers of passages", question)
    if len(set(numbers)) < 2:
        raise _UnusableError("question of one passage", question)
    return tuple(dict.fromkeys(numbers))


def _check_language(text: str, request: Request) -> None:
    """Makes sure that a text is in the script of its passages' language, which is all that is looked at.

    Of Chinese one character is enough: words of programs may be most of a sentence about one.
    """
    right = holds_cjk(text) if request.passages[0].lang[:2] in _CJK_LANGUAGES else not is_cjk(text)
    if not right:
        raise _UnusableError("other language than its text", text)


def stands_in(answer: str, text: str) -> bool:
    """Whether an answer stands in a text word for word, case, white space and marks around it aside.

    A word or number of the answer is a whole one of the text: "10" does not stand in "2010".
    """
    wanted, within = normalised(answer).strip(_QUOTES), normalised(text)
    at = within.find(wanted) if wanted else -1
    while at >= 0:
        before, behind = within[at - 1 : at], within[at + len(wanted) : at + len(wanted) + 1]
        inside = (_joins(before, wanted[0]), _joins(wanted[-1], behind))
        if not any(inside):
            return True
        at = within.find(wanted, at + 1)
    return False


def _joins(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word; Chinese ones are words by themselves."""
    return bool(_WORD_END.fullmatch(left) and _WORD_END.fullmatch(right))
