"""Folders of results as analyses need them: read, scored and resampled once, and searched by name."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latentpress.errors import InputError
from latentpress.evaluation.comparisons import Scopes
from latentpress.evaluation.matching import Sizes, line_name
from latentpress.evaluation.metrics_file import scopes_of
from latentpress.evaluation.results import Described, Folder, QuestionSet, read_folder
from latentpress.evaluation.scores import Scored, measure_title, protocol_of, score_all, set_headline
from latentpress.evaluation.sources import POOLED

_SAME = ("protocol", "base", "answer_tokens", "shots")
"""Settings in which folders that are read together may not differ."""
_NEAREST = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What systems answered, scored."""

    place: str
    """The folders, for messages."""
    folder: Folder
    """Everything that was read."""
    scored: dict[tuple[str, str], Scored]
    """Scores by set and label."""
    scopes: Scopes
    """Sets, and all together."""
    sizes: Sizes
    """What systems kept."""

    @property
    def systems(self) -> dict[str, Described]:
        """Systems by label."""
        return dict(self.folder.systems)

    @property
    def scope_names(self) -> list[str]:
        """All sets together, where there are several of one measure, then each set."""
        names = [one.name for one in self.folder.sets]
        return [POOLED, *names] if len(self.scopes.pooled) > 1 else names

    def measure(self, scope: str) -> str:
        """What systems are ranked by in a scope, for people."""
        name = self.scopes.pooled[0] if scope == POOLED else scope
        (asked,) = [one for one in self.folder.sets if one.name == name]
        return measure_title(set_headline(asked, protocol_of(self.folder)))

    def labels(self, name: str, *, chosen: bool) -> list[str]:
        """Labels of a system at its fixed ratios, or of its selector at all scales; those that keep most first.

        Args:
            name: of the system, without size.
            chosen: its selector's.

        Raises:
            InputError: no such system; with the nearest names.
        """
        every = {label: one for label, one in self.systems.items() if line_name(one) == name and one.size is not None}
        if not every:
            raise InputError(unknown("system", name, self.names, self.place))
        sizes = {label: one.size for label, one in every.items() if one.size is not None}
        found = [label for label, size in sizes.items() if size.chosen == chosen]

        def rank(label: str) -> float:
            size = sizes[label]
            return size.scale if chosen else size.ratio or -(size.length or 0)

        return sorted(found, key=rank)

    @property
    def names(self) -> list[str]:
        """Systems without their sizes, presses first."""
        order = sorted(self.systems.values(), key=lambda one: one.kind != "press")
        return list(dict.fromkeys(line_name(one) for one in order if one.size is not None))

    def unfinished(self, labels: Iterable[str]) -> list[str]:
        """Says of which systems answers are still missing; pooled numbers leave those out."""
        missing = [label for label in dict.fromkeys(labels) if label in self.scopes.incomplete]
        if not missing:
            return []
        return [f"Not all questions are answered yet, so no number over all sets, of: {', '.join(missing)}."]

    def command(self, name: str, sizes: Sequence[str]) -> str:
        """The command that adds sizes of a system to the first folder."""
        told = [str(word) for word in self.folder.settings.get("asked_how", {}).get("command", [])]
        words = told or ["latentpress", "eval", "--data", "SET", "--out", self.place]
        given = ""
        if "--with" in words[:-1]:
            at = words.index("--with")
            given = words[at + 1]
            words = words[:at] + words[at + 2 :]
        called = [one.rpartition("@")[0] or one for one in given.split(",")]
        word = next((one for one in called if one == name or one.startswith(f"{name}=")), name)
        return shlex.join([*words, "--with", f"{word}@{'/'.join(sizes)}"])


def read(places: Sequence[Path]) -> Comparison:
    """Reads one folder of results, or several that asked the same questions, as one.

    Raises:
        InputError: a folder is none of results, has no answers, or does not go with the first.
    """
    first, *others = [(place, read_folder(place)) for place in places]
    folder = first[1]
    for place, other in others:
        folder = _joined(folder, other, f"{first[0]} and {place}")
    every = ", ".join(map(str, places))
    if not folder.predictions:
        raise InputError(f"{every} holds no answers; let `latentpress eval` write some, or give another folder")
    return of_folder(folder, every)


def of_folder(folder: Folder, place: str) -> Comparison:
    """Scores and resamples a folder."""
    scored = score_all(folder)
    return Comparison(place=place, folder=folder, scored=scored, scopes=scopes_of(folder, scored), sizes=Sizes(scored))


def by_source(folder: Folder, *, least: int) -> tuple[Folder, dict[str, int]]:
    """A folder whose sets are cut by the sources of their questions, `SET: SOURCE`.

    Args:
        folder: its sets; those without or of a single source are left out.
        least: questions below which a source is left out.

    Returns:
        The folder, and the sources that are left out with their numbers of questions.
    """
    sets: list[QuestionSet] = []
    few: dict[str, int] = {}
    predictions = {}
    for one in folder.sets:
        sources = dict.fromkeys(question.source for question in one.questions if question.source)
        for source in sources if len(sources) > 1 else ():
            places = [i for i, question in enumerate(one.questions) if question.source == source]
            name = f"{one.name}: {source}"
            if len(places) < least:
                few[name] = len(places)
                continue
            sets.append(replace(one, name=name, questions=tuple(one.questions[i] for i in places)))
            for (of, label), rows in folder.predictions.items():
                if of == one.name:
                    predictions[name, label] = {new: rows[i] for new, i in enumerate(places) if i in rows}
    asked = dict.fromkeys(predictions, 0)  # how many of a source a system is asked is not known
    return replace(folder, sets=tuple(sets), predictions=predictions, asked=asked), few


def unknown(kind: str, name: str, known: Sequence[str], place: str) -> str:
    """Message about a name that is not there, with the nearest that are."""
    if not known:
        return f"{kind} {name!r} is not in {place}, which holds none; add it with `latentpress eval`"
    nearest = difflib.get_close_matches(name, known, n=_NEAREST, cutoff=0.4) or list(known)[: 2 * _NEAREST]
    more = f" and {len(known) - len(nearest)} more" if len(known) > len(nearest) else ""
    return f"{kind} {name!r} is not in {place}; it holds {', '.join(nearest)}{more}"


def _joined(folder: Folder, other: Folder, places: str) -> Folder:
    """Two folders as one."""
    for key in _SAME:
        one, two = folder.settings.get(key), other.settings.get(key)
        if one != two:
            raise InputError(f"{places} were asked otherwise ({key}: {one!r} and {two!r}); analyse them one by one")
    sets = {one.name: one for one in folder.sets}
    for one in other.sets:
        if sets.setdefault(one.name, one).digest != one.digest:
            raise InputError(f"{places} ask other questions as set {one.name!r}; analyse them one by one")
    systems: dict[str, Described] = dict(folder.systems)
    for label, described in other.systems.items():
        if systems.setdefault(label, described) != described:
            raise InputError(
                f"{places} hold different systems of the name {label!r}; name one of them otherwise "
                "(`latentpress eval --with MINE=FOLDER`), or analyse them one by one"
            )
    merged: dict[str, Any] = {
        "sets": tuple(sets.values()),
        "systems": systems,
        "predictions": {**other.predictions, **folder.predictions},
        "asked": {**other.asked, **folder.asked},
        "failed": {**other.failed, **folder.failed},
    }
    return replace(folder, **merged)
