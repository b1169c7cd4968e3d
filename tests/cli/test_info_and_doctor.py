"""`latentpress info` and `latentpress doctor`."""

import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import latentpress
from cli.helpers import Result
from latentpress.base_model import DEFAULT_BASE
from latentpress.cli import doctor as doctor_module
from latentpress.compressors import COMPRESSORS
from latentpress.errors import BaseModelError
from latentpress.ratios import POLICIES

Run = Callable[..., Result]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_base_folder: Path, press: Path) -> dict[str, Path]:
    """A machine whose default base model is the tiny one and which ships the tiny press."""
    monkeypatch.setenv("LATENTPRESS_CACHE", str(tmp_path / "cache"))
    base, shipped = tmp_path / "cache" / "bases" / DEFAULT_BASE, tmp_path / "presses" / "tiny"
    shutil.copytree(tiny_base_folder, base)
    shutil.copytree(press, shipped)
    monkeypatch.setattr("latentpress.base_model.is_complete", lambda folder: (folder / "model.safetensors").is_file())
    monkeypatch.setattr("latentpress.loading.shipped_presses", lambda: {"tiny": shipped})
    return {"base": base, "press": shipped}


def test_info_lists_what_is_here(run: Run, machine: dict[str, Path]) -> None:
    done = run("info", "--json")
    assert (done.code, done.err) == (0, "")
    result = done.json
    assert result["versions"]["latentpress"] == latentpress.__version__
    assert result["versions"]["torch"] == metadata.version("torch")
    assert set(result["device"]) == {"type", "name", "cpus", "threads"}
    assert result["compressors"] == {name: kind.describe for name, kind in COMPRESSORS.items()}
    assert result["policies"] == {name: kind.describe for name, kind in POLICIES.items()}
    assert "semidynamic" in result["recipes"]
    assert result["recipes"]["comprexit"] == "comprexit-ntp, then comprexit-sft, each from the press before"
    assert (result["base"]["id"], result["base"]["folder"]) == (DEFAULT_BASE, str(machine["base"]))
    row = result["presses"][0]
    assert (row["name"], row["candidates"], row["error"]) == ("tiny", [2, 4, 8], None)
    assert row["base_fingerprint"] == result["base"]["fingerprint"]
    text = run("info").out
    for part in (*COMPRESSORS, *POLICIES, *result["recipes"], "tiny", DEFAULT_BASE, result["base"]["fingerprint"][:12]):
        assert part in text


