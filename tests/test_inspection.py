"""What `latentpress inspect` shows: the numbers of the press, and pages that hold them and nothing from outside."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CORPUS, config_for, make_model

from latentpress.compressors import Ratio
from latentpress.errors import InputError, RatioError
from latentpress.inspection import Inspection, inspect, pieces_of, slots_of
from latentpress.plots import texts
from latentpress.plots.page import left_out, page
from latentpress.plots.pictures import draw, drawable, undrawable
from latentpress.press import Press
from latentpress.tokens import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from latentpress.backbone import Base

TEXT = " ".join(CORPUS)
STRANGE = (
    "汉字测试 \U0001f600\U0001f468\u200d\U0001f469 שלום עולם مرحبا <script>alert(1)</script> "
    '& "$x_2^a$" \'\r\n\tend\x07 \x85\u202e!'
)
COMPREXIT = {
    "compressor": "comprexit",
    "compressor_settings": {"segment_tokens": 16, "query_width": 16},
    "policy": "fixed",
    "encoder_lora": None,
    "encoder_layers": None,
}
KINDS: dict[str, dict[str, Any]] = {
    "comprexit": {**COMPREXIT, "residual": "salient"},
    "mean-pooling": {"residual": "salient", "policy": "selector"},
    "plain": {"residual": "mean", "policy": "selector"},
    "first-tokens": {"compressor": "first-tokens", "residual": "none", "policy": "fixed", "encoder_lora": None},
    "last-tokens": {"compressor": "last-tokens", "residual": "none"},
}
Make = Callable[..., Press]


@pytest.fixture(scope="module")
def press(tiny_base: Base) -> Make:
    """Makes a tiny press of a kind."""

    def make(kind: str, **changes: Any) -> Press:
        config = config_for(tiny_base, **{**KINDS[kind], **changes})
        return Press(make_model(config, tiny_base), tiny_base, None, "ab" * 32)

    return make


class Read(HTMLParser):
    """What a page points at, holds as marked text, and says in titles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.titles: list[str] = []
        self.shown: list[str] = []
        self._inside = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.links.append(value or "")
            if name == "title":
                self.titles.append(value or "")
            assert not name.startswith("on"), name
        if tag == "p":
            self._inside = ("class", "text") in attrs
            if self._inside:
                self.shown.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.shown[-1] += data


def as_page(shown: Inspection, name: str = "a<b>.txt") -> str:
    html = page(shown, name, draw(shown))
    read = Read(html)
    assert all(link.startswith("data:image/png;base64,") for link in read.links)
    assert "script" not in read.tags
    assert "url(" not in html
    assert "@import" not in html
    return html


# ---- what is shown ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [None, 4])
def test_windows_spans_and_ratios_are_those_of_compress(press: Make, kind: str, ratio: int | None) -> None:
    one = press(kind)
    shown, made = inspect(one, TEXT, ratio=ratio), one.compress(TEXT, ratio=ratio)
    assert len(shown.windows) > 1
    assert shown.windows == made.windows
    assert shown.spans.tolist() == made.token_spans.tolist()
    assert shown.tokens == made.context_tokens
    assert shown.slots is not None
    for slot, (start, end) in enumerate(shown.spans):
        assert set(shown.slots[start:end]) == {slot}
    assert "".join(piece.text for piece in shown.pieces) == TEXT


def test_what_a_method_tells_is_its_insight_window_by_window(press: Make) -> None:
    one = press("comprexit", window_tokens=40)
    ids = tokenize(one._encoder_tokenizer, TEXT).ids
    shown = [inspect(one, TEXT, ratio=4, segment=number) for number in (1, 4)]
    plans, starts = [], []
    for window in shown[0].windows:
        end = window.start + window.tokens
        with torch.no_grad():
            encoded = one.model.encode([ids[window.start : end]])
            told = one.model.compressor.insight(encoded.states, encoded.lengths, [Ratio(4)])
        assert told.capacity is not None
        assert told.layer_weights is not None
        for found in shown:
            assert found.capacity is not None
            assert found.layers is not None
            np.testing.assert_allclose(found.capacity[window.start : end], told.capacity, atol=1e-4)
            np.testing.assert_allclose(found.layers[:, window.start : end], told.layer_weights, atol=1e-4)
        plans += told.plans
        starts += [(window.start + first, window.start + last) for _, first, last in told.segments]
    assert {found.segments for found in shown} == {len(plans)}
    for found, number in zip(shown, (1, 4), strict=True):
        plan = found.plan
        assert plan is not None
        assert (plan.number, plan.start, plan.end) == (number, *starts[number - 1])
        np.testing.assert_allclose(plan.plan, plans[number - 1], atol=1e-5)
        assert found.spans[plan.first_slot][0] == plan.start
        stay = 0.0
        for slot, (start, end) in enumerate(found.spans[plan.first_slot :][: plan.plan.shape[1]]):
            stay += plan.plan[start - plan.start : end - plan.start, slot].sum()
        assert plan.own == pytest.approx(stay, abs=1e-5)


