"""From arguments to an exit code: what goes wrong becomes one message on stderr, or one JSON object on stdout."""

import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence

import typer

from latentpress.cli.output import print_error, print_json
from latentpress.errors import LatentpressError

USAGE_ERROR = 2
FAILED = 1
INTERRUPTED = 130

_QUIET = {  # read by transformers and huggingface_hub when they are imported
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "true",  # otherwise it warns when a process forks
}
_EXPECTED = (LatentpressError, OSError, typer.TyperException, typer.Abort, KeyboardInterrupt)
# torch's errors are told by their text: torch may not be imported, and on the CPU they are plain RuntimeErrors.
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory")
_ALLOCATION = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
_REMEDIES = {
    errno.ENOENT: "give an existing path",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "give a path whose parents are folders",
    errno.EACCES: "change its permissions, or give another path",
    errno.EROFS: "give a path on a file system that can be written",
    errno.ENOSPC: "free some space and run the same command again; what was done is kept",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f) and run the same command again; what was done is kept",
    errno.EDQUOT: "free some space and run the same command again; what was done is kept",
}


def run(app: typer.Typer, argv: Sequence[str] | None, *, name: str) -> int:
    """Runs a typer app to its exit code.

    Args:
        app: the verbs.
        argv: arguments after the program's name; those of the process if None.
        name: what the program is called in usage lines.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    options = args[: args.index("--")] if "--" in args else args
    debug = "--debug" in options or os.environ.get("LATENTPRESS_DEBUG", "0") not in ("", "0")
    if "--debug" in options:
        args.remove("--debug")
    _tolerate_narrow_encodings()
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
                for variable, value in _QUIET.items():
                    os.environ.setdefault(variable, value)
            code = app(args, prog_name=name, standalone_mode=False)
        if code != INTERRUPTED:  # typer turns a KeyboardInterrupt into this code
            return code if isinstance(code, int) else 0
        kind, message, code = "KeyboardInterrupt", "interrupted", INTERRUPTED
    except BaseException as error:
        if not isinstance(error, _EXPECTED) and not _is_out_of_memory(error):
            raise  # a bug of ours, which a traceback tells most about
        if debug:
            traceback.print_exc()
        kind, message, code = _explain(error)
    if "--json" in options:
        print_json({"error": {"type": kind, "message": message}})
    else:
        print_error(message)
    return code


def _explain(error: BaseException) -> tuple[str, str, int]:
    """Kind, message and exit code of an error that the user can mend."""
    kind = type(error).__name__
    if _is_out_of_memory(error):
        wanted = _ALLOCATION.search(str(error))
        what = f"out of memory, asking for {wanted[1]} more" if wanted else "out of memory"
        advice = "give shorter documents or a higher --ratio, or free some; for a training lower tokens_per_step="
        return "MemoryError", f"{what}; {advice}", FAILED
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return "KeyboardInterrupt", "interrupted", INTERRUPTED
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        return "UsageError", error.format_message().rstrip(".") + hint, USAGE_ERROR
    if isinstance(error, OSError):
        remedy = _REMEDIES.get(error.errno or 0)
        what = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error) or kind
        return kind, f"{what}; {remedy}" if remedy else what, USAGE_ERROR
    return kind, str(error), USAGE_ERROR


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    told = isinstance(error, RuntimeError) and not isinstance(error, LatentpressError)
    return isinstance(error, MemoryError) or (told and _OUT_OF_MEMORY.search(str(error)) is not None)


def _tolerate_narrow_encodings() -> None:
    """Lets answers with any character through to terminals and pipes that know few."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
