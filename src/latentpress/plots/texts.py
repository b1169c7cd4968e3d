"""The parts of an inspection's page that are text: coloured by latent, and shaded by capacity or by salience."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import numpy as np

from latentpress.inspection import FloatArray, Inspection, Piece
from latentpress.latents import WindowInfo

MOST_TOKENS = 8192
"""Tokens of a text that a page shows; whole windows, one at least."""
MOST_ROWS = 400
"""Rows of the table of slots."""
LISTED = 15
"""Tokens in the lists of the most and the least."""
COLOURS = ("#ffd9a0", "#bfe3ff", "#c9edb4", "#f6c6dd", "#e2d2fb", "#f3ecae")
"""Of slots in turn, so that neighbours differ."""
SHADES = ("#7fb2dd", "#a6cbea", "#c9e0f4", "#e6f1fa", "#ffffff", "#ffe9d1", "#ffcf9c", "#ffb066", "#f98b2f")
"""From far less than an equal share to far more."""
_STEPS = (1.05, 1.1, 1.2, 1.5, 2.0)  # factor between one shade and the next
_SEEN = 0.005  # a difference that two decimals show
_AROUND = 24  # characters beside a token in a list
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}  # their pictures
_CONTROLS |= dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)


def shown_windows(shown: Inspection) -> list[tuple[WindowInfo, list[Piece]]]:
    """The first windows of a text with what is to be read in them."""
    made: list[tuple[WindowInfo, list[Piece]]] = []
    pieces = iter(shown.pieces)
    piece = next(pieces, None)
    for window in shown.windows:
        end = window.start + window.tokens
        if made and end > MOST_TOKENS:
            break
        own = []
        while piece is not None and piece.start < end:
            own.append(piece)
            piece = next(pieces, None)
        made.append((window, own))
    return made


def visible(text: str) -> str:
    """Characters of a user for HTML: escaped, control characters as their pictures."""
    return escape(text.replace("\r\n", "\n").translate(_CONTROLS))


def span(start: int, end: int) -> str:
    """A span of tokens in words."""
    return f"tokens {start:,} to {end:,}"


def count(number: int, what: str) -> str:
    """So many of something."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def ratio_name(ratio: float) -> str:
    """A ratio in figures: as it is if a press was trained for it, rounded if it comes of a number of latents."""
    return f"{round(ratio, 1):g}"


def ratio_colour(ratio: float) -> str:
    """From light for much kept to dark for hard pressed: 1, 2, 4, 8, 16, 32 and more."""
    shades = ("#b7e4dc", "#84cfc4", "#4fb3a9", "#2b8a8c", "#1f5f74", "#1b3a57")
    return shades[min(max(round(math.log2(ratio)), 0), len(shades) - 1)]


# ---- by latent ----


def window_part(shown: Inspection) -> str:
    """Every window with its ratio, its text coloured by the slot that carries it."""
    boxes = []
    for number, (window, pieces) in enumerate(shown_windows(shown), start=1):
        patches = _patches(shown, pieces) if shown.slots is not None else _one_patch(number, window, pieces)
        boxes.append(
            f'<div class="window" style="border-color:{ratio_colour(window.ratio)}">'
            f"<h3>{_heading(number, window)}</h3>"
            f'<p class="text" dir="auto">{"".join(patches)}</p></div>'
        )
    return f'<div class="scroll" tabindex="0">{"".join(boxes)}</div>'


def _heading(number: int, window: WindowInfo) -> str:
    chosen = ""
    if window.log2_ratio is not None:
        chosen = f" <small>(the selector predicted {2**window.log2_ratio:.2f})</small>"
    where = span(window.start, window.start + window.tokens)
    return f"window {number}: {where}, ratio {ratio_name(window.ratio)}, {count(window.latents, 'latent')}{chosen}"


def _patches(shown: Inspection, pieces: Sequence[Piece]) -> Iterator[str]:
    """Runs of pieces in the same slot; a piece in two slots is a patch of both colours."""
    slots = shown.slots
    assert slots is not None
    ratios = [window.ratio for window in shown.windows for _ in range(window.latents)]
    run: list[str] = []
    at: tuple[int, int] | None = None
    for piece in [*pieces, None]:
        here = None if piece is None else (int(slots[piece.start]), int(slots[piece.end - 1]))
        if run and (here != at or here is None or here[0] != here[1]):
            assert at is not None
            yield _patch(shown, at, ratios, "".join(run))
            run = []
        at = here
        if piece is not None:
            run.append(piece.text)


def _patch(shown: Inspection, slots: tuple[int, int], ratios: Sequence[float], text: str) -> str:
    told = [
        f"slot {slot + 1:,}: {span(*shown.spans[slot].tolist())}, ratio {ratio_name(ratios[slot])}"
        for slot in dict.fromkeys(slots)
        if slot >= 0
    ]
    if not told:
        return f'<span class="none" title="in no slot">{visible(text)}</span>'
    title = "; ".join(told)
    if slots[0] == slots[1]:
        return f'<span class="s{slots[0] % len(COLOURS)}" title="{title}">{visible(text)}</span>'
    both = ", ".join(f"{COLOURS[slot % len(COLOURS)] if slot >= 0 else '#ffffff'} 50%" for slot in slots)
    style = f"background:linear-gradient(90deg, {both})"
    return f'<span style="{style}" title="one character in two slots. {title}">{visible(text)}</span>'


def _one_patch(number: int, window: WindowInfo, pieces: Iterable[Piece]) -> list[str]:
    text = "".join(piece.text for piece in pieces)
    title = f"window {number}: each of its {window.latents:,} latents may carry any of it"
    return [f'<span class="s{(number - 1) % len(COLOURS)}" title="{title}">{visible(text)}</span>']


