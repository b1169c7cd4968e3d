"""Latents of a document: the vectors that a decoder reads in place of its text, what they cover and whence they come.

    Latents
    |- EmbeddingLatents    input embeddings of the decoder
    `- KVLatents           entries of its key/value cache

Shapes: M latents, D width of a latent: of the decoder's embeddings, or of all keys and values of a token.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentpress.errors import LatentsError
from latentpress.paths import local_path

__all__ = ["EmbeddingLatents", "KVLatents", "Latents", "WindowInfo", "total_ratio"]

SCHEMA_VERSION = 1
_METADATA_KEY = "latentpress"
_REMEDY = "give a file that latents.save wrote"
_TENSORS = ("vectors", "token_spans", "char_spans")
_HEX = re.compile(r"[0-9a-f]+")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save's zip, bare pickles


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowInfo:
    """A part of a document with a size of its own, usually an encoder window, and the latents that it became."""

    start: int
    """First token of the window, counted over the document."""
    tokens: int
    """Number of tokens in the window."""
    latents: int
    """Number of latents it became, at most its tokens."""
    ratio: float
    """Ratio used in this window; tokens / latents comes near it, rounded up to whole latents. Where the press chose a
    number of latents, tokens / latents itself."""
    log2_ratio: float | None
    """Log2 ratio that the selector predicted of this window, before the scale; None: the size was given."""

    def __post_init__(self) -> None:
        """Raises LatentsError when the numbers cannot be those of a window."""
        if not 0 <= self.start < 2**62 or not 1 <= self.latents <= self.tokens < 2**62:  # ends fit int64
            raise LatentsError(
                f"window of {self.tokens} tokens from token {self.start} with {self.latents} latents: "
                "it needs a start of 0 or more, and from 1 latent to one a token"
            )
        if not 1.0 <= self.ratio < math.inf:
            raise LatentsError(f"ratio {self.ratio} of the window at token {self.start} is not a number of 1 or more")
        if self.log2_ratio is not None and not math.isfinite(self.log2_ratio):
            raise LatentsError(f"log2 ratio {self.log2_ratio} of the window at token {self.start} is not finite")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Latents:
    """What a press made of a document: a press makes one kind, `EmbeddingLatents` or `KVLatents`."""

    kind: ClassVar[str] = ""
    """What its files say of how the decoder reads them."""
    vectors: Tensor
    """[M, D], bfloat16 or float32, on any device; what D holds is the kind's."""
    token_spans: Tensor
    """[M, 2] int64, half-open: the document's tokens that each latent covers."""
    char_spans: Tensor
    """[M, 2] int64, half-open: the text's characters that each latent covers."""
    windows: tuple[WindowInfo, ...]
    """Parts with a size of their own, usually encoder windows, in the document's order; their latents add up to M."""
    requested_ratio: float | None
    """Ratio the user asked for; None: a length, or nothing, and the press chose."""
    requested_length: int | None = None
    """Number of latents the user asked for, of each window or of the document, as the press counts; None: the press
    chose, or a ratio was asked for."""
    scale: float
    """What the user added to the selector's log2 ratio."""
    press: str
    """Name of the press that made the latents."""
    press_fingerprint: str
    """Hexadecimal fingerprint of that press's weights and settings."""
    base_fingerprint: str
    """Hexadecimal fingerprint of the decoder's base model."""
    text_sha256: str
    """SHA-256 of the text in UTF-8, hexadecimal."""

    def __post_init__(self) -> None:
        """Raises LatentsError when shapes, spans, windows or provenance contradict each other."""
        if not self.kind:
            raise LatentsError("Latents is the parent of EmbeddingLatents and KVLatents; make one of those")
        _check_tensors(self)
        _check_windows(self)
        _check_provenance(self)

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def __repr__(self) -> str:
        sizes = f"{len(self)} latents of {self.context_tokens} tokens, {self.ratio:.2f}x"
        return f"{type(self).__name__}({sizes}, {self.vectors.dtype}, press {self.press!r})"

    @property
    def context_tokens(self) -> int:
        """Number of tokens, all windows together: the document's, unless some were left out (`of_windows`)."""
        return sum(window.tokens for window in self.windows)

    @property
    def ratio(self) -> float:
        """Achieved ratio: context tokens / latents."""
        return self.context_tokens / len(self)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Returns the same latents with the vectors on another device or in another dtype; spans stay."""
        return dataclasses.replace(self, vectors=self.vectors.to(device=device, dtype=dtype))

    def of_windows(self, indices: Sequence[int]) -> Self:
        """Returns the latents of some windows; their spans are those in the whole document, whose hash they keep.

        Args:
            indices: of `windows`, rising.

        Raises:
            LatentsError: none, not rising, or beyond the windows there are.
        """
        chosen = list(indices)
        if not chosen or chosen != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < len(self.windows):
            raise LatentsError(f"windows {chosen} must be one or more of 0 to {len(self.windows) - 1}, in rising order")
        kept = set(chosen)
        mask = torch.tensor([i in kept for i in range(len(self.windows))])
        mask = mask.repeat_interleave(torch.tensor([window.latents for window in self.windows]))
        return dataclasses.replace(
            self,
            vectors=self.vectors[mask.to(self.vectors.device)],
            token_spans=self.token_spans[mask.to(self.token_spans.device)],
            char_spans=self.char_spans[mask.to(self.char_spans.device)],
            windows=tuple(self.windows[i] for i in chosen),
        )

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file; vectors come back bit for bit in their dtype, on the CPU.

        Written to a temporary file in the same folder and renamed: an old file stays whole until the new one is.

        Raises:
            LatentsError: the file cannot be written (disk full, no such folder, no permission).
        """
        tensors = {name: getattr(self, name).detach().cpu().contiguous().clone() for name in _TENSORS}
        header = {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "windows": [dataclasses.asdict(window) for window in self.windows],
            **{name: getattr(self, name) for name in _HEADER_TYPES},
        }
        header["sha256"] = _digest(tensors, header)
        metadata = {_METADATA_KEY: json.dumps(header, allow_nan=False)}
        _write_whole(Path(path), safetensors.torch.save(tensors, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote, onto the CPU, running no code from the file.

        `Latents.load` gives the kind that the file holds, that of a kind refuses the other.

        Raises:
            LatentsError: missing, truncated, altered, a pickle, not safetensors, of another schema or kind, or
                contradictory.
        """
        file = local_path(path, LatentsError, "latents file")
        tensors, metadata = _read_safetensors(file)
        try:
            kind, header = _parsed_header(metadata, tensors)
            made = cls._of_kind(kind)
            if set(tensors) != set(_TENSORS):
                raise LatentsError(f"holds the tensors {sorted(tensors)} instead of {sorted(_TENSORS)}")
            fields: dict[str, Any] = {**tensors, **header}
            return made(**fields)
        except (LatentsError, OverflowError) as error:
            raise LatentsError(f"{file}: {error}; {_REMEDY}, or compress the text again") from error

    @classmethod
    def _of_kind(cls, name: Any) -> type[Self]:
        """This class, or the one of its kinds that a file names."""
        kinds = {one.kind: one for one in _KINDS if issubclass(one, cls)}
        if not isinstance(name, str) or name not in kinds:
            raise LatentsError(f"it holds latents of kind {name!r} instead of {' or '.join(map(repr, kinds))}")
        return kinds[name]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class EmbeddingLatents(Latents):
    """Latents that enter the decoder as input embeddings: D is their width."""

    kind: ClassVar[str] = "embedding"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class KVLatents(Latents):
    """Latents that are entries of the decoder's key/value cache: D is 2 x layers x key/value heads x head width.

    Of each layer in turn, and in it of each head, the key without its position and then the value; see
    `latentpress.cache_entries`.
    """

    kind: ClassVar[str] = "key-value"


_KINDS: tuple[type[Latents], ...] = (EmbeddingLatents, KVLatents)


def total_ratio(latents: Sequence[Latents]) -> float:
    """Returns the ratio of several documents together: total context tokens / total latents."""
    if not latents:
        raise LatentsError("no latents given: a ratio needs at least one document")
    return sum(one.context_tokens for one in latents) / sum(len(one) for one in latents)


_Types = dict[str, tuple[type, ...]]
_NUMBER, _NUMBER_OR_NULL = (float, int), (float, int, type(None))
_PROVENANCE = ("press", "press_fingerprint", "base_fingerprint", "text_sha256")
_HEADER_TYPES: _Types = {
    "requested_ratio": _NUMBER_OR_NULL,
    "requested_length": (int, type(None)),
    "scale": _NUMBER,
    **dict.fromkeys(_PROVENANCE, (str,)),
}
_LATER = {"requested_length": None}  # what files of older versions lack, and mean
_COUNTS = dict.fromkeys(("start", "tokens", "latents"), (int,))
_WINDOW_TYPES: _Types = {**_COUNTS, "ratio": _NUMBER, "log2_ratio": _NUMBER_OR_NULL}


def _check_tensors(latents: Latents) -> None:
    vectors = latents.vectors
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise LatentsError(
            f"vectors of shape {tuple(vectors.shape)} are not [latents, width] with at least one of each"
        )
    if vectors.dtype not in (torch.bfloat16, torch.float32):
        raise LatentsError(f"vectors are {vectors.dtype}: only torch.bfloat16 and torch.float32 are kept exactly")
    for name in ("token_spans", "char_spans"):
        spans = getattr(latents, name)
        if spans.dtype != torch.int64 or tuple(spans.shape) != (vectors.shape[0], 2):
            found = f"{spans.dtype} of shape {tuple(spans.shape)}"
            raise LatentsError(f"{name} are {found}: {len(vectors)} latents need torch.int64 and ({len(vectors)}, 2)")
        if bool((spans < 0).any() | (spans[:, 0] > spans[:, 1]).any() | (spans[1:] < spans[:-1]).any()):
            raise LatentsError(f"{name} run backwards or below 0: starts and ends must not fall from latent to latent")


def _check_windows(latents: Latents) -> None:
    windows, token_spans = latents.windows, latents.token_spans
    in_windows = sum(window.latents for window in windows)
    if in_windows != len(latents):
        raise LatentsError(f"{len(latents)} vectors, but the windows' latents add up to {in_windows}")
    for before, after in itertools.pairwise(windows):
        if after.start < before.start + before.tokens:
            raise LatentsError(f"the window at token {after.start} begins before the one at {before.start} has ended")
    counts = torch.tensor([window.latents for window in windows])
    bounds = torch.tensor([(window.start, window.start + window.tokens) for window in windows])
    bounds = bounds.repeat_interleave(counts, dim=0).to(token_spans.device)
    starts, ends = token_spans.unbind(dim=1)
    wrong = ((starts < bounds[:, 0]) | (ends > bounds[:, 1]) | (starts == ends)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        covered, window = token_spans[index].tolist(), bounds[index].tolist()
        raise LatentsError(
            f"latent {index} covers the tokens {covered}: give it one or more inside its window {window}"
        )


def _check_provenance(latents: Latents) -> None:
    if latents.requested_ratio is not None and not 1.0 <= latents.requested_ratio < math.inf:
        raise LatentsError(f"requested ratio {latents.requested_ratio} is not a number of 1 or more")
    if latents.requested_length is not None and latents.requested_length < 1:
        raise LatentsError(f"requested length {latents.requested_length} is not a number of 1 or more")
    if not math.isfinite(latents.scale):
        raise LatentsError(f"scale {latents.scale} is not finite")
    if not latents.press:
        raise LatentsError("the name of the press is empty")
    for name in ("press_fingerprint", "base_fingerprint", "text_sha256"):
        value = getattr(latents, name)
        if not _HEX.fullmatch(value) or (name == "text_sha256" and len(value) != 64):
            raise LatentsError(
                f"{name} {value!r} is not a hexadecimal {'SHA-256' if name == 'text_sha256' else 'number'}"
            )


def _digest(tensors: dict[str, Tensor], header: dict[str, Any]) -> str:
    """Returns the SHA-256 of the header and of names, dtypes, shapes and bytes of the tensors.

    safetensors sees a truncation, but no flipped bit.
    """
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; a kill in between leaves a hidden temporary file, never half a target."""
    target = path.resolve()  # a link keeps pointing where it did
    temporary = target.with_name(f".latentpress-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise LatentsError(
            f"{path}: could not write {len(content):,} bytes ({error.strerror or error}) and left what was there "
            "before unchanged; free space, or give a file in an existing, writable folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns tensors and metadata of a safetensors file, the tensors copied so that they outlive the file."""
    try:
        with file.open("rb") as raw:
            start = raw.read(4)
        with safe_open(file, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name).clone() for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise LatentsError(f"{file}: cannot be read ({error.strerror or error}); {_REMEDY}") from error
    except SafetensorError as error:
        # Only now: safetensors begins with its header's length, and a length may look like the start of a pickle.
        if start.startswith(_PICKLE_STARTS):
            raise LatentsError(
                f"{file}: is a pickle or zip file, not opened because it can run code; {_REMEDY}"
            ) from error
        raise LatentsError(f"{file}: is truncated or not safetensors ({error}); {_REMEDY}, or copy it again") from error


def _parsed_header(metadata: dict[str, str], tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Any]]:
    """Returns the kind and the constructor's arguments beside the tensors, every type checked, the checksum too."""
    if _METADATA_KEY not in metadata:
        raise LatentsError(f"is safetensors but holds no latents (no {_METADATA_KEY!r} in its metadata)")
    try:
        header = json.loads(metadata[_METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise LatentsError(f"its header is not JSON ({error})") from error
    version = header.get("schema_version") if isinstance(header, dict) else None
    if version != SCHEMA_VERSION:
        raise LatentsError(f"its schema version is {version!r}, and this latentpress reads {SCHEMA_VERSION} only")
    kind = header.get("kind")
    whole = {name: value for name, value in header.items() if name != "sha256"}
    types: _Types = {**_HEADER_TYPES, "sha256": (str,), "windows": (list,)}
    header = _LATER | {name: value for name, value in header.items() if name not in ("schema_version", "kind")}
    _check_types(header, types, "its header")
    for index, window in enumerate(header["windows"]):
        _check_types(window, _WINDOW_TYPES, f"window {index} of its header")
    if header.pop("sha256") != _digest(tensors, whole):
        raise LatentsError("its contents do not match their checksum")
    header["windows"] = tuple(WindowInfo(**window) for window in header["windows"])
    return kind, header


def _check_types(values: Any, types: _Types, where: str) -> None:
    if not isinstance(values, dict) or set(values) != set(types):
        found = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise LatentsError(f"{where} holds {found} instead of {sorted(types)}")
    for name, accepted in types.items():
        if type(values[name]) not in accepted:
            raise LatentsError(f"{where} has {values[name]!r} as {name}")
