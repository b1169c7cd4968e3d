"""A folder of results as a selector with texts of different density would give it, for the tests of analyses."""

from __future__ import annotations

import math
import random
from pathlib import Path

from made_results import Reply, Results, question, system

RATIOS = (2, 4, 8, 16, 32)
SCALES = tuple(step / 2 for step in range(-4, 9))
TOKENS = 256


def chosen(y: float) -> int:
    """The candidate nearest to 2^y."""
    return min(RATIOS, key=lambda ratio: abs(ratio - 2**y))


def swept_folder(
    out: Path,
    *,
    sets: int = 3,
    genres: int = 3,
    questions: int = 60,
    scales: tuple[float, ...] = SCALES,
    press: str = "mine",
) -> Results:
    """Sets of questions from several genres, each with a density of its own; sets differ in how far apart these are.

    A question is answered right where the ratio is below a limit near the text's density, so a selector that knows the
    density gains over fixed ratios, the more the densities differ.
    """
    draw = random.Random(0)
    made = Results(out)
    for number in range(sets):
        name = f"set{number}"
        apart = 0.9 * number
        asked, densities, limits = [], [], []
        for i in range(questions):
            genre = i % genres
            density = 2.5 + apart * (genre - (genres - 1) / 2) + draw.gauss(0, 0.2)
            asked.append(question(f"q{i}", "yes", context=f"{name}-{i // 2}") | {"source": f"genre{genre}"})
            densities.append(density)
            limits.append(density + draw.gauss(0.5, 1.0))
        made.ask(name, asked)

        def replies(ratios: list[int], limits: list[float] = limits) -> list[Reply]:
            right = [math.log2(ratio) <= limit for ratio, limit in zip(ratios, limits, strict=True)]
            return [("yes" if one else "no", TOKENS, TOKENS // r) for one, r in zip(right, ratios, strict=True)]

        for ratio in RATIOS:
            made.answer(name, system(press, f"x{ratio}"), replies([ratio] * questions))
        for scale in scales:
            size = f"auto{scale:+g}" if scale else "auto"
            made.answer(name, system(press, size), replies([chosen(one + scale) for one in densities]))
    return made