def test_info_without_base_and_presses_says_how_to_get_them(
    run: Run, machine: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(machine["base"])
    monkeypatch.setattr("latentpress.loading.shipped_presses", dict)
    done = run("info")
    assert done.code == 0
    assert "latentpress doctor --fetch" in done.out
    assert "latentpress train" in done.out


def test_info_shows_a_shipped_press_that_cannot_be_read(run: Run, machine: dict[str, Path]) -> None:
    (machine["press"] / "config.json").write_text("{")
    assert "JSON" in run("info", "--json").json["presses"][0]["error"]
    assert "restore the file" in run("info").out


def test_info_of_a_press_shows_every_setting_without_its_base_model(
    run: Run, machine: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(machine["base"])
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("loaded weights"))
    done = run("info", "tiny", "--json")
    assert done.code == 0
    from latentpress.checkpoints.io import read_config

    config, digests, fingerprint = read_config(machine["press"])
    expected = config.to_dict()
    assert done.json["trained"] == expected.pop("trained") == {"recipe": "none", "steps": 0}
    assert done.json["settings"] == {**expected, "candidates": list(config.candidates)}
    assert done.json["fingerprint"] == fingerprint
    assert {file["name"] for file in done.json["files"]} == {"config.json", *digests}
    assert done.json["bytes"] == sum((machine["press"] / name).stat().st_size for name in ("config.json", *digests))
    text = run("info", machine["press"]).out
    for part in ("window_tokens", "encoder_lora.rank", "converter_width", "recipe", "modules.safetensors"):
        assert part in text


@pytest.mark.parametrize("damage", ["no such press", "no weights"])
def test_info_of_a_press_that_is_not_whole_is_an_error(run: Run, machine: dict[str, Path], damage: str) -> None:
    (machine["press"] / "modules.safetensors").unlink()
    name = "nowhere" if damage == "no such press" else "tiny"
    run("info", name).fails_with("nowhere" if name == "nowhere" else "modules.safetensors")


def test_info_of_a_press_on_the_hub_fetches_its_settings_alone(
    run: Run, machine: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()

    def download(name: str, *, allow_patterns: list[str]) -> str:
        assert name == "somebody/press"
        for file in (path for pattern in allow_patterns for path in machine["press"].glob(pattern)):
            shutil.copy(file, snapshot)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    done = run("info", "somebody/press", "--json")
    assert (done.code, [path.name for path in snapshot.iterdir()]) == (0, ["config.json"])
    assert (done.json["name"], done.json["bytes"]) == ("tiny", None)
    assert done.json["settings"] == run("info", machine["press"], "--json").json["settings"]
    sizes = {file["name"]: file["bytes"] for file in done.json["files"]}
    assert sizes.pop("config.json") == (machine["press"] / "config.json").stat().st_size
    assert set(sizes.values()) == {None}
    assert "modules.safetensors: weights not fetched" in run("info", "somebody/press").out


def checks(done: Result) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in done.json["checks"]}


def test_doctor_finds_a_whole_installation_in_order(run: Run, machine: dict[str, Path]) -> None:
    done = run("doctor", "--json")
    found = checks(done)
    assert (done.code, done.json["ok"]) == (0, True), done.out
    assert set(found["torch"]) == {"name", "ok", "detail", "remedy", "needed"}
    names = {"python", "torch", "transformers", "disk space", f"base {DEFAULT_BASE}", "press tiny", "dtype", "cuda"}
    assert names <= set(found)
    assert ">=" not in found["torch"]["detail"]
    assert "or newer" in found["torch"]["detail"]
    text = run("doctor").out
    assert "everything needed is here" in text
    assert text.count("\nok ") >= 6


def test_doctor_says_that_the_base_model_is_missing_and_how_to_get_it(run: Run, machine: dict[str, Path]) -> None:
    shutil.rmtree(machine["base"])
    done = run("doctor", "--json")
    check = checks(done)[f"base {DEFAULT_BASE}"]
    assert (done.code, done.json["ok"], check["ok"], check["needed"]) == (1, False, False, True)
    assert "latentpress doctor --fetch" in check["remedy"]
    done = run("doctor")
    assert done.code == 1
    assert f"missing base {DEFAULT_BASE}" in done.out


def test_doctor_fetches_the_base_model_when_asked(
    run: Run, machine: dict[str, Path], tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(machine["base"])

    def fetch(progress: Callable[[str], None]) -> Path:
        progress("downloading it")
        return Path(shutil.copytree(tiny_base_folder, machine["base"]))

    monkeypatch.setattr(doctor_module, "fetch_default", fetch)
    done = run("doctor", "--fetch", "--json")
    assert (done.code, done.json["ok"], done.err) == (0, True, "downloading it\n")


def test_doctor_reports_why_fetching_failed(
    run: Run, machine: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(machine["base"])

    def fetch(progress: Callable[[str], None]) -> Path:
        raise BaseModelError("no network; find one")

    monkeypatch.setattr(doctor_module, "fetch_default", fetch)
    done = run("doctor", "--fetch", "--json")
    assert done.code == 1
    assert checks(done)[f"base {DEFAULT_BASE}"]["remedy"] == "no network; find one"


@pytest.mark.parametrize("damage", ["truncated weights", "config", "another base", "none shipped"])
def test_doctor_names_a_press_that_cannot_be_used(
    run: Run, machine: dict[str, Path], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = machine["press"] / "config.json"
    if damage == "truncated weights":
        weights = machine["press"] / "modules.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "config":
        config.write_text("[]")
    elif damage == "none shipped":
        monkeypatch.setattr("latentpress.loading.shipped_presses", dict)
    else:
        settings = latentpress.checkpoints.io.read_config(machine["press"])[0]
        text = config.read_text().replace(settings.base.fingerprint, "ab" * 32)
        config.write_text(text.replace(settings.base.id, DEFAULT_BASE))
    done = run("doctor", "--json")
    failed = [check for check in done.json["checks"] if check["needed"] and not check["ok"]]
    assert (done.code, len(failed)) == (1, 1)
    assert failed[0]["name"] == ("presses" if damage == "none shipped" else "press tiny")
    assert failed[0]["remedy"]


def test_doctor_works_where_packages_are_missing_or_old(
    run: Run, machine: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = metadata.version

    def version(name: str) -> str:
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return "2.4.1+cu118" if name == "torch" else original(name)

    monkeypatch.setattr(metadata, "version", version)
    done = run("doctor", "--json")
    found = checks(done)
    assert done.code == 1
    assert (found["peft"]["ok"], found["torch"]["ok"], found["transformers"]["ok"]) == (False, False, True)
    assert found["torch"]["detail"].startswith("2.4.1+cu118 (2.")
    assert 'pip install "torch>=2' in found["torch"]["remedy"]
    assert not any(name.startswith(("base", "press")) for name in found)  # those would import what is missing


def test_doctor_warns_of_a_full_disk_unless_the_base_model_is_there(
    run: Run, machine: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    assert checks(run("doctor", "--json"))["disk space"]["ok"]
    shutil.rmtree(machine["base"])
    check = checks(run("doctor", "--json"))["disk space"]
    assert (check["ok"], check["detail"].split(" free")[0]) == (False, "1.0 kB")
    assert "LATENTPRESS_CACHE" in check["remedy"]