@pytest.mark.parametrize("kind", ["comprexit", "mean-pooling"])
def test_salience_is_what_the_residual_weighs_with(press: Make, kind: str) -> None:
    one = press(kind)
    shown = inspect(one, TEXT, ratio=4)
    assert shown.salience is not None
    assert shown.slots is not None
    assert one.model.residual is not None
    np.testing.assert_allclose(np.bincount(shown.slots, shown.salience), 1, atol=1e-5)
    assert shown.over_equal_share(shown.salience).mean() == pytest.approx(1, abs=0.05)
    window = shown.windows[1]
    ids = tokenize(one._encoder_tokenizer, TEXT).ids[window.start : window.start + window.tokens]
    with torch.no_grad():
        encoded = one.model.encode([ids])
        made = one.model.compressor.extract(encoded.states, encoded.lengths, [Ratio(4)], encoded.added)
        states = encoded.states if encoded.states.ndim == 2 else encoded.states[-1]
        embeddings = one.model.decoder.embed(encoded.ids)
        assert made.index is not None
        expected = one.model.residual(embeddings, encoded.ids, states, made.index, window.latents)
    weights = torch.from_numpy(shown.salience[window.start : window.start + window.tokens])
    mixed = torch.zeros_like(expected).index_add(0, made.index, embeddings * weights[:, None])
    torch.testing.assert_close(one.model.residual.log_gain.exp().detach() * mixed, expected, atol=1e-4, rtol=1e-3)


def test_press_without_insight_reads_the_text_once_and_tells_the_rest(
    press: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = press("plain")
    calls: list[int] = []
    encode = one.model.encode
    monkeypatch.setattr(one.model, "encode", lambda ids: (calls.append(len(ids)), encode(ids))[1])
    shown = inspect(one, TEXT)
    assert sum(calls) == len(shown.windows)
    assert (shown.capacity, shown.layers, shown.plan, shown.salience, shown.segments) == (None, None, None, None, 0)
    assert [line.split(":")[0] for line in left_out(shown)] == [
        "Sender capacities",
        "Depth weights",
        "Transmission plan",
        "Weights of the tokens' own embeddings",
    ]
    assert draw(shown) == {}


def test_tokens_that_no_latent_covers_are_in_no_slot(press: Make) -> None:
    shown = inspect(press("first-tokens"), TEXT, ratio=4)
    assert shown.slots is not None
    first = shown.windows[0]
    assert shown.slots[: first.latents].tolist() == list(range(first.latents))
    assert set(shown.slots[first.latents : first.tokens].tolist()) == {-1}
    html = as_page(shown)
    assert 'class="none" title="in no slot"' in html
    assert "is in no slot: it is not handed over" in html


def test_what_no_state_was_read_at_is_said_to_be_known_by_the_others(press: Make) -> None:
    shown = inspect(press("last-tokens"), TEXT, ratio=4)
    assert shown.slots is not None
    first = shown.windows[0]
    assert set(shown.slots[: first.tokens - first.latents].tolist()) == {-1}
    assert shown.slots[first.tokens - first.latents : first.tokens].tolist() == list(range(first.latents))
    html = as_page(shown)
    assert "is in no slot: latents carry what the states of the tokens behind it know of it." in html
    assert "not handed over" not in html


def test_latents_of_a_whole_window_are_shown_by_window(tiny_base: Base) -> None:
    config = config_for(tiny_base, compressor="compression-tokens", residual="none")
    shown = inspect(Press(make_model(config, tiny_base), tiny_base, None, "ab" * 32), TEXT, ratio=4)
    assert shown.slots is None
    titles = Read(as_page(shown)).titles
    assert titles[0] == f"window 1: each of its {shown.windows[0].latents} latents may carry any of it"


@pytest.mark.parametrize(
    ("kind", "segment", "message"),
    [
        ("comprexit", 0, "segment 0 does not exist; the first is 1"),
        ("comprexit", 99, r"segment 99 does not exist: this text of \d+ tokens has (\d+) segments .* from 1 to \1$"),
        ("plain", 1, "press 'tiny', with compressor 'mean-pooling', has no segments; leave it out"),
    ],
)
def test_segment_that_does_not_exist_is_refused(press: Make, kind: str, segment: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inspect(press(kind), TEXT, segment=segment)


def test_bad_texts_and_ratios_are_those_of_compress(press: Make) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        inspect(press("plain"), " \n")
    with pytest.raises(RatioError, match="ratio 3 is not one this press was trained for"):
        inspect(press("plain"), TEXT, ratio=3)


# ---- pieces and slots ----


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40))
def test_pieces_tile_text_and_tokens_and_never_part_a_character(
    tiny_tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    if not text.strip():
        return
    offsets = tokenize(tiny_tokenizer, text).offsets
    pieces = pieces_of(text, offsets)
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
    assert pieces[-1].end == len(offsets)
    assert all(piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([(0, 2), (2, 4), (4, 6)], [("ab", 0, 1), ("cd", 1, 2), ("ef", 2, 3)]),
        ([(0, 1), (0, 1), (0, 1), (1, 6)], [("a", 0, 3), ("bcdef", 3, 4)]),
        ([(0, 2), (1, 3), (3, 6)], [("abc", 0, 2), ("def", 2, 3)]),
        ([(1, 2), (3, 4)], [("ab", 0, 1), ("cdef", 1, 2)]),
        ([(0, 0), (0, 3), (3, 3), (3, 6), (6, 6)], [("abc", 0, 2), ("def", 2, 5)]),
        ([(0, 0)], [("abcdef", 0, 1)]),
    ],
    ids=["plain", "bytes of a character", "overlap", "gaps", "without characters", "nothing"],
)
def test_pieces_by_hand(offsets: list[tuple[int, int]], expected: list[tuple[str, int, int]]) -> None:
    assert [(one.text, one.start, one.end) for one in pieces_of("abcdef", offsets)] == expected


