"""How the presses of a plan are judged: `latentpress eval`, stopped when time is up and gone on with later."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latentpress.cli.comparison import make_setup, settings_of
from latentpress.errors import TrainingError
from latentpress.evaluation import report, runner
from latentpress.evaluation.datasets import Selection, read_dataset
from latentpress.evaluation.markdown import with_interval
from latentpress.evaluation.protocols import find_protocol
from latentpress.evaluation.sources import find_sources
from latentpress.evaluation.systems import Size, make_systems
from latentpress.evaluation.systems.named import press_names
from latentpress.loading import load
from latentpress.press import Press
from scripts.gpu_recipe.plan import Judging

_SHOWN = ("n", "headline", "retained", "ratio", "exact_match", "f1")


class _TimeUp(Exception):  # noqa: N818 - no error
    """Leaves a comparison whose answers are kept."""


def judge(
    judging: Judging,
    *,
    presses: Mapping[str, Path],
    find: Callable[[str], Path],
    base: str,
    out: Path,
    deadline: float | None,
) -> dict[str, Any] | None:
    """Has every system answer every set, or goes on with that.

    Args:
        judging: what is asked of whom.
        presses: folder of the press of each stage.
        find: finds a file of data by its name.
        base: base model of all of them.
        out: folder of results; see `latentpress.evaluation.runner`.
        deadline: `time.monotonic()` at which it stops, after one batch at least; None for no limit.

    Returns:
        Scores by system and set, with 95% intervals; None while answers are missing.

    Raises:
        InputError: a set, a system or a size is not to be had.
        TrainingError: a system could not answer.
    """
    opened = functools.cache(functools.partial(load, base=base))
    names = [_named(text, presses) for text in judging.systems]
    rules = find_protocol("default")
    first: Press = opened(press_names(names)[0] if press_names(names) else str(next(iter(presses.values()))))
    selection = Selection(limit=judging.limit, seed=judging.seed)
    sources = find_sources([_placed(word, find) for word in judging.data])
    sets = [read_dataset(source, count_tokens=first.count_tokens, selection=selection) for source in sources]
    prompt = rules.reader_prompt(first.config.prompt, {question.kind for one in sets for question in one.questions})
    tuned = None if judging.reader is None else str(presses[judging.reader])
    setup = make_setup(first, opened, prompt, judging.seed, {"tuned": tuned}, {})
    systems, _ = make_systems(names, setup, [Size.parse(word) for word in ("4", "8", "16")], opened)
    comparison = runner.Comparison(
        out=out,
        sets=sets,
        systems=systems,
        settings=settings_of(setup, rules, judging.seed, None),
        answer_tokens={kind: rules.answer_tokens(kind) for kind in ("span", "summary", "choice")},
    )
    started: list[None] = []

    def watch(_: runner.Progress) -> None:
        if started and deadline is not None and time.monotonic() >= deadline:
            raise _TimeUp
        started.append(None)

    try:
        outcome = runner.run(comparison, watch)
    except _TimeUp:
        return None
    content = report.write(out)
    if outcome.failed:
        raise TrainingError(f"not every system could answer: {outcome.failed}; see {out / 'failed.json'}")
    return scores(content)


def _named(text: str, presses: Mapping[str, Path]) -> str:
    """The system as `latentpress eval` calls it: of a stage's name, the folder of its press under that name."""
    name, at, sizes = text.partition("@")
    return f"{name}={presses[name]}{at}{sizes}" if name in presses else text


def _placed(word: str, find: Callable[[str], Path]) -> str:
    name, equals, file = word.partition("=")
    return f"{name}={find(file)}" if equals else str(find(word))


def scores(content: Mapping[str, Any]) -> dict[str, Any]:
    """The chief numbers of `metrics.json`, by system and set.

    Args:
        content: what is in the file.
    """
    return {
        label: {
            scope: {key: numbers[key] for key in _SHOWN if numbers.get(key) is not None}
            for scope, numbers in system["scopes"].items()
        }
        for label, system in content["systems"].items()
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """A line for each system: its headline score on each set, in points of a hundred, with its interval.

    Args:
        found: what `scores` gives.
    """
    told = {
        label: [f"{name} {with_interval(one['headline'])}" for name, one in sets.items()]
        for label, sets in found.items()
    }
    return [f"{label}: {', '.join(sets)}" for label, sets in told.items()]
