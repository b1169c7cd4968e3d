"""A press comes back from its folder, by name or path, on one copy of its base model; what is wrong is named."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from handmade import OTHER_TEXT, QUESTION, TEXT, save_press
from tiny import config_for, make_model, make_network, make_tokenizer

import latentpress
from latentpress import loading
from latentpress.attention import Layout
from latentpress.backbone import fingerprint, load_base, wrap_base
from latentpress.checkpoints.config import BaseReference
from latentpress.errors import BaseModelError, InputError, LatentsError, PressError
from latentpress.lora import LoraLinear
from latentpress.press import Press

if TYPE_CHECKING:
    from latentpress.backbone import Backbone, Base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Base) -> Path:
    """A press on the tiny Llama."""
    return save_press(make_model(config_for(tiny_base), tiny_base), tmp_path_factory.mktemp("presses") / "tiny")


@pytest.fixture(scope="module")
def press(folder: Path, tiny_base_folder: Path) -> Press:
    return latentpress.load(folder, base=tiny_base_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of width 48 with a smaller tokenizer, on disk."""
    folder = tmp_path_factory.mktemp("bases") / "tiny-other"
    tokenizer = make_tokenizer(entries=320)
    make_network("qwen2", len(tokenizer), width=48, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def two_base_folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Base, other_folder: Path) -> Path:
    """A press whose encoder is another base than its decoder."""
    other = load_base(other_folder, id="tiny-other", dtype=torch.float32)
    reference = BaseReference(id=other.id, fingerprint=other.fingerprint, width=other.width)
    config = config_for(tiny_base, name="two", encoder_base=reference, residual="none")
    return save_press(make_model(config, tiny_base, other), tmp_path_factory.mktemp("presses") / "two")


def ship(monkeypatch: pytest.MonkeyPatch, package: Path, **presses: Path) -> None:
    """Makes the library believe that it ships these presses."""
    (package / "presses").mkdir(parents=True)
    for name, folder in presses.items():
        (package / "presses" / name).symlink_to(folder)
    monkeypatch.setattr(resources, "files", lambda _: package)


# ---- names ----


