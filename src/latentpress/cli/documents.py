"""Files, folders and JSON lines to texts. Every error names the file, and the line or byte."""

import gzip
import json
import lzma
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from latentpress.data.texts import check_not_blank, decode
from latentpress.errors import InputError

STDIN = "-"
LATENTS_SUFFIX = ".latents.safetensors"
_LATENTS_SUFFIXES = (".latents", ".safetensors")
_JSONL_SUFFIXES = (".jsonl", ".jsonl.xz", ".jsonl.gz")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text to compress, or why there is none."""

    name: str
    """What messages call it: the file, or file:line."""
    stem: str
    """Where its latents go inside the output folder, without suffix; `/` parts folders."""
    file_stem: str
    """The same with the file's own suffix kept, for two files that differ in it alone."""
    text: str | None = None
    """The text; None if it cannot be read."""
    error: str | None = None
    """Why it cannot be read."""


def is_latents_file(name: str) -> bool:
    """Tells by its name whether a file holds latents."""
    return name.endswith(_LATENTS_SUFFIXES)


def is_jsonl_file(name: str) -> bool:
    """Tells by its name whether a file holds one JSON object a line."""
    return name.endswith(_JSONL_SUFFIXES)


def read_text(name: str) -> str:
    """Reads a file, or stdin for `-`, as UTF-8 without its byte order mark.

    Raises:
        InputError: no such file, a folder, binary, not UTF-8, or empty.
    """
    if name == STDIN:
        return decode(sys.stdin.buffer.read(), "stdin")
    path = Path(name)
    try:
        if path.is_dir():
            raise InputError(
                f"{name}: is a folder; give a file, or compress all its files: latentpress compress {name} -o OUT"
            )
        return decode(path.read_bytes(), name)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; give an existing text file, a latents file, or - for stdin") from error
    except OSError as error:
        raise InputError(
            f"{name}: cannot be read ({error.strerror or error}); check the file and its permissions"
        ) from error


def read_documents(source: Path, out: Path) -> Iterator[Document]:
    """Yields the documents of a text file, a JSON-lines file or a folder, reading each as it comes.

    Args:
        source: what to read.
        out: folder of the latents, left out when it lies in the source.

    Raises:
        InputError: there is no such path, nothing in it, or it is a folder whose files cannot be listed.
    """
    found = False
    for document in _documents(source, out):
        found = True
        yield document
    if not found:
        raise InputError(f"{source}: holds no {'rows' if source.is_file() else 'files'}; give something to compress")


def _documents(source: Path, out: Path) -> Iterator[Document]:
    if source.is_dir():
        return _folder_documents(source, out)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; give a text file, a folder of them, or a .jsonl file")
    if is_jsonl_file(source.name):
        return _rows(source)
    if not source.is_file():
        raise InputError(
            f"{source}: is neither a file nor a folder, and documents are read twice; write it to a file first"
        )
    if is_latents_file(source.name):
        raise InputError(f"{source}: is a latents file already; give the text")
    return iter([_file_document(source, source.name, str(source))])


def _folder_documents(folder: Path, out: Path) -> Iterator[Document]:
    """Every file below a folder in the order of their names; hidden ones, latents and the output folder left out.

    Links to files are read, links to folders are not followed: they may lead round in circles. Sub-folders that cannot
    be listed come last, each as a document that cannot be read.
    """
    skipped = out.resolve()
    unreadable: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=unreadable.append):
        here = Path(root)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (here / name).resolve() != skipped)
        for name in sorted(files):
            if name.startswith(".") or is_latents_file(name):
                continue
            path = here / name
            relative = path.relative_to(folder).as_posix()
            if is_jsonl_file(name):
                error = f"{path}: JSON lines in a folder are not taken apart; compress the file by itself"
                yield Document(name=str(path), stem=relative, file_stem=relative, error=error)
            else:
                yield _file_document(path, relative, str(path))
    for reason in unreadable:
        yield _unreadable_folder(Path(reason.filename), folder, reason)


def _unreadable_folder(path: Path, source: Path, error: OSError) -> Document:
    reason = f"{path}: cannot be read ({error.strerror or error}); change its permissions, or move it elsewhere"
    if path == source:
        raise InputError(reason) from error
    stem = f"{path.relative_to(source).as_posix()}/"  # no file's, so that none gets another name for its latents
    return Document(name=str(path), stem=stem, file_stem=stem, error=reason)


def _file_document(path: Path, relative: str, name: str) -> Document:
    stem = relative.removesuffix(path.suffix)
    try:
        return Document(name=name, stem=stem, file_stem=relative, text=read_text(str(path)))
    except InputError as error:
        return Document(name=name, stem=stem, file_stem=relative, error=str(error))


def _rows(file: Path) -> Iterator[Document]:
    """One document a line: {id?, text | context}."""
    number = 0
    base = file.name.partition(".jsonl")[0]
    try:
        with _open_lines(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    where, stem = f"{file}:{number}", f"{base}-{number}"
                    try:
                        row_id, text = _row(line, where, first=number == 1)
                        name = _file_name(row_id) if row_id else stem
                        yield Document(name=where, stem=name, file_stem=name, text=text)
                    except InputError as error:
                        yield Document(name=where, stem=stem, file_stem=stem, error=str(error))
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(
            f"{file}:{number + 1}: cannot be read ({error}); it is truncated or damaged, copy it again"
        ) from error


@contextmanager
def _open_lines(file: Path) -> Iterator[IO[bytes]]:
    opened: Any = lzma.open if file.suffix == ".xz" else gzip.open if file.suffix == ".gz" else Path.open
    with opened(file, "rb") as lines:
        yield lines


def _row(line: bytes, where: str, *, first: bool) -> tuple[str | None, str]:
    """Id and text of a row."""
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf") if first else line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{where}: not JSON ({error}); write one JSON object a line, in UTF-8") from error
    fields = [key for key in ("text", "context") if isinstance(row, dict) and row.get(key) is not None]
    if len(fields) != 1:
        raise InputError(
            f"{where}: needs 'text' or 'context' and has {' and '.join(fields) or 'neither'}; give one of them"
        )
    text, row_id = row[fields[0]], row.get("id")
    if not isinstance(text, str):
        raise InputError(f"{where}: '{fields[0]}' is no string; give the text in quotes")
    if row_id is not None and (isinstance(row_id, bool) or not isinstance(row_id, str | int)):
        raise InputError(f"{where}: 'id' {row_id!r} is neither a string nor a whole number; give one, or none")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: half a surrogate pair at character {error.start}; write the character itself"
        ) from error
    return None if row_id is None else str(row_id), check_not_blank(text, where)


def _file_name(row_id: str) -> str:
    """Name for a file, made of a row's id; a hash stands for what no file can be called by."""
    import hashlib
    import re

    safe = re.sub(r"[^\w.-]", "_", row_id).lstrip(".")[
        :48
    ]  # with the suffix under the 255 bytes of file systems, in any script
    if safe == row_id:
        return safe
    return f"{safe or 'row'}-{hashlib.sha256(row_id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