# ---- shaded ----


def capacity_part(shown: Inspection) -> str:
    """The text by the capacity of its tokens, and the tokens with the most and the least of it."""
    assert shown.capacity is not None
    if shown.capacity.max() - shown.capacity.min() < _SEEN:
        return "<p>All tokens have the same capacity: this press prefers none.</p>"
    return (
        _shaded(shown, shown.capacity, "capacity")
        + '<div class="lists">'
        + _listed(shown, shown.capacity, "Kept: most capacity", most=True)
        + _listed(shown, shown.capacity, "Let go: least capacity", most=False)
        + "</div>"
    )


def salience_part(shown: Inspection) -> str:
    """The text by the weight of its tokens in their slots, and the heaviest token of each slot."""
    assert shown.salience is not None
    return _shaded(shown, shown.over_equal_share(shown.salience), "weight") + _slot_table(shown, shown.salience)


def _shaded(shown: Inspection, values: FloatArray, name: str) -> str:
    """Text with a shade for each piece, below the legend."""
    by_piece = shown.by_piece(values)
    step = scale_step(values)
    levels = shade_levels(by_piece, step)
    parts, at = [], 0
    for number, (_, pieces) in enumerate(shown_windows(shown), start=1):
        marks = []
        for piece in pieces:
            tokens = f"token {piece.start:,}" if piece.end - piece.start == 1 else span(piece.start, piece.end)
            title = f"{tokens}: {name} {by_piece[at]:.2f}"
            marks.append(f'<span class="k{levels[at]}" title="{title}">{visible(piece.text)}</span>')
            at += 1
        parts.append(f'<h3>window {number}</h3><p class="text" dir="auto">{"".join(marks)}</p>')
    return f'{_legend(step, name)}<div class="scroll" tabindex="0">{"".join(parts)}</div>'


def scale_step(values: FloatArray) -> float:
    """Factor between two shades: the smallest whose four above 1 reach all but a hundredth of the tokens.

    Those below 1 are not asked: a weight may be next to nothing, but never more than all of its slot.
    """
    reach = float(np.quantile(np.log(np.maximum(values, 1.0)), 0.99))
    return next((step for step in _STEPS if 4 * math.log(step) >= reach), _STEPS[-1])


def shade_levels(values: FloatArray, step: float) -> list[int]:
    """Index of the shade of each value, the middle one for 1."""
    middle = len(SHADES) // 2
    away = np.log(np.maximum(values, 1e-6)) / math.log(step)
    return (np.clip(np.rint(away), -middle, middle).astype(int) + middle).tolist()  # type: ignore[no-any-return]


def _legend(step: float, name: str) -> str:
    middle = len(SHADES) // 2
    boxes = []
    for i in range(len(SHADES)):
        sign = "≤ " if i == 0 else "≥ " if i == len(SHADES) - 1 else ""
        boxes.append(f'<span class="k{i}">{sign}{step ** (i - middle):.2f}</span>')
    return f'<p class="legend">{name}, 1 = an equal share: {"".join(boxes)}</p>'


def _listed(shown: Inspection, values: FloatArray, title: str, *, most: bool) -> str:
    by_piece = shown.by_piece(values)
    order = np.argsort(-by_piece if most else by_piece, kind="stable")[:LISTED]
    rows = []
    for i in order.tolist():
        piece = shown.pieces[i]
        rows.append(
            f'<tr><td class="number">{by_piece[i]:.2f}</td><td class="number">{piece.start:,}</td>'
            f"<td><bdi>{_around(shown.pieces, i)}</bdi></td></tr>"
        )
    head = "<tr><th>capacity</th><th>token</th><th>where</th></tr>"
    return f"<table><caption>{title}</caption>{head}{''.join(rows)}</table>"


def _around(pieces: Sequence[Piece], i: int) -> str:
    """A piece, marked, in the text beside it."""
    before = "".join(piece.text for piece in pieces[max(i - _AROUND, 0) : i])[-_AROUND:]
    behind = "".join(piece.text for piece in pieces[i + 1 : i + 1 + _AROUND])[:_AROUND]
    return f"{_line(before)}<mark>{_line(pieces[i].text)}</mark>{_line(behind)}"


def _line(text: str) -> str:
    return visible(text).replace("\n", "↵").replace("\t", "⇥")


def _slot_table(shown: Inspection, weights: FloatArray) -> str:
    rows = []
    piece_of = {token: piece for piece in shown.pieces for token in range(piece.start, piece.end)}
    for slot, (start, end) in enumerate(shown.spans[:MOST_ROWS].tolist()):
        heaviest = start + int(weights[start:end].argmax())
        pieces = dict.fromkeys(piece_of[token] for token in range(start, end))
        text = "".join(
            f"<mark>{_line(one.text)}</mark>" if one is piece_of[heaviest] else _line(one.text) for one in pieces
        )
        rows.append(
            f'<tr><td class="number">{slot + 1:,}</td><td><bdi>{text}</bdi></td>'
            f'<td class="number">{100 * weights[heaviest]:.0f}%</td></tr>'
        )
    note = ""
    if len(shown.spans) > MOST_ROWS:
        note = f"<p>The first {MOST_ROWS:,} of {len(shown.spans):,} slots.</p>"
    head = "<tr><th>slot</th><th>its tokens, the heaviest marked</th><th>its weight in the slot</th></tr>"
    return f'<div class="scroll small" tabindex="0"><table>{head}{"".join(rows)}</table></div>{note}'
