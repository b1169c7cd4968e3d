"""`latentpress eval`: the whole command on a tiny press, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_results import compared_folder
from safetensors.torch import load_file, save_file

import latentpress
from cli.helpers import Result, write_tiny_press
from latentpress.cli.comparison import time_left
from latentpress.evaluation.metrics_file import write_metrics
from latentpress.evaluation.published import CLAIMS
from latentpress.lora import LoraSettings

TOWNS = ("Paris", "Vienna", "Lisbon", "Oslo")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four contexts with two questions each."""
    rows = [
        {
            "context": f"The treaty was signed in {town} in May. A fox was there. It rained on the roofs all day.",
            "qas": [
                {"id": f"{town}-1", "question": "Where was the treaty signed?", "answers": [town]},
                {"id": f"{town}-2", "question": "Who was there?", "answers": ["A fox", "fox"]},
            ],
        }
        for town in TOWNS
    ]
    file = tmp_path / "treaties.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Path:
    """A reader of text on disk, as the recipe `reader` makes them."""
    return write_tiny_press(
        tmp_path_factory.mktemp("presses") / "reader",
        tiny_base_folder,
        name="reader",
        compressor="first-tokens",
        policy="fixed",
        residual="none",
        candidates=(1, 4),
        encoder_layers=None,
        encoder_lora=None,
        decoder_lora=LoraSettings(rank=2),
    )


