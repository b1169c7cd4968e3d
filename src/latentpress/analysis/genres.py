"""What a selector chooses for which texts: the ratio that contexts came to, by where they come from."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentpress.analysis.comparison import Comparison
from latentpress.analysis.curves import scaled_labels
from latentpress.errors import InputError


def genres(comparison: Comparison, press: str, *, scale: float = 0.0) -> dict[str, Any]:
    """Ratios by genre; a context counts once, however many questions are about it.

    Args:
        comparison: with the selector at the scale.
        press: its name in the folder.
        scale: of the selector.

    Returns:
        Plain data. `genres`, the lowest mean first: `genre` (the source of the questions' records, the set where the
        folder does not say), `contexts`, `questions`, `log2_mean`, `log2_spread` (standard deviation), `mean` (ratio of
        the mean of log2), `ratio` (tokens over latents), `low`, `middle`, `high` (quartiles) and `ratios` of each.

    Raises:
        InputError: the press is not there or lacks the scale, or has answered nothing.
    """
    (label,) = scaled_labels(comparison, press, [scale])
    contexts: dict[str, dict[object, tuple[float, float]]] = {}
    questions: dict[str, int] = {}
    unknown = []
    for one in comparison.folder.sets:
        found = comparison.scored.get((one.name, label))
        if found is None:
            continue
        if not all(question.source for question in one.questions):
            unknown.append(one.name)
        for place in np.flatnonzero(found.kept > 0).tolist():
            asked = one.questions[place]
            genre = asked.source or one.name
            key = (one.name, place) if asked.context is None else asked.context
            contexts.setdefault(genre, {})[key] = (float(found.tokens[place]), float(found.kept[place]))
            questions[genre] = questions.get(genre, 0) + 1
    if not contexts:
        command = comparison.command(press, [str(comparison.systems[label].size)])
        raise InputError(f"{label} has answered nothing in {comparison.place}; go on with `{command}`")
    rows = [_row(genre, list(sizes.values())) | {"questions": questions[genre]} for genre, sizes in contexts.items()]
    notes = comparison.unfinished([label])
    if unknown:
        notes.append(
            f"Of {', '.join(unknown)} the folder does not say where questions come from, so the set stands for the "
            "genre; a folder begun anew says it."
        )
    return {
        "analysis": "genres",
        "about": "What the selector chooses, by where texts come from",
        "place": comparison.place,
        "press": press,
        "scale": scale,
        "genres": sorted(rows, key=lambda row: float(row["log2_mean"])),
        "notes": notes,
    }


def _row(genre: str, sizes: list[tuple[float, float]]) -> dict[str, Any]:
    tokens, kept = np.array(sizes).T
    ratios = tokens / kept
    log2 = np.log2(ratios)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    return {
        "genre": genre,
        "contexts": len(sizes),
        "log2_mean": float(log2.mean()),
        "log2_spread": float(log2.std()),
        "mean": float(2 ** log2.mean()),
        "ratio": float(tokens.sum() / kept.sum()),
        "low": low,
        "middle": middle,
        "high": high,
        "ratios": np.sort(ratios).round(4).tolist(),
    }
