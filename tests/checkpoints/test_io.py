"""Presses on disk: whole or absent, without pickle, as PEFT reads them, and any change in them is noticed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from safetensors import SafetensorError
from tiny import config_for, make_model, make_network
from torch import Tensor

from latentpress.attention import Layout
from latentpress.backbone import Backbone
from latentpress.checkpoints import io
from latentpress.errors import PressError
from latentpress.lora import LoraSettings
from latentpress.training.checkpoint import export_press

if TYPE_CHECKING:
    from latentpress.backbone import Base
    from latentpress.checkpoints.config import PressConfig
    from latentpress.model import PressModel

FILES = (
    "config.json",
    "modules.safetensors",
    "encoder_adapter/adapter_config.json",
    "encoder_adapter/adapter_model.safetensors",
    "decoder_adapter/adapter_config.json",
    "decoder_adapter/adapter_model.safetensors",
)


@pytest.fixture
def folder(tiny_model: PressModel, tiny_config: PressConfig, tmp_path: Path) -> Path:
    """A press on disk, to be damaged."""
    export_press(tmp_path / "press", tiny_model, tiny_config)
    return tmp_path / "press"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rewrite_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / "config.json").read_text())
    change(data)
    (folder / "config.json").write_text(json.dumps(data))


# ---- what is written is read ----


def test_a_press_is_these_files_and_no_others(folder: Path) -> None:
    assert sorted(contents(folder)) == sorted(FILES)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["press"]


def test_weights_come_back_as_they_were_in_bfloat16(
    folder: Path, tiny_model: PressModel, tiny_config: PressConfig
) -> None:
    config, modules, adapters, fingerprint = io.read_press(folder)
    assert config == tiny_config
    assert fingerprint == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    expected = {"": tiny_model.own_state(), **tiny_model.adapter_states()}
    for role, state in {"": modules, **adapters}.items():
        assert state.keys() == expected[role].keys()
        for name, tensor in state.items():
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, expected[role][name].to(torch.bfloat16)), name


def test_the_settings_alone_are_read_with_the_same_fingerprint(folder: Path, tiny_config: PressConfig) -> None:
    config, digests, fingerprint = io.read_config(folder)
    assert (config, fingerprint) == (tiny_config, io.read_press(folder)[3])
    assert sorted([*digests, "config.json"]) == sorted(FILES)


def test_saving_twice_gives_the_same_bytes(folder: Path, tiny_model: PressModel, tiny_config: PressConfig) -> None:
    before = contents(folder)
    export_press(folder, tiny_model, tiny_config)
    assert contents(folder) == before


def test_no_file_of_a_press_is_a_pickle(folder: Path) -> None:
    for name, content in contents(folder).items():
        assert name.endswith((".json", ".safetensors"))
        with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, KeyError, IndexError)):
            pickle.loads(content)


# ---- PEFT reads the adapters ----

# PEFT asks transformers for a property under its old name.
old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@old_name
def test_the_decoders_adapter_is_pefts(tiny_bases: Base, tmp_path: Path) -> None:
    config = config_for(tiny_bases, decoder_lora=LoraSettings(rank=3, alpha=7, rank_stabilised=False))
    model = make_model(config, tiny_bases)
    export_press(tmp_path / "press", model, config)
    theirs = peft_model(tiny_bases, tmp_path / "press" / "decoder_adapter")
    ids = torch.randint(3, 300, (9,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = rounded(model.decoder)
        states = ours(ours.embed(ids), Layout.of((9,), "causal"))
        expected = theirs(input_ids=ids[None], use_cache=False).logits[0]
    torch.testing.assert_close(ours.logits(states), expected, atol=1e-4, rtol=1e-4)


@old_name
def test_the_encoders_adapter_is_pefts_on_the_layers_that_it_has(tiny_bases: Base, tmp_path: Path) -> None:
    """Two of three layers: PEFT must leave the third as it is, and ours must not have it."""
    config = config_for(tiny_bases, encoder_layers=2)
    model = make_model(config, tiny_bases)
    export_press(tmp_path / "press", model, config)
    theirs = peft_model(tiny_bases, tmp_path / "press" / "encoder_adapter")
    adapted = {name for name, _ in theirs.named_parameters() if "lora_" in name}
    assert adapted
    assert not any(".layers.2." in name for name in adapted)
    body = theirs.base_model.model.get_decoder()
    body.layers = body.layers[:2]
    ids = torch.randint(3, 300, (9,), generator=torch.Generator().manual_seed(0))
    assert model.encoder is not None
    with torch.no_grad():
        ours = rounded(model.encoder)
        states = ours(ours.embed(ids), Layout.of((9,), "causal"))
        expected = body(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)


def peft_model(base: Base, adapter: Path) -> Any:
    family = base.model.config.model_type.removesuffix("_text")
    network = make_network(family, base.model.config.vocab_size)
    network.set_attn_implementation("eager")
    return PeftModel.from_pretrained(network, str(adapter)).eval()


@torch.no_grad()
def rounded(backbone: Backbone) -> Backbone:
    """Rounds adapters to what the file holds."""
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.copy_(parameter.to(torch.bfloat16))
    return backbone


def test_the_adapters_say_which_base_they_are_for(tiny_base: Base, other_base: Base, tmp_path: Path) -> None:
    from latentpress.checkpoints.config import BaseReference

    reference = BaseReference(id=other_base.id, fingerprint="other", width=48)
    config = config_for(tiny_base, encoder_base=reference, residual="none")
    export_press(tmp_path / "press", make_model(config, tiny_base, other_base), config)
    for role, base in (("encoder", "tiny-other"), ("decoder", "tiny-llama")):
        adapter = json.loads((tmp_path / "press" / f"{role}_adapter" / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == base


# ---- damage ----


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(PressError, match=name):
        io.read_press(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 5, -1])
def test_a_truncated_file_is_named(folder: Path, name: str, kept: int) -> None:
    file = folder / name
    # The last byte of a JSON file is its newline, and no loss.
    file.write_bytes(file.read_bytes()[: kept if kept >= 0 else -3])
    with pytest.raises(PressError, match=name):
        io.read_press(folder)


@pytest.mark.parametrize("name", FILES[1:])
def test_one_changed_bit_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-20] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(PressError, match=f"{name} has SHA-256 .*truncated or was changed"):
        io.read_press(folder)


def test_any_change_of_the_settings_is_another_fingerprint(folder: Path) -> None:
    before = io.read_press(folder)[3]
    rewrite_config(folder, lambda data: data.update(window_tokens=49))
    assert io.read_press(folder)[3] != before


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith("safetensors")])
def test_a_pickle_in_place_of_safetensors_is_never_opened(folder: Path, name: str) -> None:
    """Not even where its checksum is right."""
    bomb = pickle.dumps(Bomb())
    (folder / name).write_bytes(bomb)
    rewrite_config(folder, lambda data: data["files"].update({name: hashlib.sha256(bomb).hexdigest()}))
    with pytest.raises(PressError, match=f"{name} cannot be read as safetensors"):
        io.read_press(folder)


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was opened",)


def test_a_folder_of_pickles_is_told_so(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(PressError, match=r"config.json is missing; pytorch_model.bin is a pickle, which is never read"):
        io.read_press(tmp_path)


def outside(folder: Path) -> str:
    (folder.parent / "secret.json").write_text("{}")
    return hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize(
    "name", ["../secret.json", "decoder_adapter/../../secret.json", "/etc/hostname", "a\x00b", ".."]
)
def test_files_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    digest = outside(folder)
    rewrite_config(folder, lambda data: data["files"].update({name: digest}))
    with pytest.raises(PressError, match="not a file of the press"):
        io.read_press(folder)


def test_a_folder_of_links_is_read_as_the_hubs_cache_holds_it(folder: Path, tmp_path: Path) -> None:
    for i, name in enumerate(FILES):
        link = tmp_path / "snapshot" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = tmp_path / "blobs" / str(i)
        blob.parent.mkdir(exist_ok=True)
        shutil.copy(folder / name, blob)
        link.symlink_to(blob)
    assert io.read_press(tmp_path / "snapshot")[3] == io.read_press(folder)[3]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("files"),
        lambda data: data.update(files=[]),
        lambda data: data.update(files={}),
        lambda data: data["files"].pop("modules.safetensors"),
        lambda data: data["files"].pop("decoder_adapter/adapter_model.safetensors"),
        lambda data: data["files"].update({"modules.safetensors": 5}),
        lambda data: data["files"].update({"modules.safetensors": None}),
        lambda data: data["files"].update({"modules.safetensors": ""}),
    ],
)
def test_a_list_of_files_that_was_tampered_with_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    rewrite_config(folder, change)
    with pytest.raises(PressError, match=r"files|modules.safetensors"):
        io.read_press(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"3", b'{"schema_version": 1}'])
def test_settings_that_are_not_settings_are_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(PressError, match=r"config\.json"):
        io.read_press(folder)


def test_a_name_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("press")
    for path in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(PressError, match="no press at"):
            io.read_press(path)


# ---- writing fails ----


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int, error: BaseException) -> None:
    """Makes the `at`-th call of a function raise instead."""
    original, calls = getattr(owner, name), iter(range(1000))

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


FULL = OSError(errno.ENOSPC, "No space left on device")
FAILURES: list[tuple[Any, str, int, BaseException]] = [
    *(
        (io, "save_file", i, error)
        for i in range(3)
        for error in (FULL, SafetensorError("I/O error"), KeyboardInterrupt())
    ),
    (io.LoraConfig, "save_pretrained", 0, FULL),
    (Path, "write_text", 0, FULL),
    (Path, "write_text", 0, KeyboardInterrupt()),
    (os, "replace", 0, FULL),
    (os, "replace", 0, KeyboardInterrupt()),
    (io, "sha256", 1, KeyboardInterrupt()),
]
SECOND = [(os, "replace", 1, FULL), (os, "replace", 1, KeyboardInterrupt())]
NAMES = [f"{name}-{at}-{type(error).__name__}" for _, name, at, error in [*FAILURES, *SECOND]]


@pytest.fixture
def other_weights(tiny_base: Base, tiny_config: PressConfig) -> PressModel:
    return make_model(tiny_config, tiny_base, trained=False)


@pytest.mark.parametrize(("owner", "name", "at", "error"), [*FAILURES, *SECOND], ids=NAMES)
def test_a_failure_while_replacing_leaves_the_old_press(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    other_weights: PressModel,
    tiny_config: PressConfig,
    owner: Any,
    name: str,
    at: int,
    error: BaseException,
) -> None:
    before = contents(folder)
    with monkeypatch.context() as patch:
        fail_at(patch, owner, name, at, error)
        expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else PressError
        with pytest.raises(expected):
            export_press(folder, other_weights, tiny_config)
    assert contents(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["press"]
    export_press(folder, other_weights, tiny_config)
    assert contents(folder) != before


@pytest.mark.parametrize(("owner", "name", "at", "error"), FAILURES, ids=NAMES[: len(FAILURES)])
def test_a_failure_while_writing_anew_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    other_weights: PressModel,
    tiny_config: PressConfig,
    owner: Any,
    name: str,
    at: int,
    error: BaseException,
) -> None:
    fail_at(monkeypatch, owner, name, at, error)
    with pytest.raises((KeyboardInterrupt, PressError)):
        export_press(tmp_path / "press", other_weights, tiny_config)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_the_folder_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other_weights: PressModel, tiny_config: PressConfig
) -> None:
    fail_at(monkeypatch, io, "save_file", 0, FULL)
    with pytest.raises(PressError, match=r"cannot be written to .*press.*No space left.*free space"):
        export_press(tmp_path / "press", other_weights, tiny_config)


def test_folders_that_hold_no_press_are_never_replaced(
    tmp_path: Path, other_weights: PressModel, tiny_config: PressConfig, tiny_base_folder: Path
) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("years of work")
    shutil.copytree(tiny_base_folder, tmp_path / "base")
    for name in ("documents", "file", "base"):
        before = contents(tmp_path)
        with pytest.raises(PressError, match=f"{name} is there and holds no press"):
            export_press(tmp_path / name, other_weights, tiny_config)
        assert contents(tmp_path) == before


def test_an_empty_or_deep_new_folder_will_do(
    tmp_path: Path, other_weights: PressModel, tiny_config: PressConfig
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "a/b/c"):
        export_press(tmp_path / name, other_weights, tiny_config)
        assert io.read_press(tmp_path / name)[0] == tiny_config


def test_a_link_to_a_press_keeps_pointing_at_it(
    folder: Path, other_weights: PressModel, tiny_config: PressConfig
) -> None:
    before = contents(folder)
    link = folder.parent / "link"
    link.symlink_to(folder, target_is_directory=True)
    export_press(link, other_weights, tiny_config)
    assert link.is_symlink()
    assert contents(folder) != before
    assert sorted(p.name for p in folder.parent.iterdir()) == ["link", "press"]


def test_the_current_folder_can_be_named_by_a_dot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other_weights: PressModel, tiny_config: PressConfig
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_press(Path(), other_weights, tiny_config)
    assert io.read_press(tmp_path / "here")[0] == tiny_config


def test_two_presses_side_by_side_do_not_meet(
    folder: Path, tiny_model: PressModel, other_weights: PressModel, tiny_config: PressConfig
) -> None:
    before = contents(folder)
    export_press(folder.parent / "second", other_weights, tiny_config)
    assert contents(folder) == before
    first, second = (io.read_press(folder.parent / name) for name in ("press", "second"))
    assert first[3] != second[3]
    assert any(not torch.equal(first[1][name], second[1][name]) for name in first[1])


def test_the_files_of_an_open_press_may_be_replaced(
    folder: Path, other_weights: PressModel, tiny_config: PressConfig
) -> None:
    """Tensors are read lazily: an old file must stay whole for whoever reads it."""
    _, modules, adapters, _ = io.read_press(folder)
    copies = [t.clone() for t in every_tensor(modules, adapters)]
    export_press(folder, other_weights, tiny_config)
    assert all(torch.equal(a, b) for a, b in zip(every_tensor(modules, adapters), copies, strict=True))


def every_tensor(modules: dict[str, Tensor], adapters: dict[str, dict[str, Tensor]]) -> Iterator[Tensor]:
    for state in (modules, *adapters.values()):
        yield from state.values()


def test_weights_that_do_not_lie_in_a_row_are_written_too(tmp_path: Path, tiny_config: PressConfig) -> None:
    tensor = torch.arange(6.0).view(2, 3)
    state = {"transposed": tensor.t(), "same": tensor, "scalar": torch.tensor(3.0)}
    adapter = ({"a": tensor}, LoraSettings(rank=2), ["layers.0.up"], 1)
    io.write_press(tmp_path / "press", tiny_config, state, {"decoder": adapter})
    _, modules, adapters, _ = io.read_press(tmp_path / "press")
    assert {name: t.float().tolist() for name, t in modules.items()} == {name: t.tolist() for name, t in state.items()}
    assert list(adapters) == ["decoder"]
    assert safetensors.torch.load_file(tmp_path / "press" / "modules.safetensors").keys() == state.keys()
