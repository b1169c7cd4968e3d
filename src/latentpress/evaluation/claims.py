"""The papers' claims beside what was measured here. Our numbers come from files of results alone.

Found below a folder of results, at any depth:

- `metrics.json` of a comparison: what a press's selector gains over its own fixed ratios. The same selector on the same
  questions counts once, however many files hold it;
- `results.json` of the ablations (`python -m benchmarks.ablations`): each variant's loss of held-back answers at x4;
- `evidence.json`: which two systems of a comparison stand for the two sides of a claim, trained alike but for what the
  claim is about, which no program can see:

        {"format": 1, "evidence": [
          {"claim": "mean-pooling-over-last-tokens", "metrics": "pooling/metrics.json",
           "first": "mean-x4", "second": "last-x4", "scope": "pooled",
           "note": "Both had an hour, where the paper trains for days."}]}

  `metrics` is relative to the file; `scope` is a set or `pooled`; a claim may have several entries. `note` may be left
  out: a sentence that says why this evidence does not decide the claim, which it then does not.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from latentpress.errors import InputError
from latentpress.evaluation import markdown
from latentpress.evaluation.metrics_file import NAME, read_metrics
from latentpress.evaluation.published import CLAIMS, Published

Verdict = Literal["holds", "does not hold", "no fair test", "not yet decided", "not yet measured"]
HEADER = ("paper", "claim", "published", "ours", "verdict", "from")
"""Of the table."""
_REMEDY = "correct or remove it"
_WHOLE = "comprexit"
_ABLATED = {
    "loss-without-transport": "window attention",
    "loss-with-embeddings-only": "embedding layer",
    "loss-with-last-layer": "last layer",
}
_SINGLE = "loss-with-best-single-layer"
# Student's t, 95% on both sides, by degrees of freedom; more than ten are taken for ten, which widens the interval.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One number of ours: what the claimed side is ahead by."""

    mean: float
    """The difference; in points of a hundred as a share of one, or in `unit`."""
    low: float | None
    """Lower end of its 95% interval; None without one."""
    high: float | None
    """Upper end."""
    unit: str
    """`points`, or nats a token."""
    source: str
    """The file, and what in it."""
    note: str | None = None
    """Why it does not decide the claim; None if it may."""

    def __str__(self) -> str:
        """`+7.0 (+4.1 to +9.9) points`."""
        if self.low is None or self.high is None:
            return f"{self.shown(self.mean)} {self.unit}, no interval"
        return f"{self.shown(self.mean)} ({self.shown(self.low)} to {self.shown(self.high)}) {self.unit}"

    def shown(self, value: float) -> str:
        """A number of this unit: `+7.0`."""
        return f"{100 * value:+.1f}" if self.unit == "points" else f"{value:+.2f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A published claim with our measurements of it."""

    published: Published
    """The claim."""
    ours: tuple[Measured, ...]
    """What was measured; empty if nothing was."""
    verdict: Verdict
    """`holds` if every interval lies on the claimed side as a whole, `does not hold` if every one on the other; what
    has a note does not count, and `no fair test` is said where nothing else was measured."""

    @property
    def told(self) -> str:
        """The verdict in words, with what leaves it open, and with the notes."""
        notes = " ".join(dict.fromkeys(one.note for one in self.ours if one.note is not None))
        if self.verdict == "no fair test":
            return f"{self.verdict}: {notes}"
        return f"{self._decided} (left out: {notes})" if notes else self._decided

    @property
    def _decided(self) -> str:
        """The verdict, with what leaves it open."""
        if self.verdict != "not yet decided":
            return self.verdict
        edge = self.published.above
        for one in self.ours:
            if one.note is None and one.low is not None and one.high is not None and one.low <= edge <= one.high:
                return f"{self.verdict} (interval includes {one.shown(edge) if edge else '0'} {one.unit})"
        if any(one.note is None and one.low is None for one in self.ours):
            return f"{self.verdict} (no interval)"
        return f"{self.verdict} (intervals on both sides)"


def claims() -> tuple[Published, ...]:
    """Every claim of both papers that is tested."""
    return CLAIMS


def table(results: Path | None = None) -> list[Claim]:
    """Every claim, with what the files below a folder say to it.

    Args:
        results: a folder of results, or one that holds several; None for no evidence.

    Raises:
        InputError: the folder is missing, or a file in it names what is not there.
    """
    if results is not None and not results.is_dir():
        raise InputError(f"{results} is no folder; give one that holds results")
    found: dict[str, list[Measured]] = {}
    for claim, measured in [] if results is None else _evidence(results):
        found.setdefault(claim, []).append(measured)
    return [_judged(one, found.get(one.id, ())) for one in claims()]