def test_values_of_a_piece_are_the_mean_of_its_tokens(press: Make) -> None:
    shown = inspect(press("plain"), STRANGE)
    values = np.arange(shown.tokens, dtype=np.float32)
    expected = [values[piece.start : piece.end].mean() for piece in shown.pieces]
    assert any(piece.end - piece.start > 1 for piece in shown.pieces)
    np.testing.assert_allclose(shown.by_piece(values), expected)


def test_slots_that_share_tokens_are_no_slots_and_windows_have_the_colours(press: Make) -> None:
    assert slots_of(np.array([[0, 2], [1, 3]]), 3) is None
    found = slots_of(np.array([[0, 1], [2, 3]]), 4)
    assert found is not None
    assert found.tolist() == [0, -1, 1, -1]
    shown = dataclasses.replace(inspect(press("plain"), TEXT), slots=None)
    titles = Read(as_page(shown)).titles
    assert len(titles) == len(shown.windows)
    assert titles[1] == f"window 2: each of its {shown.windows[1].latents} latents may carry any of it"


# ---- pages ----


@pytest.mark.parametrize("kind", KINDS)
def test_page_holds_the_text_whole_and_nothing_of_it_is_markup(press: Make, kind: str) -> None:
    text = STRANGE * 12
    shown = inspect(press(kind), text)
    read = Read(as_page(shown, "<i>name</i>"))
    parts = len(shown.windows)
    as_seen = text.replace("\r\n", "\n").replace("\x07", "␇").replace("\x85", "\ufffd").replace("\r", "␍")
    texts_of_part = ["".join(read.shown[i : i + parts]) for i in range(0, len(read.shown), parts)]
    assert len(texts_of_part) == 1 + (shown.capacity is not None) + (shown.salience is not None)
    for seen in texts_of_part:
        assert seen.replace("␍\n", "\n") == as_seen
    assert "i" not in read.tags


def test_page_says_the_numbers_of_the_press(press: Make) -> None:
    shown = inspect(press("comprexit"), TEXT, ratio=4, segment=2)
    html = as_page(shown)
    window = shown.windows[1]
    heading = f"window 2: tokens {window.start} to {window.start + window.tokens}, ratio 4, {window.latents} latents"
    assert heading in html
    titles = Read(html).titles
    assert shown.capacity is not None
    for token in (0, 7, shown.tokens - 1):
        assert f"token {token}: capacity {shown.capacity[token]:.2f}" in titles
    for slot, (start, end) in enumerate(shown.spans.tolist(), start=1):
        assert f"slot {slot}: tokens {start} to {end}, ratio 4" in titles
    assert (
        f'<td class="number">{shown.capacity.max():.2f}</td><td class="number">{shown.capacity.argmax()}</td>' in html
    )
    assert shown.plan is not None
    assert shown.plan.own is not None
    assert f"{100 * shown.plan.own:.0f}% of the whole" in html
    assert f"segment 2 of {shown.segments}" in html
    assert "leaves out" not in html


