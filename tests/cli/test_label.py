"""`latentpress label`: labels from three sources, compared and trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.helpers import Result
from latentpress.data.labels import read_labels

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve records with questions and summaries, and one with neither."""
    words = ("treaty", "fox", "dog", "Paris", "words", "beginning", "the", "signed", "lazy", "May", "document", "brown")
    rows: list[dict[str, Any]] = [
        {
            "id": f"r{i}",
            "genre": "wiki" if i % 2 else "book",
            "context": f"The {word} was in the {words[i - 1]} and then there was {word} in Paris." + " fox" * (i // 2),
            "short_summary": word,
            "qas": [{"question": "where?", "answers": ["Paris"]}],
        }
        for i, word in enumerate(words)
    ]
    rows.append({"id": "bare", "context": "A text without anything."})
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_labels_of_every_source_are_made_compared_and_calibrated(
    run: Run, data: Path, press: Path, tiny_base_folder: Path, tmp_path: Path
) -> None:
    base = ("--base", tiny_base_folder)
    summary, fidelity, surprisal = (tmp_path / f"{name}.jsonl" for name in ("summary", "fidelity", "surprisal"))
    done = run("label", "summary", "--data", data, "--out", summary, *base)
    assert done.code == 0, done.err
    assert "12 labels by summary, mean log2 ratio" in done.out
    assert "left out: 1 records without short_summary" in done.out
    options = ("--dtype", "float32", "--json")
    made = run(
        "label", "fidelity", "--data", data, "-o", fidelity, "--press", press, "--tolerance", "0.05", *options
    ).json
    assert (made["labels"], made["measured"], made["kept"]) == (12, 12, 0)
    assert made["left_out"] == {"without questions and answers": 1}
    given = ("label", "surprisal", "--data", data, "-o", surprisal, "--calibrate", summary, *base, *options)
    assert run(*given, "--limit", "11").json["labels"] == 11
    again = run(*given).json
    assert (again["labels"], again["kept"]) == (13, 11)
    assert again["found"]["in_common"] == 12
    assert read_labels(surprisal).header["made_by"]["base"]["id"] == str(tiny_base_folder)
    before = surprisal.read_bytes()
    fewer = run(*given, "--limit", "11").json
    assert (fewer["labels"], fewer["beyond"], fewer["measured"]) == (13, 2, 0)
    assert all(fewer[key] == again[key] for key in ("mean", "deviation", "found", "left_out"))
    told = run(*given[:-1], "--limit", "11")
    assert "13 labels by surprisal" in told.out
    assert "that is 2 more than --limit and the data ask for: the file stays as it is" in told.out
    assert surprisal.read_bytes() == before

    found = run("label", "compare", summary, fidelity, surprisal, "--data", data, "--json").json
    pairs = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    assert pairs["summary", "surprisal"]["texts"] == 12
    assert pairs["summary", "surprisal"]["pearson"]["mean"] == pytest.approx(again["found"]["correlation"], abs=0.2)
    assert ("fidelity", "zlib") in pairs
    assert list(found["spreads"]["summary"]) == ["all", "book", "wiki"]
    shown = run("label", "compare", summary, surprisal)
    assert shown.code == 0
    assert "Spearman" in shown.out
    assert "wiki" in shown.out


def test_labels_of_one_language_may_be_compared(run: Run, data: Path, tiny_base_folder: Path, tmp_path: Path) -> None:
    rows = [
        json.loads(line) | {"lang": ("en", "zh")[i % 3 == 0]} for i, line in enumerate(data.read_text().splitlines())
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ("--base", tiny_base_folder, "--json")
    summary, surprisal = (tmp_path / f"{name}.jsonl" for name in ("summary", "surprisal"))
    assert run("label", "summary", "--data", data, "-o", summary, *base).code == 0
    assert run("label", "surprisal", "--data", data, "-o", surprisal, *base).code == 0
    compare = ("label", "compare", summary, surprisal)
    found = run(*compare, "--data", data, "--lang", "en", "--json").json
    labelled = [row for row in rows if row["lang"] == "en" and "short_summary" in row]
    assert {pair["texts"] for pair in found["pairs"]} == {len(labelled)} != {12}
    ids = {row["id"] for row in labelled}
    own = [label.log2_ratio for label in read_labels(summary).labels.values() if label.id in ids]
    assert found["spreads"]["summary"]["all"]["mean"] == pytest.approx(sum(own) / len(own))
    run(*compare, "--lang", "en").fails_with("--lang en needs --data")
    run(*compare, "--data", data, "--lang", "fr").fails_with("no record has lang 'fr'", "en, zh")
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row | {"context": f"Other {row['id']}."}) + "\n" for row in rows))
    run(*compare, "--data", other, "--lang", "en").fails_with("none of its 12 labels is of a text of --data", "'en'")


