"""Sections of a report on results: tables by set, presses against others, where they lose, and selectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from latentpress.evaluation.markdown import NONE, between, listed, points, ratio, table, verdict, with_interval
from latentpress.evaluation.metrics_file import chief_scope, measure_name, ratio_key
from latentpress.evaluation.resampling import UNTESTED
from latentpress.evaluation.scores import measure_title
from latentpress.evaluation.sources import POOLED
from latentpress.evaluation.systems.readers import ZERO_SHOT

_LOST_TO = (
    "systems that do not see the question, at the same ratio",
    "systems that see the question, at the same ratio",
    "bounds of no size",
)
_RATIOS = {"ratio": "ratio", "correct_only_ratio": "correct-only ratio"}
_NOTHING = {"mean": -2.0}  # below every difference


def outcome(content: Mapping[str, Any]) -> Iterator[str]:
    """How often each press is better, level and worse, in a table."""
    systems, scope = content["systems"], chief_scope(content)
    counted: dict[str, dict[str, list[str]]] = {}
    bounds: dict[str, dict[str, str]] = {}
    whole = [label for label, one in systems.items() if one["size"] is None and one["kind"] == "bound"]
    trained = {one["name"] for one in systems.values() if one["reader"] != ZERO_SHOT}
    for pair, number in _of_presses(content, scope):
        a, b = pair["a"], pair["b"]
        if b in whole:
            bounds.setdefault(a, {})[b] = number["word"]
            continue
        other = _system(content, b)
        twice = other["reader"] == ZERO_SHOT and other["name"] in trained
        told = number["word"] != UNTESTED and not twice
        if told and other["kind"] != "press" and not other["sees_question"]:
            counted.setdefault(a, {}).setdefault(number["word"], []).append(b)
    presses = _ranked([label for label, one in systems.items() if one["kind"] == "press"], content, scope)
    rows = [
        [
            f"`{label}`",
            _at(systems[label]),
            *(_count(counted.get(label, {}), word) for word in ("better", "level", "worse")),
            *(bounds.get(label, {}).get(bound, NONE) for bound in whole),
        ]
        for label in presses
    ]
    if not rows:
        return
    yield "## In short"
    yield (
        f"Each press against every other system that keeps as much and does not see the question ({_where(content)}): "
        "how many it is better than, level with and worse than, and how it stands to systems of no size. What a "
        "trained reader reads as well as an untrained one counts once, by the trained one. Better and worse are said "
        f"only where the 95% interval of the paired difference leaves zero out; {NONE} where there was none to "
        "compare with."
    )
    yield table(["press", "at", "better than", "level with", "worse than", *(f"`{bound}`" for bound in whole)], rows)


def _count(those: Mapping[str, Sequence[str]], word: str) -> str:
    return str(len(those.get(word, []))) if any(those.values()) else NONE


def scope_tables(content: Mapping[str, Any], scope: str) -> Iterator[str]:
    """Tables of one set, or of all pooled ones."""
    systems = content["systems"]
    here = [label for label, one in systems.items() if scope in one["scopes"]]
    if scope == POOLED:
        yield f"## All together: the mean of {listed(content['pooled']['sets'])}"
        away = [f"`{label}`" for label in systems if label not in here]
        if away:
            yield f"Not in these tables, as they have not answered all they are asked on every set: {', '.join(away)}."
    else:
        yield f"## {scope}"
    sized = [label for label in here if systems[label]["size"] is not None]
    groups = {
        "Systems that do not see the question while they compress": [
            label for label in sized if not systems[label]["sees_question"]
        ],
        "Systems that see the question while they compress": [
            label for label in sized if systems[label]["sees_question"]
        ],
        "Bounds: no context, and all of it": [label for label in here if systems[label]["size"] is None],
    }
    for title, labels in groups.items():
        if labels:
            yield f"### {title}"
            yield _results(content, scope, labels)


def _results(content: Mapping[str, Any], scope: str, labels: Sequence[str]) -> str:
    chosen = content["pooled"]["measure"] if scope == POOLED else content["sets"][scope]["measure"]
    others = content["sets"][content["pooled"]["sets"][0] if scope == POOLED else scope]["columns"]
    chief = ratio_key(content, scope)
    ratios = [key for key in _RATIOS if key in content["systems"][labels[0]]["scopes"][scope]]
    ratios.sort(key=lambda key: key != chief)
    header = ["system", "at", f"{measure_title(chosen)} (95%)", *map(measure_title, others), "retained"]
    header += [_RATIOS[key] for key in ratios]
    rows = []
    for label in _ranked(labels, content, scope):
        one = content["systems"][label]
        row = one["scopes"][scope]
        cells = [f"`{label}`", _at(one), with_interval(row["headline"]), *(_measured(row, name) for name in others)]
        cells += [with_interval(row["retained"]), *(ratio(row[key]) for key in ratios)]
        stored = row["bytes_per_token"]
        rows.append([*cells, NONE if stored is None else f"{stored:,.3g}", f"{row['asked']:,}", f"{row['n']:,}"])
    return table([*header, "bytes a context token", "asked", "answered"], rows)


def _measured(row: Mapping[str, Any], measure: str) -> str:
    low, high = row["intervals"].get(measure, (None, None))
    return with_interval({"mean": row[measure], "low": low, "high": high})


def losses(content: Mapping[str, Any]) -> Iterator[str]:
    """Every system that is better than a press, by what kind of system it is; the largest differences first."""
    yield "## Where presses lose"
    if not content["losses"]:
        yield "Nowhere by an interval that leaves zero out."
        return
    yield "Differences whose 95% interval leaves zero out, the largest first."
    groups: dict[str, list[Mapping[str, Any]]] = {title: [] for title in _LOST_TO}
    for loss in content["losses"]:
        other = _system(content, loss["against"])
        groups[_LOST_TO[-1] if other["size"] is None else _LOST_TO[other["sees_question"]]].append(loss)
    for title, found in groups.items():
        yield f"### To {title}"
        yield _lost(found, content, brief=title == _LOST_TO[-1]) if found else "Nowhere."


def _lost(found: Sequence[Mapping[str, Any]], content: Mapping[str, Any], *, brief: bool) -> str:
    """A table of losses; in brief the sets are only named."""
    scope = chief_scope(content)
    where: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for loss in found:
        where.setdefault((loss["press"], loss["against"]), {})[loss["scope"]] = loss
    rows = []
    largest = sorted(where.items(), key=lambda one: one[1].get(scope, min(one[1].values(), key=_mean))["mean"])
    for (press, other), by_scope in largest:
        chief = by_scope.get(scope) if scope == POOLED else None
        sets = [name for name in by_scope if name != POOLED]
        named = _named(sets, content) if brief else [f"{name} {_by(by_scope[name])}" for name in sets]
        together = [_by(chief) if chief else NONE] if scope == POOLED else []
        rows.append([f"`{press}`", f"`{other}`", *together, listed(named)])
    return table(["press", "is worse than", *(["all together by"] if scope == POOLED else []), "on"], rows)


def _mean(number: Mapping[str, Any]) -> float:
    return float(number["mean"])


def _by(number: Mapping[str, Any]) -> str:
    return f"{points(-number['mean'])} ({points(-number['high'])} to {points(-number['low'])})"


def _named(sets: Sequence[str], content: Mapping[str, Any]) -> Sequence[str]:
    """Names of sets, short if it is all of them."""
    return ["every set"] if len(sets) == len(content["sets"]) > 1 else sets


def against(content: Mapping[str, Any]) -> Iterator[str]:
    """A table for each press: its difference to every system that keeps as much."""
    systems, scope = content["systems"], chief_scope(content)
    found: dict[str, list[list[str]]] = {}
    presses = _ranked([label for label, one in systems.items() if one["kind"] == "press"], content, scope)
    order = {label: i for i, label in enumerate(presses)}
    pairs = [_from_press(pair, first) for pair in content["pairs"] for first in ("a", "b")]
    pairs = [pair for pair in pairs if pair["a"] in order]
    pairs.sort(key=lambda pair: (order[pair["a"]], -pair["scopes"].get(scope, _NOTHING)["mean"]))
    untested = any(number["word"] == UNTESTED for pair in pairs for number in pair["scopes"].values())
    told = ["better", "level", "worse", *([UNTESTED] if untested else [])]
    for pair in pairs:
        words = {name: number["word"] for name, number in pair["scopes"].items() if name != POOLED}
        chief = pair["scopes"].get(scope)
        cells = [f"`{pair['a']}`", f"`{pair['b']}`", verdict(chief), f"{chief['n']:,}" if chief else NONE]
        cells += [_side(chief, 0), _side(chief, 1)]
        by_word = ([name for name, each in words.items() if each == word] for word in told)
        cells += [listed(_named(sets, content)) for sets in by_word]
        found.setdefault(systems[pair["a"]]["name"], []).append(cells)
    if found:
        yield "## Presses against every other system at the same ratio"
        yield (
            f"The difference is of {_where(content)}, over the questions that both answered or failed at. `its ratio` "
            "and `the other's` were reached on these questions; by a star, the score was taken between two sizes, on "
            "one set or more."
        )
    for press, rows in found.items():
        yield f"### {press}"
        yield table(["press", "to", "is", "n", "its ratio", "the other's", *(f"{word} on" for word in told)], rows)


def selectors(content: Mapping[str, Any]) -> Iterator[str]:
    """What each press's selector gained, and whether more where its ratios differ more."""
    if not content["selector_gains"]:
        return
    yield "## What selectors gain over fixed ratios"
    yield (
        "The score at the ratios that the selector chose, less that of the same press at fixed ratios whose mean is "
        "the same (between two of them, by a straight line over log2 of the ratio). Spread: standard deviation of the "
        "log2 ratios of the set's contexts."
    )
    for one in content["selector_gains"]:
        rows = [
            [point["size"], point["set"], ratio(point["ratio"]), f"{point['spread'] or 0:.2f}", _signed(point)]
            for point in one["points"]
        ]
        yield f"### {one['press']}"
        yield table(["size", "set", "ratio", "spread", "gain (95%)"], rows)
        lowest = sum(point["at_lowest"] for point in one["points"])
        away = (
            f" without {lowest} of {len(rows)}, at the lowest fixed ratio, where nothing can be gained"
            if lowest
            else ""
        )
        yield f"On average{away}: {_signed(one['gain'])}." if one["gain"] else f"No average{away}."
        if one["slope"]:
            yield f"For each octave of spread the gain is larger by {_signed(one['slope'])}."


