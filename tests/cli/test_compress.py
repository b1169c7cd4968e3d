"""`latentpress compress`."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import latentpress
from cli.helpers import LATENTS, TEXT, Result, outputs, same
from latentpress import EmbeddingLatents, loading

Run = Callable[..., Result]


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that presses were asked to compress, in order."""
    texts: list[str] = []
    original = latentpress.Press.compress

    def noted(self: Any, text: Any, **options: Any) -> Any:
        texts.extend([text] if isinstance(text, str) else text)
        return original(self, text, **options)

    monkeypatch.setattr(latentpress.Press, "compress", noted)
    return texts


def test_file_becomes_one_latents_file_in_the_folder(run: Run, press: Path, document: Path, tmp_path: Path) -> None:
    done = run("compress", document, "-o", tmp_path / "new" / "out", "--press", press, "--ratio", "4")
    assert done.code == 0
    assert outputs(tmp_path / "new" / "out") == [f"treaty{LATENTS}"]
    assert same(tmp_path / "new" / "out" / f"treaty{LATENTS}", press, TEXT, ratio=4)
    assert "1 compressed in" in done.out


def test_out_that_names_a_latents_file_is_that_file(run: Run, press: Path, document: Path, tmp_path: Path) -> None:
    assert run("compress", document, "-o", tmp_path / "x.safetensors", "--press", press).code == 0
    assert same(tmp_path / "x.safetensors", press, TEXT)
    assert run("compress", document, "-o", tmp_path / "x.safetensors", "--press", press).out.count("skipped") == 2


def test_second_run_skips_what_is_done_and_does_only_what_changed(
    run: Run, press: Path, folder: Path, compressed: list[str]
) -> None:
    args = ("compress", folder, "-o", folder / "out", "--press", press)  # inside what it reads
    assert run(*args).code == 0
    assert len(compressed) == 3
    compressed.clear()
    done = run(*args)
    assert (done.code, compressed) == (0, [])
    assert "3 skipped in" in done.out
    (folder / "one.txt").write_text("Now it says something else.")
    damaged = folder / "out" / f"two{LATENTS}"
    damaged.write_bytes(damaged.read_bytes()[:100])
    (folder / "deep" / "new.txt").write_text("One more document.")
    assert run(*args).code == 0
    assert sorted(compressed) == ["A second document. " * 20, "Now it says something else.", "One more document."]


@pytest.mark.parametrize("change", ["ratio", "scale", "press"])
def test_latents_made_otherwise_are_made_anew(
    run: Run, press: Path, other_press: Path, document: Path, tmp_path: Path, compressed: list[str], change: str
) -> None:
    args = {"ratio": ["--ratio", "2"], "scale": ["--scale", "1"], "press": []}[change]
    other = other_press if change == "press" else press
    assert run("compress", document, "-o", tmp_path / "out", "--press", press).code == 0
    assert run("compress", document, "-o", tmp_path / "out", "--press", other, *args).code == 0
    assert len(compressed) == 2


def test_documents_that_fail_are_named_and_do_not_stop_the_others(
    run: Run, press: Path, folder: Path, tmp_path: Path
) -> None:
    (folder / "binary.dat").write_bytes(b"PK\x03\x04\x00")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "broken").symlink_to(folder / "nowhere")
    (folder / ".hidden").write_bytes(b"\x00")
    args = ("compress", folder, "-o", tmp_path / "out", "--press", press)
    done = run(*args)
    assert done.code == 2
    assert len(outputs(tmp_path / "out")) == 3
    for part in ("binary.dat: NUL byte at offset 4", "empty.txt: is empty", "broken: no such file"):
        assert f"failed: {folder}/{part}" in done.err
    assert "3 compressed, 3 failed in" in done.out
    done = run(*args, "--json")
    assert done.code == 2
    failed = [row for row in done.json["documents"] if row["status"] == "failed"]
    assert all(row["output"] is None and row["ratio"] is None and row["error"] for row in failed)
    assert (len(failed), done.json["total"]["failed"], done.json["total"]["skipped"]) == (3, 3, 3)


@pytest.mark.parametrize(("kind", "code"), [(latentpress.InputError, 2), (latentpress.LatentsError, 1)])
def test_document_that_the_press_refuses_does_not_take_its_batch_with_it(
    run: Run,
    press: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[latentpress.LatentpressError],
    code: int,
) -> None:
    """And only what is wrong with a document itself is a mistake of the user."""
    original = latentpress.Press.compress

    def picky(self: Any, text: list[str], **options: Any) -> Any:
        if any("second" in one for one in text):
            raise kind("not this one")
        return original(self, text, **options)

    (folder / "empty.txt").write_bytes(b"")
    monkeypatch.setattr(latentpress.Press, "compress", picky)
    done = run("compress", folder, "-o", tmp_path / "out", "--press", press)
    assert (done.code, len(outputs(tmp_path / "out"))) == (code, 2)
    assert f"failed: {folder}/two.md: not this one" in done.err