def test_progress_goes_to_stderr(run: Run, data: Path, tiny_base_folder: Path, tmp_path: Path) -> None:
    done = run("label", "summary", "--data", data, "--out", tmp_path / "a.jsonl", "--base", tiny_base_folder, "--json")
    assert "labelling by summary: 0 of 12 texts are measured" in done.err
    assert done.json["texts_per_second"] > 0


def test_an_interruption_says_that_the_same_command_goes_on(
    run: Run, data: Path, tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentpress.labels.summary import SummaryLabels

    def interrupt(self: SummaryLabels, items: object) -> list[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(SummaryLabels, "measure", interrupt)
    done = run("label", "summary", "--data", data, "--out", tmp_path / "a.jsonl", "--base", tiny_base_folder)
    assert done.code == 130
    assert "what is measured is kept; the same command goes on" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("summary", "--limit", "0"), "--limit 0 is below 1"),
        (("summary", "--out", "labels.jsonl.xz"), "names a compressed file"),
        (("fidelity", "--tolerance", "nan"), "--tolerance nan must be a finite number"),
        (("surprisal", "--statistic", "words"), "statistic 'words' is unknown"),
        (("surprisal", "--window-tokens", "9999"), "window_tokens=9999 must be from 2 to 512"),
    ],
)
def test_mistakes_are_told_in_a_line(
    run: Run, data: Path, tiny_base_folder: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    out = () if "--out" in options else ("--out", tmp_path / "labels.jsonl")
    base = () if options[0] == "fidelity" else ("--base", tiny_base_folder)
    run("label", *options, "--data", data, *out, *base).fails_with(said)


def test_data_that_cannot_be_labelled_is_refused(run: Run, press: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"context": "A text without anything."}\n')
    out = ("--data", bare, "--out", tmp_path / "labels.jsonl")
    run("label", "fidelity", *out, "--press", press).fails_with("1 without questions and answers; give other --data")


def test_a_folder_and_what_is_no_label_are_refused(run: Run, data: Path, tmp_path: Path) -> None:
    run("label", "summary", "--data", data, "--out", tmp_path).fails_with("is a folder; give a file for the labels")
    run("label", "compare", data).fails_with("records.jsonl:1: is no header of density labels")
    run("label", "compare", data, "--seed", "-1").fails_with("--seed -1 is out of range")


def test_a_head_is_fitted_to_labels(run: Run, press: Path, tiny_base_folder: Path, tmp_path: Path) -> None:
    contexts = ["The fox and the" + " dog" * (1 + i % 12) + " fox" * (i // 12) for i in range(40)]
    rows = [{"id": f"r{i}", "context": text, "short_summary": "fox"} for i, text in enumerate(contexts)]
    data = tmp_path / "many.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    labels = tmp_path / "labels.jsonl"
    assert run("label", "summary", "--data", data, "--out", labels, "--base", tiny_base_folder).code == 0
    given = ("label", "fit", labels, "--data", data, "--press", press, "--out", tmp_path / "fitted")
    run(*given).fails_with("outside 1 to 3", "26 of 40", "--clamp-labels")
    done = run(*given, "--clamp-labels")
    assert done.code == 0, done.err
    assert "head fitted to 40 labels by summary, 26 of them clamped" in done.out
    assert (tmp_path / "fitted" / "config.json").exists()
    given = (
        "label",
        "fit",
        labels,
        "--data",
        data,
        "--press",
        press,
        "--out",
        data.parent / "again",
        "--json",
        "--clamp-labels",
    )
    found = run(*given, "--hold-out", data).json
    assert found["left_out"] == {"held out": 40 - found["texts"]}
    assert found["mae"] <= found["mae_of_mean"] + 0.2