def test_a_comparison_is_answered_scored_drawn_and_gone_on_with(
    run: Callable[..., Result], press: Path, reader: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    command: list[Any] = ["eval", "--data", data, "--reader", reader, "--out", out, "--max-new-tokens", 4]
    systems = f"{press}@4/auto+1,none,full,head@4,bm25-sentences@4"
    first = run(*command, "--with", f"{press}@4", "--json")
    assert first.code == 0, first.err
    assert first.json["answered"] == 8
    done = run(*command, "--with", systems, "--json")
    assert done.code == 0, done.err
    assert (done.json["kept"], done.json["failed"]) == (8, [])
    assert done.json["answered"] == 8 * 9  # the press at its second size, four bounds by two readers each
    written = list((out / "predictions" / "treaties").iterdir())
    for path in written:
        begun = json.loads(path.read_text().partition("\n")[0])["begun"]
        assert (begun["device"], begun["versions"]["latentpress"]) == ("cpu", latentpress.__version__)
    assert {path.stem for path in written} == {
        "tiny-x4",
        "tiny-auto+1",
        *(f"{name}-{by}" for name in ("none", "full", "head-x4", "bm25-sentences-x4") for by in ("zero-shot", "tuned")),
    }
    report = (out / "report.md").read_text()
    assert "tiny-x4" in report
    assert "bm25-sentences-x4-tuned" in report
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["ceiling"] == "full-tuned"
    assert {system["reader"] for system in metrics["systems"].values()} == {"own", "zero-shot", "tuned"}
    for name in ("pareto.png", "pareto.svg"):
        assert (out / name).stat().st_size > 1000
    again = run(*command, "--with", systems)
    assert "0 questions answered, 80 were there" in again.out
    assert run("eval", "report", out).code == 0
    assert (out / "report.md").read_text() == report


def test_times_are_taken_on_request(
    run: Callable[..., Result], press: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results"
    command = ["eval", "--data", data, "--with", f"{press}@4,head@4", "--out", out, "--limit", 2, "--max-new-tokens", 2]
    done = run(*command, "--speed", "--speed-lengths", "40")
    assert done.code == 0, done.err
    times = json.loads((out / "speed.json").read_text())
    assert set(times["lengths"]["40"]) == {
        "full-zero-shot",
        "full-cached-zero-shot",
        "tiny-x4",
        "head-x4-zero-shot",
    }
    assert "text cached" in (out / "report.md").read_text()
    assert (out / "latency.png").exists()


def test_a_protocol_sets_limit_and_measure(run: Callable[..., Result], press: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = run(
        "eval", "--data", data, "--with", f"{press}@4", "--out", out, "--protocol", "semidynamic", "--max-new-tokens", 2
    )
    assert done.code == 0, done.err
    assert json.loads((out / "settings.json").read_text())["protocol"] == "semidynamic"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["sets"]["treaties"]["measure"] == "substring_accuracy"


def test_systems_protocols_and_sets_are_listed_without_a_model(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, versions in (("LLMLINGUA", {}), ("KVPRESS", {"kvpress": "0.5.5"})):
        python = tmp_path / name
        python.write_text(f"#!/bin/sh\necho '{json.dumps(versions)}'\n")
        python.chmod(0o755)
        monkeypatch.setenv(f"LATENTPRESS_PEER_{name}", str(python))
    listed = run("eval", "--list")
    assert "all of MRQA's" in " ".join(listed.out.split())
    assert listed.code == 0
    for name in ("semidynamic-smollm2-135m", "bm25-sentences", "llmlingua", "snapkv", "comprexit ", "TextbookQA"):
        assert name in listed.out
    assert "kvpress==0.5.5, installed" in listed.out
    assert "llmlingua==0.2.2, not installed" in listed.out
    assert "To install what is missing: latentpress eval peer llmlingua\n" in listed.out
    found = run("eval", "--list", "--json").json
    families = found["families"]
    assert families["bm25-sentences"]["sees_question"] is True
    assert families["head"]["sees_question"] is False
    assert [families[name]["installed"] for name in ("head", "llmlingua", "snapkv")] == [None, False, True]
    assert [families[name]["needs"] for name in ("head", "snapkv")] == [None, "kvpress==0.5.5"]
    assert found["protocols"]["semidynamic"]["sets"] == ["HotpotQA", "SQuAD", "NQ", "AdversarialQA"]
    assert found["protocols"]["default"]["sets"] == []
    assert len(found["sets"]) == 13  # MRQA's twelve and AdversarialQA


def test_sets_of_a_folder_are_listed_too(run: Callable[..., Result], data: Path) -> None:
    assert data.stem in run("eval", "--list", "--data-dir", str(data.parent), "--json").json["sets"]


def test_a_peer_that_is_not_there_is_missed_before_anything_is_loaded(
    run: Callable[..., Result], press: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("latentpress.cli.eval.open_press", lambda *_, **__: pytest.fail("loaded"))
    names = f"{press}@4,head@4,llmlingua:zero-shot@4"
    result = run("eval", "--data", str(data), "--out", str(tmp_path / "results"), "--with", names)
    assert result.code == 2
    assert "run: latentpress eval peer llmlingua" in " ".join(result.err.split())


def test_the_time_left_is_reckoned_from_what_this_run_answered() -> None:
    assert time_left(seconds=60, done=0, left=10) == ""
    assert time_left(seconds=60, done=10, left=10) == ", about 1 minute left"
    assert time_left(seconds=60, done=10, left=11) == ", about 2 minutes left"


def test_what_an_earlier_run_answered_does_not_count_as_the_work_of_this_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from latentpress.cli import comparison
    from latentpress.evaluation import runner

    clock = iter([0.0, 60.0, 120.0])

    def answered(_comparison: object, progress: Callable[[runner.Progress], None], *, close: bool) -> None:
        assert close
        for label, done in (("a", 900), ("b", 910)):
            progress(runner.Progress(label=label, dataset="s", done=done, total=1000))

    monkeypatch.setattr(comparison, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(runner, "run", answered)
    comparison.answer(None, close=True)  # type: ignore[arg-type]
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "a on s: 900 of 1,000 questions are answered",
        "b on s: 910 of 1,000 questions are answered, about 18 minutes left",  # 10 in two minutes, 90 are left
    ]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--seed", "-1"), ("--seed -1 is out of range",)),
        (("--speed-lengths", "many"), ("--speed-lengths 'many'",)),
        (("--with", "hed@4"), ("unknown system 'hed'", "did you mean head")),
        (("--with", "head@0"), ("size '0' is out of range",)),
        (("--with", "full:tuned"), ("full:tuned needs a trained reader",)),
        (("--with", "full,full"), ("would be compared with itself",)),
        (("--limit", "0"), ("--limit 0 is below 1",)),
        (("--protocol", "paper"), ("'paper'", "semidynamic")),
        (("--ratios", "four"), ("size 'four' is neither a ratio",)),
        (("--peer-python", "kvpress"), ("--peer-python 'kvpress' names no peer",)),
        (("--peer-python", "kvpres=/usr/bin/python3"), ("no peer 'kvpres'", "llmlingua, kvpress")),
        (("--max-tokens", "3"), ("no question left", "with too long a context")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_refused(
    run: Callable[..., Result],
    press: Path,
    data: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    given = ["eval", "--data", str(data), "--out", str(tmp_path / "results"), "--with", f"{press}@4,head@4"]
    if options[0] == "--with":
        given[-1] = f"{press}@4,{options[1]}"
        options = ()
    result = run(*given, *options)
    assert result.code == 2
    message = result.err.splitlines()[-1]
    assert message.startswith("latentpress: error: ")
    for part in parts:
        assert part in message
    assert not (tmp_path / "results").exists()


def test_an_unknown_name_is_explained_wherever_it_stands(
    run: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    run("eval", "--data", data, "--out", tmp_path / "results", "--with", "hed@4").fails_with("did you mean head")


def test_presses_of_two_base_models_are_not_compared(
    run: Callable[..., Result], press: Path, data: Path, tmp_path: Path, tiny_base_folder: Path
) -> None:
    other_base = tmp_path / "base"
    shutil.copytree(tiny_base_folder, other_base)
    weights = load_file(other_base / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, other_base / "model.safetensors")
    other = write_tiny_press(tmp_path / "other", other_base, name="other")
    refused = run("eval", "--data", data, "--out", tmp_path / "results", "--with", f"{press}@4,{other}@4")
    assert refused.code == 2
    assert "compare presses of one base model" in refused.err


def test_two_presses_of_one_name_are_refused_unless_one_is_given_another(
    run: Callable[..., Result], press: Path, data: Path, tmp_path: Path, tiny_base_folder: Path
) -> None:
    other = write_tiny_press(tmp_path / "other", tiny_base_folder, converter_width=24)
    command = ["eval", "--data", data, "--out", tmp_path / "results", "--max-new-tokens", 1, "--with"]
    refused = run(*command, f"{press}@4,{other}@4")
    assert refused.code == 2
    assert "two presses are called 'tiny'" in refused.err
    done = run(*command, f"{press}@4,other={other}@4")
    assert done.code == 0, done.err
    assert (tmp_path / "results" / "predictions" / "treaties" / "other-x4.jsonl").exists()


def test_a_reader_is_what_it_is_called(
    run: Callable[..., Result], press: Path, reader: Path, data: Path, tmp_path: Path
) -> None:
    refused = run(
        "eval", "--data", data, "--out", tmp_path / "results", "--with", f"{press}@4,full", "--prompt-tuned", reader
    )
    assert refused.code == 2
    assert "0 prompt vectors and an adapter" in refused.err


def test_without_data_or_a_folder_nothing_is_loaded(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentpress.evaluation.sources._reads_hub", lambda: False)
    run("eval", "--out", tmp_path / "results").fails_with("no data set is given", "--data")
    run("eval", "--data", "squad").fails_with("--out")
    run("eval", "--data", "sqad", "--out", tmp_path / "results").fails_with("sqad", "SQuAD")
    run("eval", "--protocol", "semidynamic", "--out", tmp_path / "results").fails_with(
        "protocol 'semidynamic' asks for the data sets", "AdversarialQA; give --data-dir FOLDER"
    )


def test_a_set_that_comes_from_the_hub_although_a_folder_was_given_is_told(
    run: Callable[..., Result], press: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"subset": "DROP", "context": "It rained.", "question": "What did it do?", "answers": ["rained"]}]
    monkeypatch.setattr("latentpress.evaluation.formats.hub_rows", lambda _place: enumerate(rows, start=1))
    monkeypatch.setattr("latentpress.evaluation.sources._reads_hub", lambda: True)
    command = ["eval", "--data", "drop", "--with", f"{press}@4", "--out", tmp_path / "results", "--max-new-tokens", 1]
    told = f"DROP: {tmp_path} has no file DROP; it is read from the hub, mrqa-workshop/mrqa:test"
    first = run(*command)
    assert first.code == 0, first.err
    assert told not in first.err
    assert told in run(*command, "--data-dir", tmp_path).err


def test_a_set_without_answers_is_refused(run: Callable[..., Result], press: Path, tmp_path: Path) -> None:
    file = tmp_path / "plain.jsonl"
    file.write_text(json.dumps({"text": "No question here."}) + "\n")
    result = run("eval", "--data", file, "--with", f"{press}@4", "--out", tmp_path / "results")
    assert result.code == 2
    assert "no question with an answer" in result.err


def test_results_of_other_questions_are_not_mixed(
    run: Callable[..., Result], press: Path, data: Path, tmp_path: Path
) -> None:
    command = ["eval", "--data", data, "--with", f"{press}@4", "--out", tmp_path / "results", "--max-new-tokens", 2]
    assert run(*command, "--limit", 2).code == 0
    refused = run(*command, "--limit", 3)
    assert refused.code == 2
    assert "holds a comparison with other settings" in refused.err


def test_claims_are_listed_with_what_is_not_measured_yet(run: Callable[..., Result], tmp_path: Path) -> None:
    listed = run("eval", "claims", tmp_path, "--json")
    assert listed.code == 0, listed.err
    assert {claim["verdict"] for claim in listed.json["claims"]} == {"not yet measured"}
    assert listed.json["results"] == str(tmp_path)


def claims_with_a_note(results: Path, note: str) -> Path:
    """Results that say something of one claim."""
    compared_folder(results)
    entry = {"claim": "comprexit-over-icae", "metrics": "metrics.json", "first": "press-x4", "second": "full-tuned"}
    (results / "evidence.json").write_text(json.dumps({"format": 1, "evidence": [{**entry, "note": note}]}))
    write_metrics(results)
    return results


def test_claims_say_which_folder_was_read(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no folder ./results here; give a folder" in run("eval", "claims").out
    assert run("eval", "claims", "--json").json["results"] is None
    (tmp_path / "results").mkdir()
    empty = run("eval", "claims").out
    assert "Results were read from results, and nothing there tells of a claim; give a folder" in empty
    claims_with_a_note(tmp_path / "results", "One was trained for longer.")
    assert run("eval", "claims").out.endswith("Results were read from results\n")


@pytest.mark.parametrize("width", [40, 110, 200])
def test_claims_are_legible_at_any_width(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("latentpress.cli.output._PIPE_WIDTH", width)
    shown = run("eval", "claims", claims_with_a_note(tmp_path / "results", "One was trained for longer.")).out
    firsts = [line.split(" ")[0] for line in shown.splitlines()]
    if width == 200:
        assert shown.splitlines()[0].split() == ["paper", "claim", "published", "ours", "verdict", "from"]
        assert "published" not in firsts
    else:
        assert firsts.count("published") == firsts.count("verdict") == len(CLAIMS)
        assert "no fair test: One was trained for longer." in " ".join(shown.split())