def _judged(published: Published, ours: Sequence[Measured]) -> Claim:
    """A claim with its verdict; a number without an interval, or with a note, decides nothing."""
    fair = [one for one in ours if one.note is None]
    intervals = [(one.low, one.high) for one in fair if one.low is not None and one.high is not None]
    verdict: Verdict = "not yet decided" if fair else "no fair test" if ours else "not yet measured"
    if intervals:
        if all(low > published.above for low, _ in intervals):
            verdict = "holds"
        elif all(high < published.above for _, high in intervals):
            verdict = "does not hold"
    return Claim(published=published, ours=tuple(ours), verdict=verdict)


def rows(every: Sequence[Claim]) -> list[tuple[str, ...]]:
    """Cells of a table: the header, then a row a claim."""
    return [HEADER, *map(_row, every)]


def caveats() -> tuple[str, ...]:
    """What to know when the claims are read, a line each."""
    return (
        "Ours is what the claimed side is ahead by, with its 95% interval. A claim holds if the whole interval is on "
        "the claimed side, and does not hold if it is on the other; otherwise our numbers are too few to decide. "
        "There is no fair test where all that was measured has a note why it decides nothing.",
        "A selector's sizes and sets that come within 5% of the lowest fixed ratio measured of its press are left out "
        "of the gain over fixed ratios, since the paper claims none there; what several files hold counts once.",
        "Losses of ablations are those of held-back answers, in nats a token, not F1.",
        "Base models, data and budgets are far smaller here than in the papers.",
    )


def to_markdown(every: Sequence[Claim]) -> str:
    """The claims as a table, below what to know."""
    return f"{' '.join(caveats())}\n\n{markdown.table(HEADER, map(_row, every))}\n"


def _row(one: Claim) -> tuple[str, ...]:
    ours = "; ".join(map(str, one.ours)) or markdown.NONE
    sources = "; ".join(measured.source for measured in one.ours) or markdown.NONE
    return one.published.paper, one.published.says, one.published.figure, ours, one.told, sources


def _evidence(results: Path) -> Iterator[tuple[str, Measured]]:
    """Measurements by claim, from every file that holds any."""
    comparisons = {}
    for path in sorted(results.rglob("*.json")):
        name = str(path.relative_to(results))
        if path.name == NAME and "selector_gains" in _object(path):
            comparisons[name] = path
        elif path.name == "results.json" and _is_ablations(content := _content(path)):
            with _reading(path, "file of ablations"):
                yield from _of_ablations({row["variant"]: row for row in content}, name)
        elif path.name == "evidence.json":
            yield from _of_pairs(path, name)
    yield from _of_selectors(comparisons)


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {_REMEDY}") from error


