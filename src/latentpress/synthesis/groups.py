"""Related passages together, for requests about several documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from latentpress.synthesis.passages import Cutter, Passage
from latentpress.training.related import RelatedTexts

GROUPING = 2
"""Number of this way to group, which a folder is bound to: under another its replies would be asked for anew."""
# Most passages among which related ones are looked for: the work grows with the corpus and not with its square.
_AMONG = 64
_PART = 4


def related_groups(passages: Sequence[Passage], cutter: Cutter, *, most: int, tokens: int) -> list[tuple[Passage, ...]]:
    """Puts each passage together with those of its source and language that share most of its rare words.

    Looked for within blocks of passages that follow each other: a quarter as many as stand before them, twice `most`
    at least and 64 at most. So those of a corpus that grows at its end stay what they are, but for groups of its last
    block where that was not full.

    Args:
        passages: in order.
        cutter: gives their tokens.
        most: passages of a group, at least 2.
        tokens: of all passages of a group together; a training leaves longer records out.

    Returns:
        Groups of two or more passages; none is in two groups, and one that fits no other of its block is in none.
    """
    by_source: dict[tuple[str, str], list[Passage]] = {}
    for passage in passages:
        by_source.setdefault((passage.source, passage.lang), []).append(passage)
    groups = []
    for same in by_source.values():
        for block in _blocks(len(same), most):
            groups += _grouped(same[block], cutter, most, tokens)
    return groups


def _blocks(count: int, most: int) -> Iterator[slice]:
    """Blocks of so many passages, all full but the last."""
    start = 0
    while start < count:
        end = start + max(2 * most, min(_AMONG, start // _PART))
        yield slice(start, min(end, count))
        start = end


def _grouped(passages: Sequence[Passage], cutter: Cutter, most: int, tokens: int) -> list[tuple[Passage, ...]]:
    related = RelatedTexts([[cutter.ids(passage.text)] for passage in passages])
    free = set(range(len(passages)))
    groups = []
    for first in range(len(passages)):
        if first not in free:
            continue
        group, room = [first], tokens - passages[first].tokens
        for other in related.ranked(first):
            if other != first and other in free and passages[other].tokens <= room and len(group) < most:
                group.append(other)
                room -= passages[other].tokens
        if len(group) > 1:
            free -= set(group)
            groups.append(tuple(passages[index] for index in sorted(group)))
    return groups
