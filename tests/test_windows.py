"""Windows tile their documents, and a pass never grows with them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from latentpress import windows
from latentpress.tokens import TokenizedText


def document(tokens: int) -> TokenizedText:
    return TokenizedText(ids=tuple(range(tokens)), offsets=tuple((i, i + 1) for i in range(tokens)))


@given(st.lists(st.integers(1, 400), max_size=6), st.integers(1, 90))
def test_windows_tile_each_document_and_are_equal_within_one_token(lengths: list[int], limit: int) -> None:
    made = windows.cut([document(n) for n in lengths], limit)
    for i, tokens in enumerate(lengths):
        own = [window for window in made if window.document == i]
        assert [t for window in own for t in window.ids] == list(range(tokens))
        assert [window.start for window in own] == [window.ids[0] for window in own]
        sizes = [len(window.ids) for window in own]
        assert max(sizes) <= limit
        assert max(sizes) - min(sizes) <= 1
        assert len(own) == -(-tokens // limit)


@given(st.lists(st.integers(1, 3000), max_size=40))
def test_passes_keep_the_order_and_stay_within_their_limit(lengths: list[int]) -> None:
    made = windows.cut([document(n) for n in lengths], 512)
    batches = list(windows.passes(made))
    assert [window for batch in batches for window in batch] == made
    assert all(sum(len(window.ids) + 1 for window in batch) <= windows.PASS_TOKENS for batch in batches)


def test_what_a_compressor_adds_counts_in_a_pass() -> None:
    made = windows.cut([document(3000)], 500)
    tokens = [sum(len(window.ids) + 1 + 250 for window in batch) for batch in windows.passes(made, lambda n: n // 2)]
    assert len(tokens) == 2
    assert max(tokens) <= windows.PASS_TOKENS


def test_one_window_longer_than_a_pass_goes_alone() -> None:
    made = windows.cut([document(3), document(5000), document(3)], 5000)
    assert [len(batch) for batch in windows.passes(made)] == [1, 1, 1]


def test_many_one_token_texts_are_bounded_with_their_eos() -> None:
    made = windows.cut([document(1)] * 5000, 512)
    assert max(len(batch) for batch in windows.passes(made)) == windows.PASS_TOKENS // 2
