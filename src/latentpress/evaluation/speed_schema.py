"""The file of measured times, `speed.json`, and how it is read and written.

    {
      "format": 1,
      "machine": "what it ran on, in words",
      "reference": "full-zero-shot",
      "cached": "full-cached-zero-shot",
      "answer_tokens": 16,
      "lengths": {
        "512": {
          "full-zero-shot": {
            "kept": 512, "compress": [0.1, 0.1], "first_token": [1.9, 1.8], "total": [2.6, 2.5],
            "stored_first_token": [1.8, 1.7], "stored_total": [2.5, 2.4], "peak_bytes": 910000000
          },
          "full-cached-zero-shot": {
            "kept": 512, "compress": [1.8, 1.8], "first_token": [1.9, 1.9], "total": [2.7, 2.6],
            "stored_first_token": [0.1, 0.1], "stored_total": [0.9, 0.8], "peak_bytes": 910000000
          },
          "semidynamic-smollm2-135m-x4": {
            "kept": 128, "compress": [0.8, 0.8], "first_token": [1.1, 1.1], "total": [1.6, 1.6],
            "stored_first_token": [0.2, 0.2], "stored_total": [0.8, 0.8], "peak_bytes": 700000000
          }
        }
      },
      "left_out": {"7900": {"some-peer-x4": "needs more memory than there is"}},
      "elsewhere": {"snapkv-x4-tuned": "compresses and answers in a process of its own (kvpress 0.5.5)"}
    }

Keys of `lengths` are tokens of text. A list holds seconds, one a round: in round i every system ran once, one after
another, so the i-th numbers of two systems belong together and their ratio is free of the machine's drift. A system
that took part in fewer rounds has those of the first ones.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentpress.errors import InputError
from latentpress.files import write_whole

FORMAT = 1
"""Of the file."""
_SERIES = ("compress", "first_token", "total", "stored_first_token", "stored_total")


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """One system at one length of text; each time in seconds, one a round."""

    first_token: tuple[float, ...]
    """From the text and the question to the answer's first token, compressing included."""
    total: tuple[float, ...]
    """From the text and the question to the answer's last token, compressing included."""
    kept: int
    """Positions that stood for the text in the decoder."""
    compress: tuple[float, ...] | None = None
    """From the text, and the question where it is needed for that, to what is kept of the text; None in older files
    where the question is needed."""
    stored_first_token: tuple[float, ...] | None = None
    """From the question to the first token, with what is kept made before; None where nothing is stored."""
    stored_total: tuple[float, ...] | None = None
    """From the question to the last token, with what is kept made before; None where nothing is stored."""
    peak_bytes: int | None = None
    """Most memory that compressing and answering took beside what was in use before; None if it was not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What was measured in one run."""

    machine: str
    """What it ran on, in words."""
    reference: str
    """Label of the reader of the full text that ratios are taken to; it is there at every length."""
    answer_tokens: int
    """Tokens of every answer."""
    lengths: Mapping[int, Mapping[str, Times]]
    """Times by tokens of text and system's label."""
    cached: str | None = None
    """Label of the same reader where it keeps keys and values of the full text; None if it was not measured."""
    left_out: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """Why a system has no times at a length."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """What of a system runs in a process of its own, by the system's label."""

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        lengths = {
            str(tokens): {label: dataclasses.asdict(times) for label, times in every.items()}
            for tokens, every in self.lengths.items()
        }
        left_out = {str(tokens): dict(why) for tokens, why in self.left_out.items()}
        content = {
            "format": FORMAT,
            "machine": self.machine,
            "reference": self.reference,
            "cached": self.cached,
            "answer_tokens": self.answer_tokens,
            "lengths": lengths,
            "left_out": left_out,
            "elsewhere": dict(self.elsewhere),
        }
        write_whole(path, json.dumps(content, indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> Speed:
        """Reads the file.

        Raises:
            InputError: it cannot be read, or is of another format.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise InputError(f"{path} is of format {content['format']!r}, not {FORMAT}; measure the times again")
            speed = Speed(
                machine=str(content["machine"]),
                reference=str(content["reference"]),
                cached=content.get("cached"),
                answer_tokens=int(content["answer_tokens"]),
                lengths={
                    int(tokens): {label: _times(values) for label, values in every.items()}
                    for tokens, every in content["lengths"].items()
                },
                left_out={int(tokens): dict(why) for tokens, why in content.get("left_out", {}).items()},
                elsewhere=dict(content.get("elsewhere", {})),
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} cannot be read ({error!r}); measure the times again") from error
        for tokens, every in speed.lengths.items():
            if speed.reference not in every:
                raise InputError(
                    f"{path} has no times of {speed.reference!r}, which others are compared with, at {tokens} tokens; "
                    "measure the times again"
                )
        return speed


def _times(values: Mapping[str, Any]) -> Times:
    """Times of one system.

    Raises:
        ValueError: a time that is none.
    """
    series: dict[str, Any] = {
        name: None if values[name] is None else tuple(float(seconds) for seconds in values[name]) for name in _SERIES
    }
    for name, taken in series.items():
        if taken is not None and not (taken and all(0 < seconds < math.inf for seconds in taken)):
            raise ValueError(f"{name} is {list(taken)}, not seconds of at least one round")
    if series["first_token"] is None or series["total"] is None:
        raise ValueError("first_token and total are never null")
    if (series["stored_first_token"] is None) != (series["stored_total"] is None):
        raise ValueError("stored_first_token and stored_total are both null or neither")
    peak = values["peak_bytes"]
    return Times(kept=int(values["kept"]), peak_bytes=None if peak is None else int(peak), **series)
