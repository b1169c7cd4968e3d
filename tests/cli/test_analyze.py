"""`latentpress analyze`: every verb on tiny data, what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_sweeps import swept_folder

from cli.helpers import TEXT, Result, write_tiny_press
from latentpress.data.held_out import is_held_out
from latentpress.data.labels import DensityLabel, label_lines, text_digest
from latentpress.tokens import encode_inert

if TYPE_CHECKING:
    Run = Callable[..., Result]

KINDS = (".json", ".md", ".png", ".svg")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a selector; read only."""
    out = tmp_path_factory.mktemp("swept")
    swept_folder(out, sets=3, genres=2, questions=40)
    return out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty passages with summaries."""
    file = tmp_path / "passages.jsonl"
    rows = [
        {
            "id": f"p{i}",
            "genre": f"genre{i % 2}",
            "context": f"Number {i}. {TEXT.replace('the ', f'the {i} ') * (1 + i % 3)}",  # no part of another
            "short_summary": "A fox.",
        }
        for i in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def written(out: Path, name: str) -> dict[str, Any]:
    """What an analysis wrote, all of whose files have to be there."""
    sizes = {kind: (out / f"{name}{kind}").stat().st_size for kind in KINDS}
    assert min(sizes.values()) > 200, sizes
    content: dict[str, Any] = json.loads((out / f"{name}.json").read_text())
    return content


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["extraction", "--groups", "all=mine,low=mine@2/4"], ["mean of 3 sets", "low", "level: +0.0"]),
        (["policies", "--groups", "several=mine@fixed,chosen=mine@selector"], ["several, same ratio", "auto+0.5"]),
        (["sweep", "--press", "mine"], ["fixed ratios, same ratio", "auto-1.5", "auto+4"]),
        (["sweep", "--press", "mine", "--scales", "-1,0"], ["auto-1"]),
        (["lengths", "--press", "mine"], ["fixed ratios, same ratio", "exponent 0.75", "auto+2.5"]),
        (["lengths", "--press", "mine", "--exponents", "0.4", "--scales", "2"], ["exponent 0.4"]),
        (["variance", "--press", "mine"], ["set2: genre1", "gain over fixed ratios"]),
        (["genres", "--press", "mine", "--scale", "1"], ["genre1", "quartiles"]),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_verb_writes_numbers_tables_and_pictures(
    run: Run, swept: Path, tmp_path: Path, words: list[str], parts: list[str]
) -> None:
    before = sorted(path for path in swept.rglob("*"))
    done = run("analyze", words[0], swept, *words[1:], "--out", tmp_path / "out")
    assert done.code == 0, done.err
    for part in parts:
        assert part in done.out
    content = written(tmp_path / "out", words[0])
    assert content["analysis"] == words[0]
    assert f"![{content['about']}]({words[0]}.png)" in (tmp_path / "out" / f"{words[0]}.md").read_text()
    assert sorted(path for path in swept.rglob("*")) == before
    told = run("analyze", words[0], swept, *words[1:], "--out", tmp_path / "out", "--json").json
    assert [Path(file).suffix for file in told.pop("files")] == list(KINDS)
    assert told == content


def test_a_head_is_judged_once_and_its_predictions_are_used_again(
    run: Run, press: Path, data: Path, tmp_path: Path
) -> None:
    import latentpress

    out = tmp_path / "out"
    command = ["analyze", "head", "--data", data, "--press", press, "--dtype", "float32", "--out", out]
    done = run(*command)
    assert done.code == 0, done.err
    assert "of ranks" in done.out
    content = written(out, "head")
    rows = [json.loads(line) for line in (out / "head.jsonl").read_text().splitlines()][1:]
    records = {row["id"]: row for row in map(json.loads, data.read_text().splitlines())}
    assert [row["id"] for row in rows] == [id for id in records if is_held_out(id)]
    assert content["n"] == len(rows)
    latents = latentpress.load(press, dtype="float32").compress(records[rows[0]["id"]]["context"])
    assert rows[0]["log2_ratios"] == pytest.approx([window.log2_ratio for window in latents.windows], abs=1e-5)
    assert rows[0]["tokens"] == [window.tokens for window in latents.windows]

    kept = (out / "head.jsonl").read_bytes()
    assert run(*command).code == 0
    assert (out / "head.jsonl").read_bytes() == kept
    everything = run(*command, "--all", "--json").json
    assert everything["n"] == 40
    assert (out / "head.jsonl").read_bytes().startswith(kept)

    rounded = run("analyze", "rounding", out, "--out", out)
    assert rounded.code == 0, rounded.err
    assert "choices that differ" not in rounded.out  # the second table is in the file
    assert "choices that differ" in (out / "rounding.md").read_text()
    assert written(out, "rounding")["passages"] == 40


def test_a_head_may_be_judged_on_one_language_alone(run: Run, press: Path, data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"lang": ("en", "zh")[i % 2]} for i, line in enumerate(data.read_text().splitlines())]
    del rows[0]["lang"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["analyze", "head", "--data", data, "--press", press, "--all"]
    told = run(*command, "--lang", "en", "--out", tmp_path / "en", "--json").json
    assert sorted(one["id"] for one in told["passages"]) == sorted(r["id"] for r in rows if r.get("lang") == "en")
    assert told["fitted_on"] == sum(r.get("lang") == "en" and not is_held_out(r["id"]) for r in rows)
    assert told["place"] == f"{data} (lang en)"
    run(*command, "--lang", "fr", "--out", tmp_path / "fr").fails_with("no record has lang 'fr'", "en, zh")
    assert not (tmp_path / "fr").exists()


def test_labels_may_come_from_a_file(run: Run, press: Path, tiny_base_folder: Path, data: Path, tmp_path: Path) -> None:
    from latentpress.backbone import load_tokenizer

    tokenizer = load_tokenizer(tiny_base_folder, id="tiny")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    labels = [
        DensityLabel(
            id=row["id"],
            source="fidelity",
            log2_ratio=1 + i % 3,
            tokens=len(encode_inert(tokenizer, row["context"])),
            sha256=text_digest(row["context"]),
            genre=row["genre"],
            details={},
        )
        for i, row in enumerate(rows)
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text(label_lines({"source": "fidelity", "made_by": {}, "settings": {}}, labels))
    told = run("analyze", "head", "--data", data, "--labels", file, "--press", press, "--out", tmp_path / "o", "--json")
    assert told.json["source"] == "fidelity"
    assert {one["label"] for one in told.json["passages"]} <= {1, 2, 3}


def test_roundings_are_scored_where_a_folder_has_both(run: Run, swept: Path, tmp_path: Path) -> None:
    file = tmp_path / "head.jsonl"
    header = {"latentpress_head": 1, "press": "p", "policy": "selector", "candidates": [2, 4], "selection": "window"}
    rows = [{"id": f"{i}", "genre": "g", "tokens": [64], "log2_ratios": [1 + i / 20]} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in (header, *rows)))
    out = tmp_path / "out"
    given = ["--results", swept, "--linear", "mine", "--log", "mine@auto/auto+1"]
    done = run("analyze", "rounding", file, "--out", out, *given)
    assert done.code == 0, done.err
    scores = written(out, "rounding")["scores"]
    assert list(scores["groups"]) == ["linear", "log"]
    run("analyze", "rounding", file, "--out", out, *given[:4]).fails_with("--log", "missing")


def test_groups_may_be_named_by_press_folders(run: Run, swept: Path, press: Path, tmp_path: Path) -> None:
    from latentpress.checkpoints.io import read_config

    results = tmp_path / "results"
    swept_folder(results, sets=1, questions=8, press="mine")
    swept_folder(tmp_path / "more", sets=1, questions=8, press="other")
    for path in (results / "predictions").rglob("*.jsonl"):
        head, _, rows = path.read_text().partition("\n")
        about = json.loads(head)
        about["system"]["identity"]["press"] = read_config(press)[2]
        path.write_text(f"{json.dumps(about)}\n{rows}")
    more = tmp_path / "more"
    done = run("analyze", "extraction", results, more, "--presses", press, "--out", tmp_path / "out", "--json")
    assert list(done.json["groups"]) == ["mean-pooling", "other"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["sweep", "RESULTS", "--press", "mime"], ["'mime' is not in", "it holds mine"]),
        (["sweep", "RESULTS", "--press", "mine", "--scales", "9"], ["lacks 1 of 1 scales", "auto+9"]),
        (["sweep", "RESULTS", "--press", "mine", "--scales", "a"], ["'a' are no numbers"]),
        (["lengths", "RESULTS", "--press", "mine", "--exponents", "a"], ["--exponents 'a' are no numbers"]),
        (["lengths", "RESULTS", "--press", "mine", "--exponents", "3"], ["length_exponent 3.0 must be from 0 to 2"]),
        (["sweep", "NOTHING", "--press", "mine"], ["no folder of results"]),
        (["variance", "RESULTS", "--press", "mine", "--least", "0"], ["--least 0 is below 1"]),
        (["genres", "RESULTS", "--press", "mine", "--scale", "nan"], ["--scale nan"]),
        (["extraction", "RESULTS"], ["only one group (mine)"]),
        (["rounding", "NOTHING"], ["cannot be read", "analyze head"]),
    ],
    ids=" ".join,
)
def test_mistakes_are_told_with_a_remedy(
    run: Run, swept: Path, tmp_path: Path, words: list[str], parts: list[str]
) -> None:
    places = {"RESULTS": swept, "NOTHING": tmp_path / "nothing"}
    out = tmp_path / "out"
    run("analyze", *(places.get(word, word) for word in words), "--out", out).fails_with(*parts)
    assert not out.exists()


def test_an_out_folder_is_needed_and_may_be_no_file(run: Run, swept: Path, tmp_path: Path) -> None:
    run("analyze", "sweep", swept, "--press", "mine").fails_with("--out")
    file = tmp_path / "file"
    file.write_text("mine")
    run("analyze", "sweep", swept, "--press", "mine", "--out", file).fails_with("is a file")
    assert file.read_text() == "mine"


def test_a_press_without_a_selector_and_data_without_held_back_passages_are_refused(
    run: Run, press: Path, data: Path, tmp_path: Path, tiny_base_folder: Path
) -> None:
    fixed = write_tiny_press(tmp_path / "fixed", tiny_base_folder, policy="fixed")
    out = tmp_path / "out"
    run("analyze", "head", "--data", data, "--press", fixed, "--out", out).fails_with("'fixed'", "predicts no ratios")
    lines = [line for line in data.read_text().splitlines() if not is_held_out(json.loads(line)["id"])]
    data.write_text("\n".join(lines) + "\n")
    run("analyze", "head", "--data", data, "--press", press, "--out", out).fails_with("held back", "--all")
    assert not out.exists()


def test_predictions_of_another_press_are_not_mixed(
    run: Run, press: Path, other_press: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("analyze", "head", "--data", data, "--press", press, "--out", out).code == 0
    kept = (out / "head.jsonl").read_bytes()
    run("analyze", "head", "--data", data, "--press", other_press, "--out", out).fails_with("made otherwise", "--out")
    assert (out / "head.jsonl").read_bytes() == kept
