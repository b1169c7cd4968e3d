"""A fifth of the passages is held out by name, and no other record brings one of their texts or a part of it back."""

from __future__ import annotations

import hashlib

from latentpress.data.held_out import is_held_out, without_held_out
from latentpress.data.records import Record

NAMES = [f"passage-{i}" for i in range(500)]
HELD = next(name for name in NAMES if is_held_out(name))
KEPT = next(name for name in NAMES if not is_held_out(name))


def record(name: str, *texts: str) -> Record:
    return Record(id=name, contexts=texts, qas=(), summary=None, short_summary=None, source="test", lang=None)


def test_a_name_is_held_out_if_its_digest_is_a_multiple_of_five() -> None:
    for name in NAMES:
        digest = hashlib.sha256(name.encode()).digest()
        assert is_held_out(name) == (sum(byte * pow(256, i, 5) for i, byte in enumerate(reversed(digest))) % 5 == 0)
    assert 60 < sum(map(is_held_out, NAMES)) < 140


def test_records_that_hold_a_text_that_is_held_out_go_too() -> None:
    text = "The treaty was signed in Paris."
    kept = [record(KEPT, "Another text."), record(KEPT, "The treaty was signed."), record(KEPT, "Paris.")]
    gone = [
        record(HELD, text),
        record(KEPT, text),
        record(KEPT, "the  TREATY was\nsigned in Paris. "),
        record(KEPT, f"Before. {text} Behind."),
        record(KEPT, "Another text.", text),
    ]
    records = [*gone, *kept]
    assert without_held_out(records, records) == kept
    assert without_held_out(kept, kept) == kept
    assert without_held_out(records, kept) == records


def test_passages_of_another_file_are_held_out_and_names_alone_hold_nothing_out() -> None:
    passages = [record(HELD, "The treaty."), record(KEPT, "Another text.")]
    records = [record(HELD, "Another text."), record(KEPT, "the treaty."), record(HELD, "A third.")]
    assert without_held_out(records, passages) == [records[0], records[2]]


WORDS = [f"word{i}" for i in range(100)]
PASSAGE = [record(HELD, " ".join(WORDS))]


def others(count: int, name: str = "own") -> list[str]:
    return [f"{name}{i}" for i in range(count)]


def is_left(*words: str) -> bool:
    return bool(without_held_out([record(KEPT, " ".join(words))], PASSAGE))


def test_windows_of_a_text_that_is_held_out_and_longer_texts_around_it_go() -> None:
    assert not is_left(*WORDS[30:60])
    assert not is_left(*others(500), *WORDS, *others(500))
    assert not is_left(*others(200), *WORDS[:50])  # a neighbour that overlaps with it
    assert not is_left(*others(40), *WORDS[10:26], *others(40, "more"), *WORDS[60:76])  # 4 runs at each place


def test_twenty_words_in_a_row_are_a_part_and_fewer_are_none_unless_nothing_else_is_there() -> None:
    assert not is_left(*others(30), *WORDS[40:60], *others(30))
    assert is_left(*others(30), *WORDS[40:59], *others(30))
    assert not is_left(*WORDS[40:59])
    assert not is_left(*WORDS[40:53])
    assert is_left(*WORDS[40:52])
    assert is_left(*WORDS[40:53], "own")


def test_parts_are_known_by_their_words_whatever_marks_and_spaces_stand_between() -> None:
    assert not is_left("Word1,  WORD2 (word3) --", *(f"{word}.\n" for word in WORDS[4:24]))
    assert is_left(*others(30), *WORDS[:10], "own", *WORDS[10:20], "own", *WORDS[20:30])


def test_chinese_is_compared_by_its_characters() -> None:
    text = "".join(chr(0x4E00 + 7 * i) for i in range(60))
    passages = [record(HELD, text)]
    assert without_held_out([record(KEPT, f"{text[20:30]}，{text[30:40]}。在")], passages) == []
    kept = [record(KEPT, f"在{text[20:39]}。在那里"), record(KEPT, text[:12])]
    assert without_held_out(kept, passages) == kept


def test_a_text_of_few_different_words_is_found_whole() -> None:
    passages = [record(HELD, "no " * 60)]
    records = [record(KEPT, f"He said: {'no ' * 60} and left."), record(KEPT, "He said no, and left.")]
    assert without_held_out(records, passages) == records[1:]


def test_parts_of_two_passages_count_together_and_the_others_hold_nothing_out() -> None:
    free = record(KEPT, " ".join(others(60, "free")))
    names = [name for name in NAMES if is_held_out(name)][:2]
    passages = [record(names[0], " ".join(WORDS[:30])), record(names[1], " ".join(WORDS[50:80])), free]
    one = record(KEPT, " ".join([*others(30), *WORDS[:17], *others(30, "more"), *WORDS[50:66]]))
    assert without_held_out([one, free], passages) == [free]
