"""Systems by name, as `--with` gives them: `semidynamic-smollm2-135m@2/4/auto`, `mine=runs/a/press@4`, `full:tuned`."""

from __future__ import annotations

import difflib
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latentpress.errors import InputError, RatioError
from latentpress.evaluation.systems.base import Family, Setup, Size, System
from latentpress.evaluation.systems.bounds import BOUNDS

if TYPE_CHECKING:
    from latentpress.evaluation.systems.presses import PressSystem
    from latentpress.press import Press

_TRAINED_BY = {"reader": "tuned", "prompt-tuning": "prompt-tuned"}  # readers by the recipes that train them
_OPTIONS = {"tuned": "--reader", "prompt-tuned": "--prompt-tuned"}
_FOCUS = re.compile(r"(.+?):focus(\d+)(@[^@]*)?")
_OF_PRESSES = "only a press has lengths, or a selector that chooses"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What one name asks for."""

    name: str
    """Of a family, or a press."""
    alias: str | None
    """What a press is called, if not by its own name."""
    reader: str | None
    """The one reader asked for, of a family."""
    focus: int | None
    """Windows that a press reads for a question, all if None."""
    sizes: tuple[Size, ...]
    """Sizes asked for; none: the default ones."""


def families() -> dict[str, Family]:
    """Bounds and peers by name; presses need no family."""
    from latentpress.evaluation.systems.peers import PEERS

    return BOUNDS | PEERS


def make_systems(
    names: Sequence[str], setup: Setup, sizes: Sequence[Size], load: Callable[[str], Press]
) -> tuple[list[System], list[str]]:
    """Makes systems by name.

    Args:
        names: `NAME[:READER][@SIZE/SIZE/...]` each: a family, or a press by shipped name, folder or hub id, which
            `ALIAS=NAME` calls otherwise. Case matters to folders and hub ids alone. Without a reader, a family is given
            all of its readers that the setup has. Of a press, the reader `focus2` is its decoder that reads two windows
            for each question (`Press.focus`).
        setup: what they share.
        sizes: where a name gives none; those that a press was not trained for are passed over.
        load: loads a press by name.

    Returns:
        The systems, in the order of the names, and a line for everything that was passed over.

    Raises:
        InputError: an unknown name, with the nearest ones; a reader or size that cannot be; a system named twice; a
            press on another base model.
        RatioError: a size given with a press that was not trained for it.
    """
    table, loaded = families(), functools.cache(load)
    notes: list[str] = []
    systems: list[System] = []
    for wanted in _all_wanted(names, table):
        if wanted.name in table:
            systems += _of_family(table[wanted.name], wanted, setup, sizes, notes)
        else:
            systems += _of_press(wanted, setup, sizes, loaded(wanted.name), notes)
    _check_names(systems)
    twice = [label for label, count in Counter(system.label for system in systems).items() if count > 1]
    if twice:
        raise InputError(f"{', '.join(twice)} would be compared with itself; name each system once")
    if any(wanted.name not in table for wanted in (_wanted(name, table) for name in names)):
        from latentpress.evaluation.systems.presses import share_compressions

        share_compressions(systems)
    return systems, list(dict.fromkeys(notes))


def press_names(names: Sequence[str]) -> list[str]:
    """Presses that are named, by shipped name, folder or hub id, without loading any.

    Raises:
        InputError: an unknown name, with the nearest ones.
    """
    table = families()
    return [wanted.name for wanted in _all_wanted(names, table) if wanted.name not in table]


def find_peers(names: Sequence[str], interpreters: Mapping[str, Path]) -> None:
    """Looks up the packages of all peers that are named, without starting any.

    Args:
        names: as `make_systems` takes them.
        interpreters: by package, where they are given.

    Raises:
        InputError: one is not there, and how to get it.
    """
    from latentpress.evaluation.systems.peers.environments import find

    table = families()
    for package in dict.fromkeys(table[one.name].package for one in _all_wanted(names, table) if one.name in table):
        if package:
            find(package, interpreters)


def _all_wanted(names: Sequence[str], table: dict[str, Family]) -> list[_Wanted]:
    return [_wanted(name, table) for name in names]


def _wanted(text: str, table: dict[str, Family]) -> _Wanted:
    """Reads a name."""
    text = text.strip()
    focus = None
    if (match := _FOCUS.fullmatch(text)) and match[1].casefold() not in table and not _is_folder(text):
        text, focus = match[1] + (match[3] or ""), int(match[2])
        if not focus:
            raise InputError(f"{match[0]!r} reads no window; give :focus1 or more, or leave it out to read all")
    # The last @, unless it is part of a folder's name.
    at = len(text) if "@" not in text or _is_folder(text) else text.rindex("@")
    name, given = text[:at], text[at + 1 :]
    alias, equals, rest = name.partition("=")
    named = bool(equals) and not Path(name).is_dir()
    if named and not re.fullmatch(r"[\w.+-]+", alias):
        raise InputError(f"{text!r} gives a press a name that files cannot have; use letters, digits, -, _, . and +")
    name = rest if named else name
    if name.partition(":")[0] not in table and "/" not in name and not _is_folder(name):
        name = _spelt(name, table)
    family, _, reader = name.partition(":")
    sizes = tuple(map(Size.parse, given.split("/"))) if at < len(text) else ()
    if family not in table:
        return _Wanted(name, alias if named else None, None, focus, sizes)
    if named:
        raise InputError(f"{text!r} names a bound or peer, which keeps its own name; give {rest!r}")
    return _Wanted(family, None, reader or None, None, sizes)


def _is_folder(name: str) -> bool:
    return bool(name) and Path(name).is_dir()


def _spelt(name: str, table: dict[str, Family]) -> str:
    """The name of a bound, peer or shipped press as it is spelt, from one in any case; a reader's name stays."""
    from latentpress.loading import shipped_presses

    shipped = shipped_presses()
    word, colon, reader = name.partition(":")
    found = {one.casefold(): one for one in (*table, *shipped)}.get(word.casefold())
    if found is None:
        raise InputError(
            f"unknown system {name!r}: neither a bound or peer, nor a shipped press, nor the folder of one; "
            f"{_meant(word.casefold(), table, list(shipped))}`latentpress eval --list` shows all"
        )
    if colon and found in shipped:
        raise InputError(
            f"{name!r} asks for a reader, and a press is read by its own decoder; give {found!r}, or {found}:focus2 to "
            "have it read two windows for each question"
        )
    return f"{found}{colon}{reader}"