def _object(path: Path) -> Mapping[str, Any]:
    """What a file holds, which is an object.

    Raises:
        InputError: it cannot be read, or is none.
    """
    content = _content(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; {_REMEDY}")
    return content


@contextlib.contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Turns whatever goes wrong where a file is not laid out as it should be into an error that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no {what} ({error!r}); {_REMEDY}") from error


def _of_selectors(comparisons: Mapping[str, Path]) -> Iterator[tuple[str, Measured]]:
    """What selectors gain in comparisons, by name of the file.

    Raises:
        InputError: a file is of another format, or not laid out as one of a comparison.
    """
    gained: set[str] = set()
    sloped: set[str] = set()
    read: list[tuple[int, str, dict[str, Any]]] = []
    for name, path in comparisons.items():
        with _reading(path, "file of a comparison"):
            metrics = read_metrics(path.parent)
            read.append((sum(len(one["points"]) for one in metrics["selector_gains"]), name, metrics))
    for _, name, metrics in sorted(read, key=lambda one: -one[0]):  # one that holds another's points comes before it
        with _reading(comparisons[name], "file of a comparison"):
            for one in metrics["selector_gains"]:
                source = f"{name}: {one['press']}"
                points = {_identity(metrics, one["press"], point): point for point in one["points"]}
                new = {
                    key: point
                    for key, point in points.items()
                    if key not in gained and point["mean"] is not None and not point["at_lowest"]
                }
                gained |= new.keys()
                if new:
                    above = [point for point in one["points"] if not point["at_lowest"]]
                    gain = one["gain"] if len(new) == len(above) else _mean(new.values())
                    of = f"{len(new)} of {len(one['points'])} sizes and sets"
                    yield "semi-dynamic-over-fixed", _measured(gain, "points", f"{source}, {of}")
                slope = one["slope"]
                if slope is not None and slope["mean"] is not None and not points.keys() <= sloped:
                    sloped |= points.keys()
                    yield "gain-grows-with-variance", _measured(slope, "points", f"{source}, an octave of spread")


def _identity(metrics: Mapping[str, Any], press: str, point: Mapping[str, Any]) -> str:
    """What the gain of a selector depends on, whatever the press and the set are called there."""
    asked = ("press", press, point["size"])
    (system,) = [one for one in metrics["systems"].values() if (one["kind"], one["name"], one["size"]) == asked]
    protocol, digest = metrics["protocol"]["name"], metrics["sets"][point["set"]]["digest"]
    return json.dumps([system["identity"], point["size"], protocol, digest], sort_keys=True)


def _mean(points: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean of some gains. Its interval, the mean of theirs, is too wide rather than too narrow.

    It would be right if they rose and fell together; resamples, which know how they do, are not in the file.
    """
    ends = {end: [point[end] for point in points] for end in ("mean", "low", "high")}
    return {end: None if None in values else statistics.fmean(values) for end, values in ends.items()}


def _is_ablations(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(row, dict) and {"variant", "seeds", "eval_x4_answer"} <= row.keys() for row in content
    )


def _of_ablations(by_variant: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[tuple[str, Measured]]:
    """How much more each variant loses than the whole, seed by seed."""
    losses = {
        variant: dict(zip(row["seeds"], map(float, row["eval_x4_answer"]), strict=True))
        for variant, row in by_variant.items()
    }
    whole = losses.get(_WHOLE)
    if whole is None:
        return
    inner = [one for one in losses if one.startswith("layer ")]
    outer = [one for one in losses if one in ("embedding layer", "last layer")]
    # Without one between them, the best of the outer layers says nothing of the best of all.
    best = min(inner + outer, key=lambda one: statistics.fmean(losses[one].values())) if inner else None
    for claim, variant in {**_ABLATED, _SINGLE: best}.items():
        if variant is None or variant not in losses:
            continue
        more = [losses[variant][seed] - whole[seed] for seed in whole if seed in losses[variant]]
        if more:
            seeds = f"{len(more)} seed{'s' if len(more) > 1 else ''}"
            yield claim, _measured(_over_seeds(more), "nats a token", f"{name}: {variant}, {seeds}")


def _over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and Student's interval; none for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    away = _STUDENT[min(len(values) - 2, len(_STUDENT) - 1)] * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - away, "high": mean + away}


def _of_pairs(path: Path, name: str) -> Iterator[tuple[str, Measured]]:
    """What an `evidence.json` points at.

    Raises:
        InputError: it names a claim, a file, a pair or a set that is not there.
    """
    content = _object(path)
    known = {one.id for one in claims()}
    with _reading(path, "list of evidence"):
        if content["format"] != 1:
            raise InputError(f"{path} is of format {content['format']!r}, not 1; {_REMEDY}")
        for entry in content["evidence"]:
            if entry["claim"] not in known:
                raise InputError(f"{path} names the claim {entry['claim']!r}; claims are {', '.join(sorted(known))}")
            first, second, scope = entry["first"], entry["second"], entry.get("scope", "pooled")
            note = _note(path, entry)
            metrics = read_metrics((path.parent / entry["metrics"]).parent)
            number = _difference(metrics, first, second, scope)
            if number is None:
                raise InputError(
                    f"{path} compares {first!r} with {second!r} on {scope!r}, which {entry['metrics']} does not"
                )
            measured = _measured(number, "points", f"{name}: {first} to {second}, {scope}")
            yield entry["claim"], replace(measured, note=note)


def _note(path: Path, entry: Mapping[str, Any]) -> str | None:
    """Why an entry does not decide its claim, on one line; None if it has no note."""
    if "note" not in entry:
        return None
    note = entry["note"]
    if not isinstance(note, str) or not note.strip():
        raise InputError(
            f"{path} has the note {note!r} on {entry['claim']!r}; write a sentence that says why the evidence does not "
            "decide the claim, or remove the note"
        )
    return " ".join(note.split())


def _difference(metrics: Mapping[str, Any], first: str, second: str, scope: str) -> Mapping[str, Any] | None:
    """Paired difference of two systems, whichever way round it is kept."""
    for pair in metrics["pairs"]:
        number: Mapping[str, Any] | None = pair["scopes"].get(scope)
        if number is None:
            continue
        if (pair["a"], pair["b"]) == (first, second):
            return number
        if (pair["b"], pair["a"]) == (first, second):
            low, high = (None if number[end] is None else -number[end] for end in ("high", "low"))
            return {"mean": -number["mean"], "low": low, "high": high}
    return None


def _measured(number: Mapping[str, Any], unit: str, source: str) -> Measured:
    """A number of a file, which has to be one.

    Raises:
        ValueError: it is none.
    """
    mean, low, high = (number[key] for key in ("mean", "low", "high"))
    given = [mean, *(end for end in (low, high) if end is not None)]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in given):
        raise ValueError(f"mean {mean!r}, low {low!r}, high {high!r} are no numbers")
    return Measured(mean=mean, low=low, high=high, unit=unit, source=source)
