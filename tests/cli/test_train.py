"""`latentpress train`: what it passes on, and mistakes. The training itself has its own tests."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.helpers import Result

Run = Callable[..., Result]


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Takes the place of the training; notes each call."""
    calls: list[dict[str, Any]] = []

    def train(recipe: str, *, out: Path, **options: Any) -> Path:
        calls.append({"recipe": recipe, "out": out, **options})
        sys.stdout.write("a library that talks\n")
        return out / "press"

    monkeypatch.setattr("latentpress.training.run.train", train)
    return calls


def test_every_option_reaches_the_training(run: Run, training: list[dict[str, Any]], press: Path) -> None:
    done = run(
        *("train", "semidynamic", "steps=10", "encoder_lora.rank=8", "--data", "a.jsonl", "--data", "org/name"),
        *("--out", "runs/x", "--minutes", "1.5", "--dev", "d.jsonl", "--base", "org/base", "--from-press", press),
        *("--no-resume", "--labels", "labels.jsonl", "--hold-out", "passages.jsonl"),
    )
    assert done.code == 0
    assert training == [
        {
            "recipe": "semidynamic",
            "out": Path("runs/x"),
            "data": ["a.jsonl", "org/name"],
            "minutes": 1.5,
            "dev": "d.jsonl",
            "base": "org/base",
            "overrides": ["steps=10", "encoder_lora.rank=8"],
            "resume": False,
            "from_press": str(press),
            "labels": Path("labels.jsonl"),
            "hold_out": "passages.jsonl",
        }
    ]
    assert "runs/x/press" in done.out


def test_defaults_resume_and_json_is_all_there_is_on_stdout(run: Run, training: list[dict[str, Any]]) -> None:
    done = run("train", "reader", "--data", "a.jsonl", "--out", "runs/x", "--json")
    assert done.code == 0
    assert set(done.json) == {"recipe", "out", "press", "seconds"}
    assert (done.json["recipe"], done.json["out"], done.json["press"]) == ("reader", "runs/x", "runs/x/press")
    assert "a library that talks" in done.err
    given = training[0]
    assert given["resume"] is True
    assert given["overrides"] == []
    assert given["minutes"] is given["dev"] is given["base"] is given["from_press"] is None


def test_the_first_of_several_processes_speaks_for_all(
    run: Run, training: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        done = run("train", "reader", "--data", "a.jsonl", "--out", "runs/x", "--json")
        assert (done.code, bool(done.out)) == (0, rank == "0")


def test_phases_have_settings_of_their_own(run: Run, training: list[dict[str, Any]]) -> None:
    done = run("train", "comprexit", "ntp.steps=10", "sft.data=qa.jsonl", "--data", "a.jsonl", "--out", "runs/x")
    assert done.code == 0
    assert training[0]["recipe"] == "comprexit"
    assert training[0]["overrides"] == ["ntp.steps=10", "sft.data=qa.jsonl"]
    help_text = " ".join(run("train", "--help").out.replace("│", " ").split())
    assert "PHASE.NAME=VALUE one (ntp.steps=1000)" in help_text


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["comprexit", "stf.steps=5"], "has no phase 'stf'; choose one of ntp, sft"),
        (["comprexit", "sft.steps=many"], "many"),
        (["comprexit", "sft=5"], "names a phase and no setting of it"),
        (["comprexit-ntp", "ntp.steps=5"], "recipe 'comprexit-ntp' has no setting 'ntp'"),
        (["semidynamic", "steps"], "override 'steps'"),
        (["semidynamic", "=5"], "override '=5'"),
        (["semidynamic", "--minutes", "0"], "--minutes 0"),
        (["semidynamic", "--minutes", "nan"], "--minutes nan"),
        (["semidynamic", "--from-press", "no-such-press"], "no-such-press"),
        (["nonsense"], "semidynamic"),
        (["semidynamic", "stepps=5"], "stepps"),
        (["semidynamic", "steps=many"], "many"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_in_what_was_given_is_named(run: Run, tmp_path: Path, args: list[str], part: str) -> None:
    run("train", *args, "--data", tmp_path / "none.jsonl", "--out", tmp_path / "out").fails_with(part)
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file_is_refused(run: Run, document: Path) -> None:
    run("train", "semidynamic", "--data", "x.jsonl", "--out", document).fails_with(str(document), "is a file")


def test_data_line_that_is_not_json_is_named(run: Run, tmp_path: Path, tiny_base_folder: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"context": "A text.", "qas": [{"question": "What?", "answers": ["A text"]}]}\n{"context": \n')
    done = run("train", "semidynamic", "--data", data, "--out", tmp_path / "out", "--base", tiny_base_folder, "--json")
    assert (done.code, done.json["error"]["type"]) == (2, "DataError")
    assert done.json["error"]["message"].startswith(f"{data}:2: not JSON")