def _meant(word: str, table: dict[str, Family], shipped: Sequence[str]) -> str:
    """What an unknown name may mean, as a part of a message; empty if nothing is near."""
    known = [*table, *shipped]
    longer = [name for name in known if word and name.startswith(word)]
    if longer:
        return f"did you mean {' or '.join(longer)}? "
    readers = {reader: reader for family in table.values() for reader in family.readers} | _TRAINED_BY
    for near in difflib.get_close_matches(word, readers, n=1, cutoff=0.75):
        return f"a reader stands behind a bound or peer, as in full:{readers[near]}; "
    packages: dict[str, list[str]] = {}
    for family in table.values():
        packages.setdefault(family.package, []).append(family.name)
    for near in difflib.get_close_matches(word, packages.keys() - {"", *table}, n=1, cutoff=0.75):
        return f"{near} has {', '.join(packages[near])}; "
    nearest = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(nearest)}? " if nearest else ""


def _of_family(
    family: Family, wanted: _Wanted, setup: Setup, default: Sequence[Size], notes: list[str]
) -> Iterator[System]:
    readers = _readers(family, wanted.reader, setup, notes)
    for size in _sizes(family, wanted.sizes, default, notes):
        for reader in readers:
            yield family.make(setup, reader, size)


def _readers(family: Family, asked: str | None, setup: Setup, notes: list[str]) -> list[str]:
    """Readers of a family that the setup has, or the one asked for."""
    there = ("zero-shot", *setup.readers)
    if asked is None:
        notes += [
            f"{family.name} with the reader {reader!r}: no such reader was given ({_OPTIONS[reader]} PRESS names one)"
            for reader in family.readers
            if reader not in there
        ]
        return [reader for reader in family.readers if reader in there]
    if asked not in family.readers:
        raise InputError(
            f"{family.name}:{asked}: {family.name} is read by {', '.join(family.readers)}; give one of them"
        )
    if asked not in there:
        raise InputError(
            f"{family.name}:{asked} needs a trained reader, and none was given as {asked!r}; "
            f"give its press, or ask for {family.name}:zero-shot"
        )
    return [asked]


def _sizes(family: Family, asked: Sequence[Size], default: Sequence[Size], notes: list[str]) -> Sequence[Size | None]:
    """Ratios at which a family is made."""
    if not family.sized:
        if asked:
            raise InputError(f"{family.name} has no size; leave @{asked[0]} out")
        return [None]
    others = [size for size in asked or default if size.ratio is None]
    if asked and others:
        raise InputError(f"{family.name}@{others[0]}: {_OF_PRESSES}; give a ratio")
    notes += [f"{family.name} at {size}: {_OF_PRESSES}" for size in others]
    return [size for size in asked or default if size.ratio is not None]


def _of_press(
    wanted: _Wanted, setup: Setup, default: Sequence[Size], press: Press, notes: list[str]
) -> list[PressSystem]:
    from latentpress.evaluation.systems.presses import PressSystem

    if press.base.fingerprint != setup.press.base.fingerprint:
        raise InputError(
            f"press {press.config.name!r} runs on the base model {press.base.id!r} ({press.base.fingerprint[:12]}), "
            f"the comparison on {setup.press.base.id!r} ({setup.press.base.fingerprint[:12]}), by whose tokens ratios "
            "are counted; compare presses of one base model"
        )
    if wanted.sizes:
        return [PressSystem(press, size, name=wanted.alias, focus=wanted.focus) for size in wanted.sizes]
    made: list[PressSystem] = []
    for size in default:
        try:
            made.append(PressSystem(press, size, name=wanted.alias, focus=wanted.focus))
        except RatioError as error:
            notes.append(f"{wanted.alias or press.config.name}{_suffix(wanted)} at {size}: {error}")
    if not made:
        listed = ", ".join(map(str, default)) or "none"
        candidates = "/".join(map(str, press.model.policy.candidates))
        raise RatioError(
            f"press {press.config.name!r} was trained for none of the sizes asked for ({listed}); "
            f"give them with its name, {wanted.name}{_suffix(wanted)}@{candidates}"
        )
    return made


def _suffix(wanted: _Wanted) -> str:
    return "" if wanted.focus is None else f":focus{wanted.focus}"


def _check_names(systems: Sequence[System]) -> None:
    """Refuses two presses of one name: a label means one press, whatever else is compared in the folder."""
    from latentpress.evaluation.systems.presses import PressSystem

    fingerprints: dict[str, str] = {}
    for system in systems:
        if isinstance(system, PressSystem):
            known = fingerprints.setdefault(system.name, system.press.fingerprint)
            if known != system.press.fingerprint:
                raise InputError(
                    f"two presses are called {system.name!r} ({known[:8]} and {system.press.fingerprint[:8]}); "
                    f"give one of them another name: mine=FOLDER@4"
                )
