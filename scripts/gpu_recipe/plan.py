"""The plan: which trainings follow each other, on which files, and how their presses are judged. A TOML file.

base = "smollm2-135m-instruct"         # base model of all stages
data = ["train.jsonl.xz"]              # files of stages that name none; likewise `dev` and `hold_out`

[[stage]]
name = "reader"                        # its run is OUT/reader, its press OUT/reader/press
recipe = "reader"                      # a recipe or pipeline of `latentpress train`
minutes = 5                            # as many steps as take so long; or give `steps` among the settings
[stage.settings]                       # `name = value` for `name=value` of `latentpress train`
learning_rate = "2e-3"

[[stage]]
name = "press"
recipe = "semidynamic"
from_press = "semidynamic-smollm2-135m"        # or "{reader}": the press of an earlier stage
[stage.settings]
distill = 0.5
teacher = "{reader}"

[judge]
data = ["squad=dev.jsonl.xz"]
systems = ["full:tuned", "press@4/8/16"]       # as `latentpress eval --with`; a stage stands for its press
reader = "reader"                              # stage whose press is the tuned reader
limit = 500
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from latentpress.base_model import DEFAULT_BASE
from latentpress.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][\w-]*")
_RESERVED = ("judge", "probe", "out", "teacher")  # folders in OUT, and what stands for it
_PLACE = re.compile(r"\{([\w-]+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One training."""

    name: str
    """Of its folder, and of its press in later stages."""
    recipe: str
    """A recipe or pipeline."""
    settings: tuple[str, ...] = ()
    """`name=value` overrides."""
    data: tuple[str, ...] = ()
    """Training files."""
    dev: str | None = None
    """File to evaluate on; some of the data is held back if None."""
    hold_out: str | None = None
    """File a fifth of whose passages stays out of the data."""
    from_press: str | None = None
    """Press to start from."""
    minutes: float | None = None
    """Time that the number of steps is chosen for; None if the settings give it, or the recipe's own is meant."""
    collect: bool = True
    """Whether its press is brought back."""

    def resolved(self, places: Mapping[str, str]) -> tuple[list[str], str | None]:
        """Settings and the press to start from, `{NAME}` replaced by the place of that name."""
        settings = [_replaced(text, places) for text in self.settings]
        return settings, None if self.from_press is None else _replaced(self.from_press, places)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """What the presses are judged by."""

    data: tuple[str, ...]
    """Files, or NAME=FILE."""
    systems: tuple[str, ...]
    """As `latentpress eval --with` takes them; the name of a stage stands for its press."""
    reader: str | None = None
    """Stage whose press is the tuned reader of text."""
    limit: int | None = None
    """Questions of each set; None for all."""
    seed: int = 0
    """Of the draw of questions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is trained and judged."""

    base: str
    """Base model of all stages: the default's name, or a folder."""
    stages: tuple[Stage, ...]
    """In their order."""
    judge: Judging | None
    """How they are judged; None for not at all."""

    def files(self) -> list[str]:
        """Every file of data that the plan names, once."""
        named = [file for one in self.stages for file in (*one.data, one.dev, one.hold_out) if file]
        judged = [file.partition("=")[2] or file for file in (self.judge.data if self.judge else ())]
        return list(dict.fromkeys([*named, *judged]))


