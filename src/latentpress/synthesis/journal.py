"""Replies as they came, in a file that only grows: each is on disk before it counts.

    OUT/journal.jsonl     what the run is a function of, then a line a request: its reply, or why it was given up

A kill loses the requests that were under way and nothing else. Half a line, where a write was interrupted, is cut off
by the next run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentpress.data.lines import differences, json_line, parse_lines
from latentpress.errors import InputError
from latentpress.files import naming

JOURNAL = "journal.jsonl"
_REMEDY = "give another --out, or the settings of before"
_HEADER = "latentpress synth"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What became of a request."""

    key: str
    """`Request.key`."""
    task: str
    """`Request.task`."""
    record: str
    """`Request.record`."""
    reply: str | None
    """The teacher's words; None: it was given up, and is asked again by the next run."""
    cut_off: bool = False
    """Whether the reply ended because it had become too long."""
    error: str | None = None
    """Why it was given up."""
    tries: int
    """How often it was asked."""
    prompt_tokens: int = 0
    """Tokens of the prompt, once."""
    reply_tokens: int = 0
    """Tokens of the reply."""
    estimated: bool = False
    """Whether the tokens are counted here, because the teacher does not say."""
    lost_prompt_tokens: int = 0
    """Tokens of prompts of tries without a reply that the teacher may have read: always an estimate."""
    lost_reply_tokens: int = 0
    """Tokens that it may have written in them: likewise."""
    refused: str = ""
    """Parameters that it takes no requests with, separated by commas; see `Reply.refused`."""
    seconds: float
    """From the first try to the reply."""
    time: str
    """When it came, UTC."""

    @property
    def tokens_in(self) -> int:
        """Tokens of prompts of all its tries."""
        return self.prompt_tokens + self.lost_prompt_tokens

    @property
    def tokens_out(self) -> int:
        """Tokens written in all its tries."""
        return self.reply_tokens + self.lost_reply_tokens


class Journal:
    """The journal of an out folder.

    Args:
        folder: the out folder, which is there.
        made_by: whatever replies depend on beside their requests; plain data.

    Raises:
        InputError: the folder holds the journal of a run with other settings, one that cannot be read, or data of
            something else.
    """

    def __init__(self, folder: Path, made_by: Mapping[str, Any]) -> None:
        self.path = folder / JOURNAL
        self.requests = self.tokens_in = self.tokens_out = self.tokens_lost = 0
        self._entries: dict[str, Entry] = {}
        header = {_HEADER: 1, **json.loads(json.dumps(made_by))}
        if not self._read(header):
            self._begin(header)

    def reply(self, key: str) -> Entry | None:
        """The reply to a request, None if there is none yet."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.reply is not None else None

    def given_up(self, key: str) -> Entry | None:
        """Why a request has no reply, None if it has one or was not asked."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.reply is None else None

    def entries(self) -> Iterator[Entry]:
        """The last word on each request that was asked, those of other tasks and passages too."""
        return iter(self._entries.values())

    def add(self, entry: Entry) -> None:
        """Writes an entry down, so that it survives a kill and a loss of power.

        Raises:
            OSError: it cannot be written (a full disk); the file is as it was.
        """
        append(self.path, dataclasses.asdict(entry))
        self._note(entry)

    def _note(self, entry: Entry) -> None:
        self.requests += entry.tries
        self.tokens_in += entry.tokens_in
        self.tokens_out += entry.tokens_out
        self.tokens_lost += entry.lost_prompt_tokens + entry.lost_reply_tokens
        if self.reply(entry.key) is None:  # the first reply stays
            self._entries[entry.key] = entry

    def _read(self, header: dict[str, Any]) -> bool:
        content = self.path.read_bytes() if self.path.exists() else b""
        whole, _, half = content.rpartition(b"\n")
        if not whole:
            if not json_line(header).encode().startswith(content):
                raise InputError(f"{self.path} is no journal of a synthesis; move it away, or give another --out")
            return False
        found, rows = parse_lines(self.path, whole, _REMEDY)
        if not rows and _HEADER in found:  # of a run that came to nothing, with a mistake in its settings perhaps
            return False
        if differing := differences(found, header):
            raise InputError(f"{self.path} holds replies made otherwise ({differing}); {_REMEDY}")
        for number, row in enumerate(rows, 2):
            try:
                self._note(Entry(**row))
            except TypeError as error:
                raise InputError(f"{self.path}, line {number}, is no reply ({error}); {_REMEDY}") from error
        if half:
            os.truncate(self.path, len(whole) + 1)
        return True

    def _begin(self, header: dict[str, Any]) -> None:
        foreign = sorted(path.name for path in self.path.parent.iterdir() if not path.name.startswith("."))
        if foreign and not self.path.exists():
            raise InputError(
                f"{self.path.parent} holds {', '.join(foreign[:3])} and no {JOURNAL}; give a folder of its own as --out"
            )
        self.path.write_bytes(b"")  # half a first line, if any
        append(self.path, header)


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a JSON line to a file, the whole of it or nothing, and returns when it is on disk.

    Raises:
        OSError: it cannot be written; names the file.
    """
    content = json_line(row).encode()
    with naming(path), path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise
