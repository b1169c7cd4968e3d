"""The command as a whole: help, exit codes, errors as text and as JSON."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.helpers import Result
from latentpress.cli import main

VERBS = ("ask", "compress", "inspect", "synth", "train", "info", "doctor")
COMMAND = Path(sys.executable).parent / "latentpress"

Run = Callable[..., Result]


@pytest.mark.parametrize("command", [[str(COMMAND)], [sys.executable, "-m", "latentpress"]], ids=["script", "module"])
def test_installed_command_prints_its_version_and_lists_every_verb(command: list[str]) -> None:
    version = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert (version.returncode, version.stdout.split()[0], version.stderr) == (0, "latentpress", "")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)


def test_installed_command_turns_a_mistake_into_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run([COMMAND, "ask", tmp_path / "none.txt", "-q", "Who?"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"latentpress: error: {tmp_path / 'none.txt'}: no such file")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)], ids=["none", *VERBS])
def test_help_imports_nothing_heavy(verb: list[str]) -> None:
    code = (
        "import sys; from latentpress.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'numpy', 'peft', 'safetensors', 'huggingface_hub'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *verb, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout
    assert not verb or "--json" in done.stdout


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["nope"], "nope"),
        (["ask"], "FILE"),
        (["ask", "a.txt"], "-q"),
        (["ask", "a.txt", "-q", "Who?", "--nope"], "--nope"),
        (["ask", "a.txt", "-q", "Who?", "--ratio", "four"], "--ratio"),
        (["compress", "a.txt"], "--out"),
        (["train", "semidynamic", "--out", "x"], "--data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_usage_error_is_one_line_or_one_object_and_exit_code_2(run: Run, args: list[str], part: str) -> None:
    run(*args).fails_with(part, "--help")
    done = run(*args, "--json")
    assert (done.code, done.err) == (2, "")
    assert done.json["error"]["type"] == "UsageError"
    assert part in done.json["error"]["message"]


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*args: object, **options: object) -> None:
        raise error

    return fail


def test_interruption_is_exit_code_130_and_no_traceback(
    run: Run, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentpress.cli.ask.open_press", raising(KeyboardInterrupt()))
    done = run("ask", document, "-q", "Who?")
    assert (done.code, done.out, done.err) == (130, "", "latentpress: error: interrupted\n")
    done = run("ask", document, "-q", "Who?", "--json")
    assert (done.code, done.json["error"]["type"]) == (130, "KeyboardInterrupt")


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/disk"),
            ("/full/disk", "No space left", "free some space"),
        ),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/locked"), ("/locked", "Permission denied")),
        (OSError("odd"), ("odd",)),
    ],
)
def test_error_of_the_system_names_the_path_and_the_remedy(
    run: Run, document: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, parts: tuple[str, ...]
) -> None:
    monkeypatch.setattr("latentpress.cli.ask.open_press", raising(error))
    run("ask", document, "-q", "Who?").fails_with(*parts)


@pytest.mark.parametrize("how", ["option before", "option after", "environment"])
def test_debug_shows_the_traceback_with_the_same_exit_code(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    args = ["ask", str(tmp_path / "none.txt"), "-q", "Who?"]
    if how == "environment":
        monkeypatch.setenv("LATENTPRESS_DEBUG", "1")
    else:
        args = ["--debug", *args] if how == "option before" else [*args, "--debug"]
    done = run(*args)
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.rstrip().endswith("for stdin")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), RuntimeError("shapes do not match")], ids=lambda e: type(e).__name__
)
def test_bug_is_not_taken_for_a_mistake_of_the_user(
    document: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("latentpress.cli.ask.open_press", raising(error))
    with pytest.raises(type(error)):
        main(["ask", str(document), "-q", "Who?"])


def exhausted(kind: str) -> BaseException:
    """What running out of memory looks like: in Python, in the system, on the CPU, on a GPU."""
    import torch

    if kind == "CPU":
        with pytest.raises(RuntimeError) as raised:
            torch.empty(10**15)
        return raised.value
    gpu = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB.\nSee more."
    system = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "/a/model.safetensors")
    return {"Python": MemoryError(), "system": system, "GPU": torch.OutOfMemoryError(gpu)}[kind]


@pytest.mark.parametrize(
    ("kind", "part"),
    [("Python", ""), ("system", ""), ("CPU", "4000000000000000 bytes"), ("GPU", "20.00 GiB")],
)
def test_running_out_of_memory_is_one_line_with_the_remedy_and_exit_code_1(
    run: Run, document: Path, monkeypatch: pytest.MonkeyPatch, kind: str, part: str
) -> None:
    monkeypatch.setattr("latentpress.cli.ask.open_press", raising(exhausted(kind)))
    done = run("ask", document, "-q", "Who?")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert done.err.startswith("latentpress: error: out of memory")
    for one in (part, "shorter documents", "--ratio", "tokens_per_step="):
        assert one in done.err
    done = run("ask", document, "-q", "Who?", "--json")
    assert (done.code, done.err, done.json["error"]["type"]) == (1, "", "MemoryError")


def test_reader_that_closes_early_is_no_error() -> None:
    code = "from latentpress.cli import main; import sys; sys.exit(main(['--help']))"
    done = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{code}" | true'], capture_output=True, text=True)
    assert done.stderr == ""


def test_json_is_ascii_and_survives_any_encoding(press: Path, tmp_path: Path) -> None:
    file = tmp_path / "été.txt"
    file.write_text("Der Vertrag wurde in München geschlossen. 条約", encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    command = [COMMAND, "ask", file, "-q", "Wo? 条", "--press", press, "--max-new-tokens", "2"]
    done = subprocess.run([*command, "--json"], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")  # neither progress bars nor warnings of what is underneath
    assert json.loads(done.stdout.decode("ascii"))["answers"][0]["question"] == "Wo? 条"
    done = subprocess.run(command, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