def _where(content: Mapping[str, Any]) -> str:
    scope = chief_scope(content)
    where = f"the mean of {listed(content['pooled']['sets'])}" if scope == POOLED else scope
    return f"{measure_name(content, scope)}, {where}"


def _of_presses(content: Mapping[str, Any], scope: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Pairs with a press first, and their numbers in a scope."""
    for pair in content["pairs"]:
        if content["systems"][pair["a"]]["kind"] == "press" and scope in pair["scopes"]:
            yield pair, pair["scopes"][scope]


def _from_press(pair: Mapping[str, Any], first: str) -> Mapping[str, Any]:
    """A pair as it is seen from one of its sides, `a` or `b`."""
    if first == "a":
        return pair
    turned = {"better": "worse", "worse": "better"}
    scopes = {
        name: number
        | {"mean": -number["mean"], "low": _minus(number["high"]), "high": _minus(number["low"])}
        | {"word": turned.get(number["word"], number["word"]), "ratios": number["ratios"][::-1]}
        | {"a_of": number["b_of"], "b_of": number["a_of"]}
        for name, number in pair["scopes"].items()
    }
    return {"a": pair["b"], "b": pair["a"], "scopes": scopes}


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _side(number: Mapping[str, Any] | None, side: int) -> str:
    """The ratio that a side of a pair reached, with a star if it is of a point between two sizes."""
    if number is None:
        return NONE
    return ratio(number["ratios"][side]) + ("*" if len(number["a_of" if side == 0 else "b_of"]) > 1 else "")


def _system(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A system by its label, or by what it is called without its size."""
    systems: Mapping[str, Mapping[str, Any]] = content["systems"]
    return systems[name] if name in systems else systems[content["lines"][name][0]]


def _ranked(labels: Sequence[str], content: Mapping[str, Any], scope: str) -> list[str]:
    """By the ratio that they were asked for, or that a selector came to, then the best first."""

    def key(label: str) -> tuple[float, float]:
        one = content["systems"][label]
        row = one["scopes"].get(scope)
        ratio = one["asked_ratio"] or (row["ratio"] if row and one["size"] else None)
        return ratio or float("inf"), -row["headline"]["mean"] if row else 0.0

    return sorted(labels, key=key)


def _at(system: Mapping[str, Any]) -> str:
    """What it was asked to keep."""
    return system["size"] or NONE


def _signed(number: Mapping[str, Any]) -> str:
    return f"{points(number['mean'], sign=True)}{between(number, sign=True)}"
