"""The files of an analysis: `NAME.json` with its numbers, `NAME.md` with its tables.

Pictures are drawn from the JSON file by `latentpress.plots.analyses`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentpress.errors import InputError
from latentpress.evaluation import markdown
from latentpress.evaluation.markdown import NONE, verdict, with_interval
from latentpress.evaluation.metrics_file import dump, plain
from latentpress.evaluation.sources import POOLED
from latentpress.files import write_whole

FORMAT = 1
"""Of the JSON files."""
_INTERVALS = "In brackets: 95% bootstrap intervals. Scores are in points of a hundred."
_READING: Mapping[str, str] = {
    "curves": f"{_INTERVALS} A ratio is tokens of context over latents, as it was reached over all answers. `same "
    "ratio` is the score of the first group between two of its sizes, by a straight line over log2 of the ratio, "
    "on common questions; the difference to it is paired. Over all sets, it is the mean of the sets' differences, each "
    "at the ratio that was reached there.",
    "variance": f"{_INTERVALS} The gain is the paired difference to the press's fixed ratios at the ratio that the "
    "selector came to; the variance is that of log2 of the ratio over the questions. Intervals of slope and "
    "correlation say what other questions of the same sets would have given, not what other sets would.",
    "genres": "A context counts once, however many questions are about it. `mean` is the geometric mean of the ratios, "
    "spread the standard deviation of their log2, `ratio` all tokens over all latents.",
    "rounding": "Both roundings of the same predictions. A choice is of what gets a size of its own, usually an "
    "encoder window, or the document; ratios are tokens over latents of all passages.",
    "head": "In brackets: 95% bootstrap intervals over passages. Errors are in log2 of the ratio: 1 is twice. "
    "Lines from length and from zlib's ratio are least squares on passages that are not held back.",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of an analysis."""

    title: str
    """What it is of; empty for the only one."""
    header: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[tuple[str, ...], ...]
    """Cells."""


def write(content: Mapping[str, Any], out: Path) -> list[Path]:
    """Writes the numbers and the tables of an analysis; the folder is made if need be.

    Raises:
        InputError: the folder is a file.
    """
    check_out(out)
    out.mkdir(parents=True, exist_ok=True)
    name = content["analysis"]
    written = plain({"format": FORMAT, **content})
    files = {out / f"{name}.json": dump(written), out / f"{name}.md": render(written)}
    for path, text in files.items():
        write_whole(path, text)
    return list(files)