@pytest.mark.parametrize(
    "option", [("--scale", "nan"), ("--scale", "inf"), ("--ratio", "nan"), ("--ratio", "inf")], ids=" ".join
)
@pytest.mark.parametrize("verb", ["ask", "compress"])
def test_number_that_is_none_is_refused_before_the_press_is_loaded(
    run: Run, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, option: tuple[str, str]
) -> None:
    monkeypatch.setattr(f"latentpress.cli.{verb}.open_press", lambda *_, **__: pytest.fail("loaded the press"))
    rest = ("-q", "Who?") if verb == "ask" else ("-o", tmp_path / "out")
    run(verb, document, *rest, *option).fails_with(f"{option[0]} {option[1]} is not a finite number")


def test_interrupted_run_goes_on_where_it_stopped(
    run: Run, press: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: list[str]
) -> None:
    texts = [f"Document number {number}. " * 3 for number in range(6)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    monkeypatch.setattr("latentpress.cli.jobs._BATCH_DOCUMENTS", 2)
    original, saved = EmbeddingLatents.save, []

    def interrupted(self: EmbeddingLatents, path: Path) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        original(self, path)
        saved.append(path)

    args = ("compress", file, "-o", tmp_path / "out", "--press", press)
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingLatents, "save", interrupted)
        done = run(*args)
    assert (done.code, done.out) == (130, "")
    assert "3 of 6 documents are done and kept" in done.err
    assert "Traceback" not in done.err
    assert len(outputs(tmp_path / "out")) == 3
    compressed.clear()
    done = run(*args)
    assert done.code == 0
    assert compressed == texts[3:]
    assert "3 compressed, 3 skipped in" in done.out
    assert all(same(tmp_path / "out" / f"rows-{n}{LATENTS}", press, text) for n, text in enumerate(texts, start=1))


def test_full_disk_stops_with_what_was_done_kept_and_nothing_half_written(
    run: Run, press: Path, folder: Path, tmp_path: Path
) -> None:
    args = ("compress", folder, "-o", tmp_path / "out", "--press", press, "--ratio", "2")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    (folder / "a.txt").write_text("A short one fits.")
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        done = run(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (done.code, done.out) == (2, "")
    assert "could not write" in done.err
    assert "Traceback" not in done.err
    assert outputs(tmp_path / "out") == [f"a{LATENTS}"]
    assert run(*args).code == 0
    assert len(outputs(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["none", "-o", "out"], ("none: no such file or folder",)),
        (["hollow", "-o", "out"], ("hollow: holds no files",)),
        (["blank.jsonl", "-o", "out"], ("blank.jsonl: holds no rows",)),
        (["empty.txt", "-o", "out"], ("empty.txt: is empty",)),
        (["x.latents.safetensors", "-o", "out"], ("latents file already",)),
        (["treaty.txt", "-o", "empty.txt"], ("empty.txt: is a file",)),
        (["hollow", "-o", "x.latents"], ("x.latents: names one latents file",)),
        (["treaty.txt", "-o", "named.latents"], ("named.latents: is a folder",)),
        (["treaty.txt", "-o", "out", "--ratio", "4", "--scale", "1"], ("--ratio 4",)),
        (["treaty.txt", "-o", "out", "--ratio", "3", "--press", "PRESS"], ("ratio 3", "2, 4, 8")),
        (["treaty.txt", "-o", "empty.txt/out", "--press", "PRESS"], ("empty.txt",)),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_mistake_in_what_was_given_is_named(
    run: Run, press: Path, document: Path, args: list[str], parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(document.parent)
    for name in ("hollow", "named.latents"):
        Path(name).mkdir()
    for name in ("blank.jsonl", "empty.txt", "x.latents.safetensors"):
        Path(name).touch()
    run("compress", *(str(press) if arg == "PRESS" else arg for arg in args)).fails_with(*parts)


@pytest.mark.parametrize("native", [True, False])
def test_files_hold_bfloat16_unless_a_dtype_is_asked_for(
    run: Run, press: Path, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(loading, "computes_bfloat16", lambda: native)
    for name, options, dtype in (("a", (), torch.bfloat16), ("b", ("--dtype", "float32"), torch.float32)):
        file = tmp_path / f"{name}.safetensors"
        assert run("compress", document, "-o", file, "--press", press, "--device", "cpu", *options).code == 0
        assert EmbeddingLatents.load(file).vectors.dtype == dtype
        assert run("ask", file, "-q", "Who?", "--press", press, "--device", "cpu", *options).code == 0


def test_a_file_that_holds_some_windows_only_is_made_again(run: Run, press: Path, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text(TEXT)
    out = tmp_path / f"long{LATENTS}"
    args = ("compress", text, "-o", out, "--press", press, "--ratio", "4")
    assert run(*args).code == 0
    whole = latentpress.Latents.load(out)
    assert len(whole.windows) > 1
    for part in ([0], [len(whole.windows) - 1]):
        whole.of_windows(part).save(out)
        assert run(*args).code == 0
        assert latentpress.Latents.load(out).windows == whole.windows
