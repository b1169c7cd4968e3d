"""Documents to compress: where the latents of each go, which are there already, and what became of each."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentpress.cli.documents import LATENTS_SUFFIX, Document, is_jsonl_file, is_latents_file
from latentpress.errors import InputError, LatentpressError, LatentsError, RatioError

if TYPE_CHECKING:
    from latentpress.latents import Latents
    from latentpress.press import Press

Status = Literal["waiting", "compressed", "skipped", "failed"]
# Short documents go through together; an interruption loses one batch at most.
_BATCH_TOKENS = 8192
_BATCH_DOCUMENTS = 256
# A safetensors file begins with the length of its header, the header with the metadata, and ours with our key.
_HEADER_LENGTH_BYTES = 8
_HEADER_START = b'{"__metadata__":{"latentpress":'


@dataclass(kw_only=True, slots=True)
class Job:
    """One document and what became of it."""

    name: str
    """What messages call the document."""
    stem: str
    """Its `Document.stem`."""
    file_stem: str
    """Its `Document.file_stem`."""
    output: Path
    """File of its latents."""
    tokens: int = 0
    """Its tokens; 0 if it cannot be read."""
    characters: int = 0
    """Characters of its text up to the last that is no white space."""
    text_sha256: str = ""
    """SHA-256 of its text, hexadecimal."""
    status: Status = "waiting"
    """What became of it."""
    latents: int = 0
    """Number of its latents, once they are there."""
    error: str | None = None
    """Why it failed."""
    bad_input: bool = False
    """Whether it failed for what the user gave, and not for what happened on the way."""

    def finish(self, status: Status, made: "Latents") -> None:
        """Notes that its latents are there."""
        self.status, self.tokens, self.latents = status, made.context_tokens, len(made)

    def fail(self, error: str, *, bad_input: bool) -> None:
        """Notes that it cannot be compressed."""
        self.status, self.error, self.bad_input = "failed", error, bad_input

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        done = self.status in ("compressed", "skipped")
        return {
            "document": self.name,
            "status": self.status,
            "output": str(self.output) if done else None,
            "tokens": self.tokens,
            "latents": self.latents,
            "ratio": self.tokens / self.latents if done else None,
            "error": self.error,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where latents go, and what they must have been made with to count as done."""

    out: Path
    """Folder, or the file itself for one document."""
    press_fingerprint: str
    """Fingerprint of the press."""
    ratio: float | None
    """Ratio asked for; None: a length, or the press chooses."""
    length: int | None
    """Number of latents asked for; None: a ratio, or the press chooses."""
    scale: float
    """Shift of that choice."""
    exact: bool = False
    """Whether vectors are kept in the type that they were computed in; in bfloat16, half as large, if not."""

    def plan(self, documents: Iterable[Document], press: "Press") -> list[Job]:
        """Reads every document once: counts its tokens, names its file, and looks whether that is done."""
        jobs = []
        for document in documents:
            job = Job(name=document.name, stem=document.stem, file_stem=document.file_stem, output=self.out)
            try:
                if document.text is None:
                    raise InputError(document.error or f"{document.name}: cannot be read")
                job.tokens = press.count_tokens(document.text)
                job.characters = len(document.text.rstrip())
                job.text_sha256 = hashlib.sha256(document.text.encode()).hexdigest()
            except LatentpressError as error:
                job.fail(str(error), bad_input=isinstance(error, InputError))
            jobs.append(job)
        if not is_latents_file(self.out.name):
            self._name_outputs(jobs)
        for job in jobs:
            if job.status == "waiting":
                self._look_at_output(job)
        return jobs

    def _name_outputs(self, jobs: list[Job]) -> None:
        """a.txt -> a.latents.safetensors, or a.txt.latents.safetensors where there is an a.md too."""
        shared = Counter(job.stem for job in jobs)
        taken: dict[str, str] = {}
        for job in jobs:
            name = (job.stem if shared[job.stem] == 1 else job.file_stem) + LATENTS_SUFFIX
            job.output = self.out / name
            if job.status != "failed" and taken.setdefault(name, job.name) != job.name:
                error = f"{job.name}: its latents would overwrite those of {taken[name]} in {name}; "
                job.fail(error + "give each an id or name of its own", bad_input=True)

    def _look_at_output(self, job: Job) -> None:
        """Skips a document whose latents are there; fails one whose latents would overwrite something else."""
        made = self._made_before(job)
        if made is not None:
            job.finish("skipped", made)
            return
        try:
            _refuse_foreign(job.output)
        except InputError as error:
            job.fail(f"{job.name}: {error}", bad_input=True)

    def _made_before(self, job: Job) -> "Latents | None":
        """Latents of this very text by this press with these settings; None if there are none, or damaged ones."""
        from latentpress.latents import Latents

        if not job.output.is_file():
            return None
        try:
            made = Latents.load(job.output)
        except LatentsError:
            return None
        found = (made.press_fingerprint, made.text_sha256, made.requested_ratio, made.requested_length, made.scale)
        wanted = (self.press_fingerprint, job.text_sha256, self.ratio, self.length, self.scale)
        return made if found == wanted and _is_whole(made, job.characters) else None