def read(path: Path) -> dict[str, Any]:
    """Reads what `write` wrote.

    Raises:
        InputError: the file is missing, of another format, or cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        written = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); run the analysis again") from error
    if written != FORMAT:
        raise InputError(f"{path} is of format {written!r}, not {FORMAT}; run the analysis again")
    return content


def check_out(out: Path) -> None:
    """Refuses a target that is no folder before anything is computed.

    Raises:
        InputError: it is, or lies in, a file.
    """
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{place}: is a file; give a folder as --out")


def render(content: Mapping[str, Any]) -> str:
    """The analysis as Markdown."""
    name = content["analysis"]
    parts = [f"# {content['about']}", f"Computed from {content['place']}.", f"![{content['about']}]({name}.png)"]
    for table in tables(content):
        parts += [f"## {table.title}"] if table.title else []
        parts.append(markdown.table(table.header, table.rows))
    parts.append(_READING["curves" if name in _CURVES else name])
    parts += notes(content)
    return "\n\n".join(parts) + "\n"


def tables(content: Mapping[str, Any]) -> list[Table]:
    """The tables of an analysis, that which is told first in front."""
    return list(_TABLES[content["analysis"]](content))


def notes(content: Mapping[str, Any]) -> list[str]:
    """What else is to be said."""
    scores = content.get("scores") or {"notes": []}
    return [*content["notes"], *scores["notes"]]


def scope_title(content: Mapping[str, Any], scope: str) -> str:
    """What a scope of curves is called."""
    sets = len(content["scopes"]) - 1
    return f"mean of {sets} sets" if scope == POOLED else scope


def _curves(content: Mapping[str, Any]) -> Iterator[Table]:
    for scope in content["scopes"]:
        measure = content["measures"][scope]
        header = ("group", "size", "ratio", "n", measure, f"{content['reference']}, same ratio", "paired")
        rows = tuple(
            (
                row["group"],
                row["size"],
                markdown.ratio(row["ratio"]),
                f"{row['n']:,}",
                with_interval(row["score"]),
                with_interval(row["reference"]),
                verdict(row["difference"]),
            )
            for row in content["points"]
            if row["scope"] == scope
        )
        yield Table(scope_title(content, scope), header, rows)


def _variance(content: Mapping[str, Any]) -> Iterator[Table]:
    rows = tuple(
        (
            point["name"],
            point["kind"],
            f"{point['n']:,}",
            markdown.ratio(point["ratio"]),
            f"{point['variance']:.3f}",
            verdict(point["gain"]),
        )
        for point in content["points"]
    )
    yield Table("", ("set or genre", "kind", "questions", "ratio", "variance", "gain over fixed ratios"), rows)
    fits = tuple(
        (f"{kind}s", str(one["n"]), with_interval(one["slope"]), decimals(one["correlation"]))
        for kind, one in content["fits"].items()
    )
    yield Table("Straight lines", ("over", "points", "gain for each unit of variance", "correlation"), fits)


def _genres(content: Mapping[str, Any]) -> Iterator[Table]:
    header = ("genre", "contexts", "questions", "mean", "spread of log2", "quartiles", "ratio")
    rows = tuple(
        (
            row["genre"],
            f"{row['contexts']:,}",
            f"{row['questions']:,}",
            markdown.ratio(row["mean"]),
            f"{row['log2_spread']:.2f}",
            ", ".join(markdown.ratio(row[key]) for key in ("low", "middle", "high")),
            markdown.ratio(row["ratio"]),
        )
        for row in content["genres"]
    )
    yield Table("", header, rows)


def _rounding(content: Mapping[str, Any]) -> Iterator[Table]:
    chosen = content["chosen"]
    sizes = [str(size) for size in content["candidates"]]
    rows = tuple((name, *(f"{found.get(size, 0):,}" for size in sizes)) for name, found in chosen.items())
    share = f"{100 * content['differ']:.1f}% differ"
    yield Table(f"{content['choices']:,} choices at scale {content['scale']:g}: {share}", ("", *sizes), rows)
    scaled = tuple(
        (
            f"{row['scale']:g}",
            markdown.ratio(row["linear"]),
            markdown.ratio(row["log"]),
            f"{100 * row['differ']:.1f}%",
        )
        for row in content["scales"]
    )
    yield Table("At every scale", ("scale", "ratio, linear", "ratio, log", "choices that differ"), scaled)
    if content["scores"] is not None:
        yield from _curves(content["scores"])


def _head(content: Mapping[str, Any]) -> Iterator[Table]:
    rows = tuple(
        (
            row["name"],
            row["about"],
            decimals(row["mae"]),
            decimals(row["pearson"]),
            decimals(row["spearman"]),
            _ahead(row.get("ahead")),
        )
        for row in content["predictors"]
    )
    title = f"{content['press']} on {content['n']:,} passages, labels by {content['source']}"
    title += f"; lines fitted on {content['fitted_on']:,}"
    yield Table(title, ("", "what", "mean error", "correlation", "of ranks", "the head's error is"), rows)


def decimals(number: Mapping[str, Any] | None) -> str:
    """`0.52 (0.41 to 0.63)`."""
    if number is None or number["mean"] is None:
        return NONE
    between = "" if number["low"] is None else f" ({number['low']:.2f} to {number['high']:.2f})"
    return f"{number['mean']:.2f}{between}"


def _ahead(number: Mapping[str, Any] | None) -> str:
    """How much lower or higher the head's error is."""
    if number is None:
        return NONE
    told = {"better": "lower", "worse": "higher"}.get(number["word"], number["word"])
    return f"{told}: {decimals(number)}"


_CURVES = ("extraction", "policies", "sweep", "lengths")
_TABLES: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Table]]] = {
    **dict.fromkeys(_CURVES, _curves),
    "variance": _variance,
    "genres": _genres,
    "rounding": _rounding,
    "head": _head,
}
