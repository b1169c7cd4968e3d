"""A fifth of the passages is held out by name, and no other record brings one of their texts back."""

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
