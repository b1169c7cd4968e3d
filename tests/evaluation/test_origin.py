"""Where answers come from: a date, versions, the processor, and the commit of the checkout that made them."""

from __future__ import annotations

import json
import subprocess
from datetime import date
from pathlib import Path

from latentpress.evaluation.origin import _revision, origin, processor


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *who, *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_it_is_plain_data() -> None:
    told = origin("cpu")
    assert json.loads(json.dumps(told)) == told
    assert date.fromisoformat(told["date"]).year >= 2026
    assert (told["device"], told["processor"]) == ("cpu", processor())
    assert {"latentpress", "torch", "transformers"} == told["versions"].keys()
    assert told["threads"] >= 1


def test_the_revision_is_of_the_own_checkout_and_says_whether_it_was_changed(tmp_path: Path) -> None:
    assert _revision(tmp_path / "missing") is None
    package = tmp_path / "package"
    package.mkdir()
    git(tmp_path, "init", "-q")
    assert _revision(package) is None  # in somebody's repository, not of it
    (package / "module.py").write_text("one = 1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    head = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert _revision(package) == head
    (tmp_path / "notes.txt").write_text("beside the package")
    assert _revision(package) == head
    (package / "module.py").write_text("one = 2\n")
    assert _revision(package) == head + "+"