def test_capacities_that_are_all_the_same_are_not_ranked(press: Make) -> None:
    settings = {"segment_tokens": 16, "query_width": 16, "capacity": "uniform"}
    html = as_page(inspect(press("comprexit", compressor_settings=settings), TEXT))
    assert "All tokens have the same capacity: this press prefers none." in html
    assert "Let go: least" not in html


def test_heaviest_token_of_each_slot_is_named(press: Make) -> None:
    shown = inspect(press("mean-pooling"), TEXT, ratio=8)
    assert shown.salience is not None
    start, end = shown.spans[0]
    heaviest = int(start + shown.salience[start:end].argmax())
    text = "".join(
        f"<mark>{piece.text}</mark>" if piece.start == heaviest else piece.text for piece in shown.pieces[start:end]
    )
    row = f'<td class="number">1</td><td><bdi>{text}</bdi></td>'
    assert f'{row}<td class="number">{100 * shown.salience[heaviest]:.0f}%</td>' in as_page(shown)


def test_character_in_two_slots_has_both_colours(press: Make) -> None:
    shown = inspect(press("plain"), "汉字测试" * 5, ratio=2)
    assert any("one character in two slots. slot 1: tokens 0 to 2" in title for title in Read(as_page(shown)).titles)


def test_long_document_says_how_much_of_it_is_shown(press: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MOST_TOKENS", 100)
    monkeypatch.setattr(texts, "MOST_ROWS", 5)
    shown = inspect(press("comprexit"), TEXT * 3)
    windows = texts.shown_windows(shown)
    assert 1 < len(windows) < len(shown.windows)
    last = windows[-1][0]
    html = as_page(shown)
    assert f"the first {len(windows)} of {len(shown.windows)} windows, {last.start + last.tokens} of" in html
    assert f"The first 5 of {len(shown.spans)} slots." in html
    assert "window 4:" not in html


def test_shades_reach_nearly_all_values_and_are_even_about_one() -> None:
    values = np.array([1.0, 1.1, 1 / 1.1, 1.21, 100.0, 0.0], dtype=np.float32)
    assert texts.shade_levels(values, 1.1) == [4, 5, 3, 6, 8, 0]
    assert texts.scale_step(np.array([1e-9, 1.02], dtype=np.float32)) == 1.05
    assert texts.scale_step(np.array([0.1, 2.0], dtype=np.float32)) == 1.2
    assert texts.scale_step(np.array([0.1, 6.0], dtype=np.float32)) == 2.0
    assert texts.scale_step(np.array([1e-9, 1e9], dtype=np.float32)) == 2.0


# ---- pictures ----


@pytest.mark.parametrize("text", [TEXT * 4, "Who?"], ids=["long", "short"])
def test_pictures_fit_a_screen(press: Make, text: str) -> None:
    one = press("comprexit", compressor_settings={"segment_tokens": 300, "query_width": 16}, window_tokens=300)
    shown = inspect(one, text, ratio=2)
    pictures = draw(shown)
    assert list(pictures) == ["layers.png", "layer-means.png", "plan.png"]
    for data in pictures.values():
        width, height = struct.unpack(">II", data[16:24])
        assert width <= 1200
        assert height <= 800
        assert b"latentpress inspect" in data[:512]
    if shown.plan is not None and shown.plan.end > 128:
        said = f"Shown are tokens 0 to 128, the first 128 of the {shown.plan.end} tokens of segment 1."
        assert said in page(shown, "a", pictures)


def test_what_the_font_lacks_is_drawn_as_its_number(press: Make) -> None:
    assert [drawable(one) for one in (" the", "\n", "  ", "$x$", "汉a", "\x07", "a" * 20)] == [
        "the",
        "↵",
        "␣",
        "$x$",
        "□a",
        "□",
        "a" * 12 + "…",
    ]
    shown = inspect(press("comprexit"), STRANGE)
    assert [piece.text for piece in undrawable(shown)][:2] == ["汉", "字"]
    assert "#0 <bdi>汉</bdi>" in as_page(shown)