def read_plan(path: Path) -> Plan:
    """Reads a plan.

    Raises:
        InputError: it cannot be read, has an unknown key or a value of the wrong kind, or a stage that refers to one
            that does not come before it.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no plan that can be read ({error}); give a TOML file") from error
    common = {name: data.pop(name) for name in ("data", "dev", "hold_out") if name in data}
    unknown = sorted({*data} - {"base", "stage", "judge"})
    if unknown or not isinstance(data.get("stage"), list) or not data["stage"]:
        raise InputError(
            f"{path} has {'the unknown key ' + unknown[0] if unknown else 'no stage'}; a plan is base, data, dev, "
            "hold_out, one or more [[stage]] and [judge]"
        )
    stages = [_stage(path, number, {**common, **table}) for number, table in enumerate(data["stage"], start=1)]
    judge = _judging(path, data["judge"]) if "judge" in data else None
    _check_references(path, stages, judge)
    return Plan(base=str(data.get("base", DEFAULT_BASE)), stages=tuple(stages), judge=judge)


def _stage(path: Path, number: int, table: Mapping[str, Any]) -> Stage:
    where = f"{path}, stage {number}"
    if not isinstance(settings := table.get("settings", {}), dict):
        raise InputError(f"{where}: settings are {settings!r}; give a table of name = value")
    given = {**table, "settings": tuple(f"{name}={_text(value)}" for name, value in settings.items())}
    stage = _made(Stage, where, given)
    if not _NAME.fullmatch(stage.name) or stage.name in _RESERVED:
        raise InputError(f"{where} is called {stage.name!r}; use letters, digits, - and _, and none of {_RESERVED}")
    if not stage.data:
        raise InputError(f"{where} has no data; give data = [...] there, or for all stages")
    if stage.minutes is not None and stage.minutes <= 0:
        raise InputError(f"{where}: minutes = {stage.minutes:g} must be more than 0")
    if stage.minutes is not None and any(text.startswith("steps=") for text in stage.settings):
        raise InputError(f"{where} has both minutes and steps; give one of them")
    return stage


def _judging(path: Path, table: Any) -> Judging:
    if not isinstance(table, dict):
        raise InputError(f"{path}: judge is {table!r}; give a table")
    return _made(Judging, f"{path}, judge", table)


def _made(kind: type, where: str, table: Mapping[str, Any]) -> Any:
    """A dataclass of a table, its lists as tuples.

    Raises:
        InputError: a key is unknown or missing, or a value is of the wrong kind.
    """
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted({*table} - {*known}):
        raise InputError(f"{where} has the unknown key {unknown[0]}; choose from {', '.join(known)}")
    kinds: dict[str, tuple[type, ...]] = {
        "minutes": (int, float),
        "limit": (int,),
        "seed": (int,),
        "collect": (bool,),
        **dict.fromkeys(("data", "systems", "settings"), (list, tuple)),
    }
    for name, value in table.items():
        wanted = kinds.get(name, (str,))
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise InputError(f"{where}: {name} = {value!r} must be {' or '.join(one.__name__ for one in wanted)}")
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in table.items()})
    except TypeError as error:
        raise InputError(f"{where} is not whole ({error}); see the top of scripts/gpu_recipe/plan.py") from error


def _text(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _replaced(text: str, places: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda match: places.get(match[1], match[0]), text)


def _check_references(path: Path, stages: Sequence[Stage], judge: Judging | None) -> None:
    """Makes sure that stages have names of their own, and refer to earlier ones only."""
    before: list[str] = []
    for stage in stages:
        if stage.name in before:
            raise InputError(f"{path} has two stages called {stage.name!r}; name each once")
        values = [text.partition("=")[2] for text in stage.settings] + [stage.from_press or ""]
        # Prompts have {question} in them: only what is nothing but a name in braces is a reference.
        for match in (_PLACE.fullmatch(value) for value in values):
            if match and match[1] not in (*before, "out"):
                raise InputError(
                    f"{path}, stage {stage.name}: {match[0]} is no stage before it; choose from {before or 'none'}"
                )
        before.append(stage.name)
    if judge is not None and judge.reader is not None and judge.reader not in before:
        raise InputError(f"{path}, judge: reader = {judge.reader!r} is no stage; choose from {', '.join(before)}")


def base_folder_name(base: str) -> str:
    """Name of the folder in which a base model travels that is not the default."""
    return Path(base).name


def base_of(plan: Plan, files: Path) -> str:
    """The base model of a plan: its folder among the files that came, if it came so, else what the plan says."""
    there = files / "base" / base_folder_name(plan.base)
    return str(there) if plan.base != DEFAULT_BASE and there.is_dir() else plan.base


def find_file(name: str, places: Sequence[Path]) -> Path:
    """Finds a file of data by the name that the plan gives.

    Args:
        name: path, relative to one of the places.
        places: folders, the first that has it wins.

    Raises:
        InputError: none has it.
    """
    for place in places:
        if (place / name).is_file():
            return place / name
    raise InputError(f"there is no {name} in {', '.join(map(str, places))}; give --data-dir FOLDER, or pack it")
