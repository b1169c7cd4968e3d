"""What of a reply can be used: its form, its language, its length, and whether the answers stand in the texts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from latentpress.data.held_out import normalised
from latentpress.synthesis.likeness import HAN, HANGUL, SPACELESS, letter_script, main_script, script_of, scripts_of
from latentpress.synthesis.requests import Request
from latentpress.synthesis.settings import ABOUT_SEVERAL

_THOUGHTS_END = "</think>"
_QUOTES = " \t\n.,;:!?\"'“”‘’«»()[]。，；：！？「」『』（）《》"
# Characters that are words by themselves, or of scripts that put no space between words (Thai, Lao, Burmese, Khmer).
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_SIGN = re.compile(rf"[^\W_{_UNSPACED}]")
_THOUSANDS = re.compile(r"\d{3}(?!\d)")
_APOSTROPHES, _HYPHENS = "'’", "-\u2010"
_POSSESSIVE = re.compile(r"['’]s(?![^\W_])")  # no part of the word before it
_SHORT = 2  # letters of a part that is no word beside a hyphen: e-mail, co-operate
_ELIDED = re.compile(r"(?<![^\W_])(?:[cdjlmnst]|qu|un|[ds]?all|[dn]ell|sull)['’]$")  # l'été, dell'Italia
_TERM = re.compile(r"[^\W_]+(?:[-\u2010'’.][^\W_]+)*")
_FOREIGN_SIGNS = 2  # letters of another script that units and symbols have: kg, Ω
_REAL_SHARE = 0.1  # of a text's letters, from which on a script is one that it is written in
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
        if "summary" in request.task:
            checked.summary = _summary(_content(reply, "summary", cut_off), request, count)
        else:
            _questions(_content(reply, "questions", cut_off), request, count, checked)
    except _UnusableError as error:
        checked.rejections.append(error.rejection)
    return checked


def _content(reply: str, wanted: str, cut_off: bool) -> dict[str, Any]:
    """The last JSON object behind the thoughts that has a wanted field, whatever words, fences and braces surround it.

    Where none has it, the first object is given back, to be rejected for that.
    """
    text = reply if _is_object(reply) else reply.rpartition(_THOUGHTS_END)[2]
    if not text.strip():
        raise _UnusableError("empty reply")
    found = _object_with(text, wanted)
    if found is None:  # the mark may have stood in the answer itself, or behind it
        found = _object_with(reply, wanted)
    if found is None and not cut_off:
        found = _object_at(text, text.find("{"))[0]
    if found is None:
        raise _UnusableError("cut off before its end" if cut_off else "no JSON object", text.strip())
    return found


def _object_with(text: str, wanted: str) -> dict[str, Any] | None:
    """The last object that has a field, not looking into those that have."""
    at, found = text.find("{"), None
    while at >= 0:
        value, end = _object_at(text, at)
        holds_it = value is not None and wanted in value
        found = value if holds_it else found
        at = text.find("{", end if holds_it else at + 1)  # it may be inside of another
    return found


def _is_object(text: str) -> bool:
    """Whether a text is nothing but an object, which may tell of the marks of thoughts."""
    start = text.find("{")
    value, end = _object_at(text, start)
    return value is not None and not text[:start].strip() and not text[end:].strip()


def _object_at(text: str, at: int) -> tuple[dict[str, Any] | None, int]:
    """The object that begins at a brace, None if none does, and where it ends."""
    if at < 0:
        return None, at
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, at
    return (value, end) if isinstance(value, dict) else (None, at)


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
    if not any(map(str.isalnum, text)):
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
    if not found:
        if row.get("in_context") is not False:
            raise _UnusableError("answer not in the context", f"{question} {answer}")
        _check_language(answer, request, may_be_terms=True)
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


def _check_language(text: str, request: Request, *, may_be_terms: bool = False) -> None:
    """Makes sure that a text is in the script of its passages, which is all of a language that is looked at.

    Most of its letters are. Words of other scripts do not count if they stand in the passages: names of programs may be
    most of a Chinese sentence about one. A text without letters is in no script.

    Args:
        text: what is looked at.
        request: what it is about.
        may_be_terms: whether it may be nothing but such words.
    """
    passages = request.passages
    whole = "\n".join(passage.text for passage in passages)
    own = script_of(whole, passages[0].lang)
    scripts = scripts_of(text)
    if own is None or not scripts or _is_in(scripts, own, whole):
        return
    others = "".join(" " if letter_script(character) == own else character for character in text)
    terms = [term for term in _TERM.findall(others) if any(stands_in(term, passage.text) for passage in passages)]
    scripts.subtract(scripts_of("".join(terms)))
    foreign = scripts.total() - max(0, scripts[own])
    signs = 0 if scripts[HAN] + scripts[HANGUL] else _FOREIGN_SIGNS
    if not _is_in(scripts, own, whole) and not (may_be_terms and foreign <= signs):
        raise _UnusableError("other language than its text", text)


def _is_in(scripts: Counter[str], own: str, whole: str) -> bool:
    """Whether letters are mostly of a text's script, or of another that it has enough of, a program's aside."""
    main = main_script(scripts)
    if main == own or main is None or own in SPACELESS:
        return main == own
    there = scripts_of(whole)
    return there[main] >= _REAL_SHARE * there.total()


def stands_in(answer: str, text: str) -> bool:
    """Whether an answer stands in a text word for word, case, white space and marks around it aside.

    A word or number of the answer is a whole one of the text: "10" does not stand in "2010" or "10.5", nor "mail" in
    "e-mail". Marks alone stand nowhere.
    """
    wanted, within = normalised(answer).strip(_QUOTES), normalised(text)
    at = within.find(wanted) if any(map(str.isalnum, wanted)) else -1
    while at >= 0:
        end = at + len(wanted)
        starts = not _inside(within, at) or _ELIDED.search(within, max(0, at - 6), at)
        if starts and not _inside(within, end):
            return True
        at = within.find(wanted, at + 1)
    return False


def _inside(text: str, at: int) -> bool:
    """Whether a place is within a word or number: between two of its signs, or beside a mark that joins two."""
    if at <= 0 or at >= len(text):
        return False
    before, behind = (_SIGN.match(text, place) is not None for place in (at - 1, at))
    if before and behind:
        return True
    return (before and _joins(text, at) and not _POSSESSIVE.match(text, at)) or (behind and _joins(text, at - 1))


def _joins(text: str, at: int) -> bool:
    """Whether a mark joins the signs on both of its sides to one word or number: 10.5, 1,234, e-mail, O'Brien, don't.

    A hyphen between two whole words does not, nor an apostrophe behind one, as in "Ankara'da".
    """
    mark, left, right = text[at], _part(text, at - 1, -1), _part(text, at + 1, 1)
    if not left or not right:
        return False
    if mark in ".,":
        return left[-1].isdigit() and right[0].isdigit() and (mark == "." or bool(_THOUSANDS.match(right)))
    if mark in _APOSTROPHES:
        return len(left) == 1 or right == "s" or (left[-1] == "n" and right == "t")
    return mark in _HYPHENS and (left + right).isalpha() and min(len(left), len(right)) <= _SHORT


def _part(text: str, at: int, step: int) -> str:
    """The signs from a place on, in one direction."""
    end = at
    while 0 <= end < len(text) and _SIGN.match(text, end):
        end += step
    return text[at:end] if step > 0 else text[end + 1 : at + 1]