def _is_whole(latents: "Latents", characters: int) -> bool:
    """Tells whether no window of a text was left out (`Latents.of_windows`)."""
    ends = [0, *(window.start + window.tokens for window in latents.windows)]
    starts = [window.start for window in latents.windows]
    return starts == ends[:-1] and int(latents.char_spans[-1, 1]) >= characters


def check_target(source: Path, out: Path) -> None:
    """Refuses what cannot work before anything is loaded.

    Raises:
        InputError: a file as OUT for several documents, or OUT that is there and of the other kind, or not ours.
    """
    several = source.is_dir() or is_jsonl_file(source.name)
    if several and is_latents_file(out.name):
        raise InputError(f"{out}: names one latents file, and {source} may hold several documents; give a folder")
    if out.is_file() and not is_latents_file(out.name):
        raise InputError(f"{out}: is a file; give a folder, or a name that ends in {LATENTS_SUFFIX}")
    if out.is_dir() and is_latents_file(out.name):
        raise InputError(f"{out}: is a folder that is named like a latents file; give another name")
    if is_latents_file(out.name):
        _refuse_foreign(out)


def _refuse_foreign(file: Path) -> None:
    """Makes sure that nothing stands where latents shall go but latents, however damaged or old, or an empty file.

    Raises:
        InputError: something else does, or what stands there cannot be read.
    """
    if file.exists() and not (file.is_file() and _is_empty_or_ours(file)):
        raise InputError(
            f"{file}: is there and holds no latents of latentpress, so it stays; give another -o, or remove it"
        )


def _is_empty_or_ours(file: Path) -> bool:
    """Goes by the first bytes, which a truncated file has too, and which no version of the format changes."""
    try:
        with file.open("rb") as opened:
            start = opened.read(_HEADER_LENGTH_BYTES + len(_HEADER_START))
    except OSError:
        return False
    return not start or start[_HEADER_LENGTH_BYTES:] == _HEADER_START


def batches(documents: Iterable[Document], jobs: list[Job]) -> Iterator[list[tuple[Job, str]]]:
    """Groups waiting documents by tokens and number.

    Args:
        documents: read anew since the jobs were planned: one that has come since is left to the next run, and the job
            of one that is gone goes on waiting.
        jobs: what was planned.
    """
    # By stem too: where rows were put in before it, line 7 is another document than it was.
    waiting = {(job.name, job.stem): job for job in jobs if job.status == "waiting"}
    batch: list[tuple[Job, str]] = []
    tokens = 0
    for document in documents:
        job = waiting.get((document.name, document.stem))
        if job is None:
            continue
        if document.text is None:
            job.fail(document.error or f"{document.name}: cannot be read", bad_input=True)
            continue
        if batch and (tokens + job.tokens > _BATCH_TOKENS or len(batch) == _BATCH_DOCUMENTS):
            yield batch
            batch, tokens = [], 0
        batch.append((job, document.text))
        tokens += job.tokens
    if batch:
        yield batch


def run_batch(press: "Press", batch: list[tuple[Job, str]], target: Target, progress: Any) -> None:
    """Compresses some documents and writes their files; one that cannot be compressed does not stop the others.

    Args:
        press: what compresses.
        batch: jobs and their texts.
        target: settings.
        progress: called with tokens done and tokens in all, of this batch.

    Raises:
        RatioError: the settings do not fit the press.
        LatentsError: a file cannot be written.
    """
    try:
        made = press.compress(
            [text for _, text in batch],
            ratio=target.ratio,
            length=target.length,
            scale=target.scale,
            progress=progress,
        )
    except RatioError:
        raise
    except LatentpressError as error:
        if len(batch) == 1:
            job = batch[0][0]
            job.fail(f"{job.name}: {error}", bad_input=isinstance(error, InputError))
            return
        for one in batch:
            run_batch(press, [one], target, progress)
        return
    for (job, _), latents in zip(batch, made, strict=True):
        job.output.parent.mkdir(parents=True, exist_ok=True)
        (latents if target.exact else _in_bfloat16(latents)).save(job.output)
        job.finish("compressed", latents)


def _in_bfloat16(latents: "Latents") -> "Latents":
    """The same, also where the CPU computed in float32: a file is as large from one machine as from another."""
    import torch

    return latents.to(dtype=torch.bfloat16)
