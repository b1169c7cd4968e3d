"""`latentpress compress` on JSON lines."""

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.helpers import LATENTS, TEXT, Result, outputs, same

Run = Callable[..., Result]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.xz", ".jsonl.gz"])
def test_rows_of_a_jsonl_file_are_documents_named_by_their_id_or_line(
    run: Run, press: Path, tmp_path: Path, suffix: str
) -> None:
    rows = [
        {"id": "first", "text": TEXT},
        {"context": "No id, but a context."},
        {"id": 7, "text": "A number as id."},
    ]
    content = "\ufeff" + "\n".join(map(json.dumps, rows[:1])) + "\n\n" + "\n".join(map(json.dumps, rows[1:]))
    file = tmp_path / f"rows{suffix}"
    pack = {".jsonl": bytes, ".jsonl.xz": lzma.compress, ".jsonl.gz": gzip.compress}[suffix]
    file.write_bytes(pack(content.encode()))
    args = ("compress", file, "-o", tmp_path / "out", "--press", press)
    assert run(*args).code == 0
    assert outputs(tmp_path / "out") == [f"7{LATENTS}", f"first{LATENTS}", f"rows-3{LATENTS}"]
    assert same(tmp_path / "out" / f"rows-3{LATENTS}", press, "No id, but a context.")
    assert "3 skipped in" in run(*args).out


def test_rows_that_cannot_be_used_are_named_by_their_line(run: Run, press: Path, tmp_path: Path) -> None:
    lines = {
        1: '{"text": "This one is good."}',
        2: "not json",
        3: "[1, 2]",
        4: '{"text": 5}',
        5: '{"text": "a", "context": "b"}',
        6: '{"text": "  "}',
        7: '{"id": 1.5, "text": "a"}',
        8: '{"text": "\\ud800"}',
        9: '{"id": "twice", "text": "This one is good too."}',
        10: '{"id": "twice", "text": "This one comes late."}',
        11: '{"text": "zero \\u0000 byte"}',
    }
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines.values()))
    done = run("compress", file, "-o", tmp_path / "out", "--press", press, "--json")
    assert done.code == 2  # nothing but bad input failed
    status = {row["document"]: row["status"] for row in done.json["documents"]}
    assert status == {f"{file}:{n}": "compressed" if n in (1, 9) else "failed" for n in lines}
    errors = {row["document"].rpartition(":")[2]: row["error"] for row in done.json["documents"] if row["error"]}
    assert all(f"{file}:{line}: " in error for line, error in errors.items())
    assert "not JSON" in errors["2"]
    assert f"{file}:9" in errors["10"]
    assert outputs(tmp_path / "out") == [f"rows-1{LATENTS}", f"twice{LATENTS}"]


def test_id_cannot_lead_out_of_the_folder(run: Run, press: Path, tmp_path: Path) -> None:
    ids = ["../../evil", "/etc/passwd", "a/b", "a_b", "..", "", "条約" * 60]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"id": one, "text": "Some text."}) for one in ids))
    done = run("compress", file, "-o", tmp_path / "deep" / "out", "--press", press)
    assert done.code == 0, done.err
    files = outputs(tmp_path / "deep" / "out")
    assert len(files) == len(ids)
    assert all("/" not in name for name in files)
    assert set(outputs(tmp_path)) == {"rows.jsonl", *(f"deep/out/{name}" for name in files)}


def test_truncated_archive_is_named_with_its_line(run: Run, press: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.xz"
    file.write_bytes(lzma.compress(b'{"text": "a"}\n')[:-20])
    run("compress", file, "-o", tmp_path / "out", "--press", press).fails_with(f"{file}:", "truncated")


def test_rows_put_in_while_it_runs_do_not_change_places_with_those_planned(
    run: Run, press: Path, tmp_path: Path, while_running: Callable[[Callable[[], object]], None]
) -> None:
    file, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows = [json.dumps({"id": name, "text": f"This is the text of {name}."}) for name in ("one", "two", "three")]
    file.write_text("\n".join(rows))
    while_running(lambda: file.write_text("\n".join([rows[0], rows[2], rows[1]])))
    args = ("compress", file, "-o", out, "--press", press)
    done = run(*args)
    assert done.code == 1
    assert f"{file}:2: was there when the documents were counted and is gone; run again" in done.err
    assert outputs(out) == [f"one{LATENTS}"]
    assert run(*args).code == 0
    assert all(same(out / f"{name}{LATENTS}", press, f"This is the text of {name}.") for name in ("two", "three"))