def test_a_press_is_found_by_its_shipped_name(
    folder: Path, tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ship(monkeypatch, tmp_path, one=folder, another=folder)
    assert list(latentpress.shipped_presses()) == ["another", "one"]
    loaded = latentpress.load("one", base=tiny_base_folder, dtype="float32")
    assert loaded.config.name == "tiny"
    assert loaded.fingerprint == latentpress.load(folder, base=tiny_base_folder, dtype="float32").fingerprint


def test_a_folder_without_settings_is_no_shipped_press(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ship(monkeypatch, tmp_path / "package", one=folder, broken=tmp_path)
    assert list(loading.shipped_presses()) == ["one"]
    monkeypatch.setattr(resources, "files", lambda _: tmp_path / "nowhere")
    assert loading.shipped_presses() == {}


@pytest.mark.parametrize("name", ["missing", "./missing", "a/b/c", "/no/such/press"])
def test_a_missing_press_is_refused_with_the_shipped_ones(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ship(monkeypatch, tmp_path, one=folder, another=folder)
    with pytest.raises(PressError, match="another, one") as raised:
        latentpress.load(name)
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize("name", ["~nobody-of-that-name/press", "x" * 5000, "a\0b", 3])
def test_what_can_be_no_path_is_no_press_and_no_base(name: Any, folder: Path) -> None:
    with pytest.raises(PressError, match="press"):
        latentpress.load(name)
    with pytest.raises(BaseModelError, match="base model"):
        latentpress.load(folder, base=name)


def test_a_hub_id_is_fetched_without_pickles(
    folder: Path, tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert latentpress.load("somebody/press", base=tiny_base_folder, dtype="float32").config.name == "tiny"
    assert asked == [("somebody/press", ["*.json", "*.safetensors"])]


def test_a_hub_id_that_cannot_be_had_is_refused_with_the_shipped_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot(name: str, **_: Any) -> str:
        raise LocalEntryNotFoundError("no network\nand more")

    ship(monkeypatch, tmp_path, one=folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(PressError, match=r"'runs/typo'.*no network.*shipped are one") as raised:
        latentpress.load("runs/typo")
    assert "and more" not in str(raised.value)


def test_a_folder_may_be_given_from_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert loading.press_folder("~/tiny") == folder


# ---- what is loaded ----


def test_a_loaded_press_is_the_saved_one(press: Press, folder: Path, tiny_base: Base) -> None:
    """Up to the bfloat16 that it is stored in."""
    model = make_model(config_for(tiny_base), tiny_base)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.bfloat16())
    made = Press(model, tiny_base, None, press.fingerprint)
    assert press.config == made.config
    latents, expected = press.compress(TEXT), made.compress(TEXT)
    assert torch.equal(latents.vectors, expected.vectors)
    assert latents.windows == expected.windows
    assert press.ask(latents, QUESTION, max_new_tokens=8) == made.ask(expected, QUESTION, max_new_tokens=8)


def test_latents_of_one_load_are_read_by_another(press: Press, folder: Path, tiny_base_folder: Path) -> None:
    again = latentpress.load(folder, base=tiny_base_folder, dtype="float32")
    latents = press.compress(TEXT)
    assert again.ask(latents, QUESTION, max_new_tokens=8) == press.ask(latents, QUESTION, max_new_tokens=8)


def addresses(tree: Backbone | None) -> set[int]:
    assert tree is not None
    return {parameter.data_ptr() for parameter in tree.parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("compressor", ["mean-pooling", "kv-pooling"])
def test_a_merged_adapter_answers_the_same(
    tiny_base: Base, tiny_base_folder: Path, tmp_path: Path, compressor: str
) -> None:
    of_entries = {"residual": "none", "encoder_lora": None, "encoder_layers": None}
    config = config_for(tiny_base, compressor=compressor, **(of_entries if compressor == "kv-pooling" else {}))
    folder = save_press(make_model(config, tiny_base), tmp_path / "press")
    presses = [
        latentpress.load(folder, base=tiny_base_folder, device="cpu", dtype="float32", merge=merge)
        for merge in (True, False)
    ]
    kept = [
        [layer.merged is not None for layer in one.model.decoder.modules() if isinstance(layer, LoraLinear)]
        for one in presses
    ]
    assert kept[0]
    assert all(kept[0])
    assert not any(kept[1])
    latents = [one.compress(TEXT, ratio=4) for one in presses]
    torch.testing.assert_close(latents[0].vectors, latents[1].vectors)
    decoders = [one.model.decoder for one in presses]
    assert any(bool(layer.lora_B.any()) for layer in decoders[0].modules() if isinstance(layer, LoraLinear))
    ids = torch.arange(7)
    with torch.no_grad():
        states = [one(one.embed(ids), Layout.of((3, 4), "causal")) for one in decoders]
    torch.testing.assert_close(states[0], states[1])
    answers = [one.ask(made, QUESTION, max_new_tokens=8) for one, made in zip(presses, latents, strict=True)]
    assert answers[0] == answers[1]


def test_encoder_and_decoder_share_one_copy_of_the_base_weights(press: Press) -> None:
    base = {parameter.data_ptr() for parameter in press.base.model.parameters()}
    assert addresses(press.model.encoder) < base  # two of three layers
    assert addresses(press.model.decoder) <= base
    layers = press.base.model.get_decoder().layers
    assert press.model.encoder is not None
    for tree in (press.model.encoder, press.model.decoder):
        for own, theirs in zip(tree.body.layers, layers, strict=False):
            assert own.self_attn.q_proj.base.weight is theirs.self_attn.q_proj.weight
            assert own.mlp.down_proj.base.weight is theirs.mlp.down_proj.weight
        assert tree.body.embed_tokens.weight is press.base.model.get_input_embeddings().weight
    adapters = [
        {p.data_ptr() for p in tree.parameters() if p.requires_grad}
        for tree in (press.model.encoder, press.model.decoder)
    ]
    assert not adapters[0] & adapters[1]


@pytest.mark.parametrize(
    ("name", "dtype", "kept"),
    [
        ("bfloat16", torch.bfloat16, torch.bfloat16),
        ("float32", torch.float32, torch.float32),
        ("float16", torch.float16, torch.float32),
    ],
)
def test_the_dtype_is_that_of_base_and_latents(
    folder: Path, tiny_base_folder: Path, name: str, dtype: torch.dtype, kept: torch.dtype
) -> None:
    press = latentpress.load(folder, base=tiny_base_folder, device="cpu", dtype=name)
    assert press.model.decoder.dtype == dtype
    latents = press.compress(TEXT, ratio=4)
    assert latents.vectors.dtype == kept
    assert isinstance(press.ask(latents, QUESTION, max_new_tokens=3), str)


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_without_a_dtype_a_cpu_computes_in_what_it_is_fast_in(
    folder: Path, tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(loading, "computes_bfloat16", lambda: native)
    press = latentpress.load(folder, base=tiny_base_folder, device="cpu")
    assert press.model.decoder.dtype == dtype
    assert press.compress(TEXT, ratio=4).vectors.dtype == dtype


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), torch.bfloat16), ((7, 5), torch.float32)])
def test_without_a_dtype_a_gpu_computes_in_bfloat16_if_it_can(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    devices = {torch.device("cuda:1"): capability}
    monkeypatch.setattr(torch.cuda, "get_device_capability", devices.__getitem__)
    assert loading.usual_dtype("cuda:1") == dtype
    assert loading.usual_dtype("mps") == torch.bfloat16


@pytest.mark.parametrize("machine", ["x86_64", "arm64"])
def test_what_the_cpu_computes_in_is_found_out(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert loading.computes_bfloat16.__wrapped__() in {True, False}


def test_a_build_without_onednn_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not loading.computes_bfloat16.__wrapped__()


def test_loading_without_a_base_looks_under_the_id_in_the_settings(
    tmp_path: Path, tiny_base: Base, tiny_base_folder: Path
) -> None:
    here = wrap_base(tiny_base.model, tiny_base.tokenizer, id=str(tiny_base_folder), fingerprint=tiny_base.fingerprint)
    folder = save_press(make_model(config_for(here), here), tmp_path / "press")
    assert latentpress.load(folder, dtype="float32").base.fingerprint == tiny_base.fingerprint


# ---- an encoder of another base ----


def test_an_encoder_of_another_width_and_tokenizer_works_end_to_end(
    two_base_folder: Path, tiny_base_folder: Path, other_folder: Path, tmp_path: Path
) -> None:
    press = latentpress.load(two_base_folder, base=tiny_base_folder, encoder_base=other_folder, dtype="float32")
    assert press.model.encoder is not None
    assert (press.model.encoder.width, press.model.decoder.width) == (48, 64)
    assert not addresses(press.model.encoder) & addresses(press.model.decoder)
    latents = press.compress(TEXT, ratio=4)
    tokenizer = make_tokenizer(entries=320)
    offsets = tokenizer(TEXT, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert latents.context_tokens == len(offsets) != press.count_tokens(TEXT)
    assert latents.vectors.shape[1] == 64
    assert latents.base_fingerprint == press.base.fingerprint
    for (start, end), span in zip(latents.token_spans.tolist(), latents.char_spans.tolist(), strict=True):
        assert span == [offsets[start][0], offsets[end - 1][1]]
    latents.save(tmp_path / "a.latents")
    loaded = latentpress.EmbeddingLatents.load(tmp_path / "a.latents")
    answers = press.ask_many([loaded, press.compress(OTHER_TEXT)], [QUESTION, "Why?"], max_new_tokens=6)
    assert answers[0] == press.ask(latents, QUESTION, max_new_tokens=6)
    assert answers[0] == press.session(latents).ask(QUESTION, max_new_tokens=6)
    assert press.chat([{"role": "user", "content": ["Read ", latents]}], max_new_tokens=3) is not None


def test_an_encoder_of_another_base_must_be_the_right_one(
    two_base_folder: Path, tiny_base_folder: Path, other_folder: Path
) -> None:
    with pytest.raises(BaseModelError, match=r"'two'.*'tiny-other'.*tiny-llama.*encoder_base="):
        latentpress.load(two_base_folder, base=tiny_base_folder, encoder_base=tiny_base_folder)
    with pytest.raises(BaseModelError, match=r"'two'.*'tiny-other'.*give encoder_base="):
        latentpress.load(two_base_folder, base=tiny_base_folder)


def test_an_encoder_base_for_a_press_without_one_is_refused(
    folder: Path, tiny_base_folder: Path, other_folder: Path
) -> None:
    with pytest.raises(InputError, match=r"'tiny'.*not encoder_base="):
        latentpress.load(folder, base=tiny_base_folder, encoder_base=other_folder)


def test_an_encoder_that_is_named_apart_and_is_the_decoders_base_shares_its_weights(
    tmp_path: Path, tiny_base: Base, tiny_base_folder: Path
) -> None:
    reference = BaseReference(id="elsewhere", fingerprint=tiny_base.fingerprint, width=tiny_base.width)
    config = config_for(tiny_base, encoder_base=reference, residual="none")
    folder = save_press(make_model(config, tiny_base, tiny_base), tmp_path / "press")
    press = latentpress.load(folder, base=tiny_base_folder, dtype="float32")
    assert addresses(press.model.encoder) < addresses(press.model.decoder) | {
        parameter.data_ptr() for parameter in press.base.model.parameters()
    }
    assert isinstance(press.ask(TEXT, QUESTION, max_new_tokens=2), str)


# ---- what cannot be loaded ----


def test_a_press_for_another_base_is_refused_naming_both(folder: Path, other_folder: Path) -> None:
    with pytest.raises(BaseModelError) as raised:
        latentpress.load(folder, base=other_folder)
    message = str(raised.value)
    for part in ("'tiny'", "'tiny-llama'", str(other_folder), fingerprint(other_folder)[:12], "base="):
        assert part in message


def test_a_missing_base_is_named_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"'tiny'.*'tiny-llama'.*give base="):
        latentpress.load(folder)
    with pytest.raises(BaseModelError, match="nowhere"):
        latentpress.load(folder, base=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("dtype", "float64", r"dtype 'float64'.*bfloat16, float32, float16"),
        ("device", "abacus", r"device 'abacus'.*cpu"),
        ("device", "meta", r"device 'meta'.*cpu"),
        ("device", "cuda:99", r"device 'cuda:99'.*cpu"),
    ],
)
def test_an_unknown_dtype_or_device_is_refused_before_anything_is_read(
    option: str, value: str, message: str, folder: Path, tmp_path: Path, tiny_base_folder: Path
) -> None:
    with pytest.raises(InputError, match=message):
        latentpress.load(folder, base=tmp_path / "nowhere", **{option: value})


def test_a_gpu_is_used_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loading.resolve_device(None) == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loading.resolve_device(None) == "cpu"


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A press folder of one's own, to damage."""
    import shutil

    return Path(shutil.copytree(folder, tmp_path / "copied"))


def change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_pickle_folder_is_refused_unread(copied: Path, tiny_base_folder: Path) -> None:
    (copied / "config.json").unlink()
    (copied / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(PressError, match=r"pytorch_model\.bin is a pickle"):
        latentpress.load(copied, base=tiny_base_folder)


def test_a_pickle_in_the_place_of_safetensors_is_refused(copied: Path, tiny_base_folder: Path) -> None:
    import hashlib

    path = copied / "modules.safetensors"
    torch.save({"head.weight": torch.zeros(1)}, path)
    files = json.loads((copied / "config.json").read_text())["files"]
    change(copied, files={**files, path.name: hashlib.sha256(path.read_bytes()).hexdigest()})
    with pytest.raises(PressError, match="safetensors"):
        latentpress.load(copied, base=tiny_base_folder)


@pytest.mark.parametrize("name", ["modules.safetensors", "decoder_adapter/adapter_model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "one byte"])
def test_a_damaged_press_is_refused_naming_the_file(
    copied: Path, name: str, damage: str, tiny_base_folder: Path
) -> None:
    content = bytearray((copied / name).read_bytes())
    content[-1] ^= 1
    (copied / name).unlink()
    if damage != "missing":
        (copied / name).write_bytes(content if damage == "one byte" else content[: len(content) // 2])
    with pytest.raises(PressError, match=name):
        latentpress.load(copied, base=tiny_base_folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "blue"}, "colour"),
        ({"schema_version": 99}, "99"),
        ({"compressor": "magic"}, "magic"),
        ({"policy": "magic"}, "magic"),
        ({"candidates": [4, 2]}, r"\[4, 2\]"),
        ({"encoder_layers": 9}, "encoder_layers=9"),
        ({"window_tokens": 0}, "window_tokens"),
        ({"converter_width": 31}, "do not fit"),
        ({"encoder_layers": 1}, "do not fit"),
        ({"residual": "none"}, "do not fit"),
    ],
)
def test_settings_that_are_unknown_or_do_not_fit_are_refused(
    copied: Path, changes: dict[str, Any], message: str, tiny_base_folder: Path
) -> None:
    change(copied, **changes)
    with pytest.raises(latentpress.LatentpressError, match=message):
        latentpress.load(copied, base=tiny_base_folder, dtype="float32")


def test_changed_settings_make_another_press(copied: Path, press: Press, tiny_base_folder: Path) -> None:
    change(copied, name="renamed", window_tokens=40)
    renamed = latentpress.load(copied, base=tiny_base_folder, dtype="float32")
    with pytest.raises(LatentsError, match=r"'tiny'.*'renamed'"):
        renamed.ask(press.compress(TEXT), QUESTION)


def test_a_file_is_no_press(folder: Path) -> None:
    with pytest.raises(PressError, match="no press"):
        latentpress.load(folder / "config.json")
