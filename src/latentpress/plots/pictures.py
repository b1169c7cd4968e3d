"""The pictures of an inspection: layers by tokens, layers on average, and the plan of a segment, each a PNG.

No picture is larger than a screen: what is drawn of a segment are its first `MOST_TOKENS` tokens.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from latentpress.inspection import Inspection, Piece

GENERATOR = "latentpress inspect"
"""Written into every file, so that they are known again."""
MOST_TOKENS = 128
"""Tokens of a segment that are drawn."""
_ROW = 64  # tokens beside each other: their texts stand upright and need 15 pixels each
_FONT = "DejaVu Sans"  # comes with matplotlib
_UNKNOWN = "\N{WHITE SQUARE}"
_SHOWN_CHARACTERS = 13
_DPI = 100


def draw(shown: Inspection) -> dict[str, bytes]:
    """Draws what there is.

    Returns:
        PNGs by the name of their files: `layers.png`, `layer-means.png` and `plan.png`, those that the press has.
    """
    made = {}
    start, end = drawn_tokens(shown)
    if shown.layers is not None:
        made["layers.png"] = _strips(
            100 * shown.layers[:, start:end],
            shown,
            start,
            rows="layer (0: embeddings)",
            first_row=0,
            unit="% of the token",
        )
        made["layer-means.png"] = _layer_means(shown.layers)
    if shown.plan is not None:
        part = 100 * shown.plan.plan[: end - start].T / np.maximum(shown.plan.plan.sum(0), 1e-12)[:, None]
        made["plan.png"] = _strips(
            part, shown, start, rows="slot", first_row=shown.plan.first_slot + 1, unit="% of the slot"
        )
    return made


def drawn_tokens(shown: Inspection) -> tuple[int, int]:
    """Tokens of the pictures: those of the segment, else of the first window, as many as can be read."""
    start, end = (0, shown.windows[0].tokens) if shown.plan is None else (shown.plan.start, shown.plan.end)
    return start, min(end, start + MOST_TOKENS)


def _strips(
    values: NDArray[np.float32], shown: Inspection, start: int, *, rows: str, first_row: int, unit: str
) -> bytes:
    """A heat map with a text below each column, in strips one above the other.

    Args:
        values: `[rows, tokens]`.
        shown: for the tokens' texts.
        start: first token.
        rows: what a row is.
        first_row: number of the first row.
        unit: of the values.
    """
    height, tokens = values.shape
    labels = _labels(shown, start, start + tokens)
    count = -(-tokens // _ROW)
    width = max(min(tokens, _ROW), 12)
    size = (1.9 + 0.143 * width, count * (1.45 + min(max(0.085 * height, 0.8), 2.1)))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    norm = PowerNorm(0.6, vmin=0, vmax=max(float(values.max()), 1e-6))  # small shares are to be seen too
    every: list[Axes] = list(figure.subplots(count, 1, squeeze=False)[:, 0])
    for i, axes in enumerate(every):
        part = values[:, i * _ROW : (i + 1) * _ROW]
        here = start + i * _ROW
        edges = (here - 0.5, here + part.shape[1] - 0.5, first_row + height - 0.5, first_row - 0.5)
        image = axes.imshow(
            part, norm=norm, cmap="YlGnBu", extent=edges, aspect="auto", interpolation="nearest", origin="upper"
        )
        axes.set_xlim(here - 0.5, here + width - 0.5)
        axes.set_xticks(range(here, here + part.shape[1]), labels[i * _ROW : i * _ROW + part.shape[1]])
        for label in axes.get_xticklabels():
            label.set(rotation=90, fontsize=8, fontfamily=_FONT, parse_math=False)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.set_ylabel(rows)
        axes.set_title(f"tokens {here:,} to {here + part.shape[1]:,}", loc="left", fontsize=9)
    figure.colorbar(image, ax=every, label=unit, fraction=0.03, pad=0.01)
    return _png(figure)


def _layer_means(layers: NDArray[np.float32]) -> bytes:
    """Bars of the mean weight of each layer over all tokens of the text."""
    means = 100 * layers.mean(1)
    figure = Figure(figsize=(min(11, 3 + 0.27 * len(means)), 3.2), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.bar(range(len(means)), means, color="#3b7ea1")
    axes.axhline(100 / len(means), color="black", linestyle=":", linewidth=1, label="if all layers weighed the same")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    axes.set_xlabel("layer (0: embeddings)")
    axes.set_ylabel("mean weight, %")
    axes.margins(x=0.01)
    axes.legend(fontsize="small")
    return _png(figure)


def _labels(shown: Inspection, start: int, end: int) -> list[str]:
    """Text below each token, or its number; of tokens that share a character the first has it."""
    labels = {piece.start: drawable(piece.text) for piece in shown.pieces if start <= piece.start < end}
    labels |= {piece.start: f"#{piece.start}" for piece in undrawable(shown)}
    return [labels.get(token, "\N{MIDDLE DOT}") for token in range(start, end)]


def undrawable(shown: Inspection) -> list[Piece]:
    """Pieces in the pictures none of whose characters their font has; their numbers stand for them."""
    start, end = drawn_tokens(shown)
    here = [piece for piece in shown.pieces if start <= piece.start < end]
    return [piece for piece in here if set(drawable(piece.text)) == {_UNKNOWN}]


def drawable(text: str) -> str:
    """A token's text as a picture can hold it: white space visible, short, and a square for each missing character."""
    if not text.strip():
        return "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}" if "\n" in text else "\N{OPEN BOX}"
    text = text.strip()
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[: _SHOWN_CHARACTERS - 1]}…"
    known = _characters()
    return "".join(one if one.isprintable() and ord(one) in known else _UNKNOWN for one in text)


@functools.cache
def _characters() -> frozenset[int]:
    """Characters that the pictures' font has."""
    font: Any = FT2Font(font_manager.findfont(_FONT))
    return frozenset(font.get_charmap())


def _png(figure: Figure) -> bytes:
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=_DPI, metadata={"Software": GENERATOR})
    return made.getvalue()
