"""What is asked about what, of whom, how patiently and for how much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from latentpress.base_model import DEFAULT_BASE
from latentpress.errors import InputError

ABOUT_ONE = ("qa", "summary", "short-summary")
ABOUT_SEVERAL = ("multi-document", "multi-hop")
# The paper's phases, in order: phase 1 writes questions and summaries, phase 2 what labels the density.
TASKS = ("qa", "multi-document", "multi-hop", "summary", "short-summary")

Kind = Literal["openai", "hf", "gguf", "embedded"]


def _at_least(settings: Any, least: Mapping[str, float]) -> None:
    """Refuses numbers below a limit, naming the option.

    Raises:
        InputError: one of them is below, infinite or no number.
    """
    for name, limit in least.items():
        value = getattr(settings, name)
        if value is not None and not (math.isfinite(value) and value >= limit):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {value} is below {limit:g} or no finite number; give {limit:g} or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is asked about what."""

    corpora: tuple[str, ...]
    """JSON-lines files, text files (.txt, .md) or hub ids."""
    tasks: tuple[str, ...] = TASKS
    """Some of `TASKS`."""
    field: str | None = None
    """Field of a row that holds its text; None: text, context or contexts."""
    lang: str | None = None
    """Language of all texts; None: a row's own, else told by the script."""
    limit: int | None = None
    """Most passages, the first ones; None takes all."""
    min_passage_tokens: int = 128
    """Shortest passage, in tokens of the base model."""
    max_passage_tokens: int = 1300
    """Longest passage, and most tokens of all passages of one request."""
    questions: int = 4
    """Questions asked for in one request."""
    documents: int = 3
    """Most passages of a request about several."""
    seed: int = 0
    """Of the lengths of passages, and of a teacher's sampling."""

    def __post_init__(self) -> None:
        if not self.corpora:
            raise InputError("no corpus is given; give --data FILE, or a hub id")
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise InputError(f"task {unknown[0] if unknown else ''!r} is unknown; choose some of {', '.join(TASKS)}")
        least = {"limit": 1, "min_passage_tokens": 8, "questions": 1, "documents": 2, "seed": 0}
        _at_least(self, least)
        if self.max_passage_tokens < self.min_passage_tokens:
            raise InputError(
                f"--max-passage-tokens {self.max_passage_tokens} is below --min-passage-tokens "
                f"{self.min_passage_tokens}; give a range of lengths"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSpec:
    """Who is asked, in words that another machine understands too. Holds no key: that is in the environment."""

    kind: Kind
    """Way to the teacher."""
    place: str
    """Address, folder, hub id or file."""
    model: str
    """Name of the model, part of the key of every request."""
    temperature: float = 0.7
    """Of its sampling; 0 takes the likeliest token."""
    reply_tokens: int = 1024
    """Most tokens of a reply."""
    timeout: float = 120.0
    """Seconds until a whole answer must have come; local teachers take as long as they take."""
    seed: int = 0
    """Of its sampling."""
    device: str | None = None
    """Of a local teacher; a GPU if there is one, if None."""
    dtype: str | None = None
    """Of a local teacher's weights; what is fast on its device if None."""

    def __post_init__(self) -> None:
        _at_least(self, {"temperature": 0, "reply_tokens": 1})
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise InputError(f"--timeout {self.timeout} is no time to wait; give seconds, more than 0")

    @classmethod
    def parse(cls, word: str, model: str | None, **options: Any) -> TeacherSpec:
        """Reads `openai:URL`, `hf:FOLDER_OR_ID`, `gguf:FILE` or `embedded`.

        Args:
            word: who.
            model: name of the model that an address serves; local teachers have theirs.
            options: the other fields.

        Raises:
            InputError: another word, an address without a model, or a local teacher with one.
        """
        kind, _, place = word.partition(":")
        match kind:
            case "embedded" if not place:
                place = name = DEFAULT_BASE
            case "hf" | "gguf" if place:
                name = place.replace("\\", "/").rstrip("/")
                name = name if kind == "hf" and name.count("/") == 1 else name.rpartition("/")[2]
            case "openai" if place:
                name = model or ""
                if not name:
                    raise InputError(f"--teacher {word} serves models by name; give one: --model NAME")
            case _:
                raise InputError(
                    f"teacher {word!r} is unknown; give openai:URL (an OpenAI-compatible address that ends in /v1), "
                    "hf:FOLDER_OR_ID, gguf:FILE or embedded"
                )
        if model is not None and kind != "openai":
            raise InputError(f"--model {model!r} belongs to an address (openai:URL); {word!r} is a model already")
        return cls(kind=kind, place=place, model=name, **options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How a teacher is asked, and how long it is asked again."""

    concurrency: int = 8
    """Requests under way at once; of a local teacher, in one batch."""
    tries: int = 5
    """Tries of a request until it is given up."""
    first_wait: float = 1.0
    """Seconds before the second try; doubled for each further one, and drawn between half and all of that."""
    longest_wait: float = 60.0
    """Most seconds between two tries that the teacher does not ask for itself."""
    longest_pause: float = 600.0
    """Most seconds that the teacher may ask to wait (Retry-After); where it asks for more, the run stops."""

    def __post_init__(self) -> None:
        _at_least(self, {"concurrency": 1, "tries": 1, "first_wait": 0, "longest_wait": 0, "longest_pause": 0})


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """What may be spent, by all runs in one folder together."""

    max_requests: int | None = None
    """Most tries; None: no limit."""
    max_tokens: int | None = None
    """Most tokens of prompts and replies; None: no limit."""

    def __post_init__(self) -> None:
        _at_least(self, {field.name: 1 for field in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What tokens cost, in any currency."""

    per_million_in: float = 0.0
    """A million tokens of prompts."""
    per_million_out: float = 0.0
    """A million tokens of replies."""

    def __post_init__(self) -> None:
        for option, value in (("--price-in", self.per_million_in), ("--price-out", self.per_million_out)):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{option} {value} is no price; give what a million tokens cost, 0 or more")

    @property
    def known(self) -> bool:
        """Whether any price was given."""
        return self.per_million_in > 0 or self.per_million_out > 0

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost."""
        return (tokens_in * self.per_million_in + tokens_out * self.per_million_out) / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class RaySettings:
    """How the work is spread over a cluster."""

    workers: int = 1
    """Processes that ask, each with a teacher of its own; on as many machines as the cluster has."""
    gpus: float = 0
    """GPUs of each; 0 for an address."""

    def __post_init__(self) -> None:
        for option, value, least in (("--workers", self.workers, 1), ("--worker-gpus", self.gpus, 0)):
            if not (math.isfinite(value) and value >= least):
                raise InputError(f"{option} {value} is below {least} or no finite number; give {least} or more")
