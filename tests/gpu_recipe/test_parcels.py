"""Files and packages that travel to a machine without a network, and back."""

from __future__ import annotations

import shutil
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest

from gpu_recipe.conftest import ROOT
from latentpress.errors import InputError
from scripts import unpack_parts
from scripts.gpu_recipe.packages import install_missing, needed
from scripts.gpu_recipe.parcels import MANIFEST, receive

# Parcels


def contents(folder: Path) -> dict[str, bytes]:
    """What lies there, but for what the scripts keep for themselves."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".")}


def test_files_are_the_same_after_parts_came_one_by_one_in_any_order(parcel: Path, tmp_path: Path) -> None:
    parts = sorted(path.name for path in parcel.glob("part-*"))
    assert len(parts) == 6
    assert max((parcel / name).stat().st_size for name in parts) == 1000
    come, into = tmp_path / "come", tmp_path / "into"
    left = [*parts]
    for name in (parts[4], parts[0], parts[5], parts[2], parts[1], parts[3]):
        shutil.rmtree(come, ignore_errors=True)  # what came before is gone from here
        come.mkdir()
        shutil.copy(parcel / MANIFEST, come)
        shutil.copy(parcel / name, come)
        left.remove(name)
        assert receive(come, into) == left
        assert bool(contents(into)) == (not left)
    assert contents(into) == contents(tmp_path / "from")
    for path in come.glob("part-*"):
        path.unlink()
    assert receive(come, into) == []  # no part is needed once all is there


def test_a_damaged_part_is_refused_by_name_and_taken_once_it_is_whole(
    parcel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = parcel / "part-003.bin"
    good = part.read_bytes()
    unpack = partial(unpack_parts.main, [str(parcel), "--into", str(tmp_path / "into")])
    for bad in (good[:-1], good[:-1] + b"\0", b""):
        part.write_bytes(bad)
        assert unpack() == 2
        assert f"{part} is damaged: its size or SHA-256 is not what the manifest says" in capsys.readouterr().err
        assert contents(tmp_path / "into") == {}
    part.unlink()
    assert unpack() == 4
    assert capsys.readouterr().out == "part-003.bin still to come\n"
    part.write_bytes(good)
    assert unpack() == 0
    assert contents(tmp_path / "into") == contents(tmp_path / "from")


def test_a_parcel_cannot_write_outside_its_folder(parcel: Path, tmp_path: Path) -> None:
    path = parcel / MANIFEST
    for name in ("../b", "/tmp/b", "a/../../b"):
        path.write_text(path.read_text().replace('"name": "b"', f'"name": "{name}"'))
        with pytest.raises(InputError, match="is not of a parcel that this version reads, or was changed"):
            receive(parcel, tmp_path / "into")
        path.write_text(path.read_text().replace(f'"name": "{name}"', '"name": "b"'))


# Packages


def test_what_may_be_missing_is_packed_and_what_is_large_and_there_is_not() -> None:
    names = {requirement.partition("==")[0] for requirement in needed(ROOT / "pyproject.toml")}
    assert {"gguf", "matplotlib", "typer", "rich", "filelock"} <= names
    assert not names & {"torch", "transformers", "numpy", "safetensors", "tokenizers", "pytest"}
    less = {requirement.partition("==")[0] for requirement in needed(ROOT / "pyproject.toml", present=["matplotlib"])}
    assert "pillow" not in less


def test_missing_packages_are_installed_from_wheels_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    info = "nowhere_else-1.0.dist-info"
    with zipfile.ZipFile(wheels / "nowhere_else-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("nowhere_else.py", "answer = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nowhere-else\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    shutil.copy(wheels / "nowhere_else-1.0-py3-none-any.whl", wheels / "pytest-0.0-py3-none-any.whl")  # which is there
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert install_missing(wheels, tmp_path) == ["nowhere-else"]
    import nowhere_else  # type: ignore[import-not-found]

    assert nowhere_else.answer == 42
    assert install_missing(wheels, tmp_path) == []
