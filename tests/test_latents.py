"""Latents: what they accept, and files that come back bit for bit or are refused with a reason."""

import dataclasses
import errno
import itertools
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from latentpress.errors import LatentsError
from latentpress.latents import EmbeddingLatents, KVLatents, Latents, WindowInfo, _digest, total_ratio

SHA = "0123456789abcdef" * 4


def make(
    counts: tuple[tuple[int, int], ...] = ((10, 3), (9, 3)),
    *,
    width: int = 4,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> EmbeddingLatents:
    """Builds latents of windows with the given (tokens, latents), each token three characters long."""
    windows, spans, start = [], [], 0
    for tokens, latents in counts:
        windows.append(WindowInfo(start=start, tokens=tokens, latents=latents, ratio=4.0, log2_ratio=1.75))
        bounds = [start + tokens * index // latents for index in range(latents + 1)]
        spans += list(itertools.pairwise(bounds))
        start += tokens
    token_spans = torch.tensor(spans)
    vectors = torch.randn(len(spans), width, generator=torch.Generator().manual_seed(0)).to(dtype)
    fields: dict[str, Any] = {
        "vectors": vectors,
        "token_spans": token_spans,
        "char_spans": token_spans * 3,
        "windows": tuple(windows),
        "requested_ratio": 4.0,
        "scale": -0.5,
        "press": "tiny-press",
        "press_fingerprint": "ab12",
        "base_fingerprint": "cd34",
        "text_sha256": SHA,
        **changes,
    }
    return EmbeddingLatents(**fields)


def assert_identical(one: EmbeddingLatents, other: EmbeddingLatents) -> None:
    for field in dataclasses.fields(EmbeddingLatents):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype, field.name
            assert left.shape == right.shape, field.name
            assert left.reshape(-1).view(torch.uint8).tolist() == right.reshape(-1).view(torch.uint8).tolist(), (
                field.name
            )
        else:
            assert left == right, field.name


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], *, sign: bool = True) -> None:
    """Changes the header of a saved file and leaves its tensors alone; `sign` makes its checksum right again."""
    with safe_open(path, framework="pt") as opened:
        header = json.loads(opened.metadata()["latentpress"])
    before = header.pop("sha256")
    change(header)
    tensors = safetensors.torch.load(path.read_bytes())
    header.setdefault("sha256", _digest(tensors, header) if sign else before)
    path.write_bytes(safetensors.torch.save(tensors, metadata={"latentpress": json.dumps(header)}))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "document.latents"
    make().save(path)
    return path


def test_ratio_is_all_tokens_over_all_latents() -> None:
    latents = make(((10, 3), (9, 3)))
    assert (len(latents), latents.context_tokens) == (6, 19)
    assert latents.ratio == pytest.approx(19 / 6)
    assert total_ratio([latents, make(((100, 4),))]) == pytest.approx(119 / 10)
    with pytest.raises(LatentsError, match="at least one document"):
        total_ratio([])


def test_repr_says_what_matters_without_the_numbers() -> None:
    assert repr(make()) == "EmbeddingLatents(6 latents of 19 tokens, 3.17x, torch.float32, press 'tiny-press')"


def test_to_changes_the_vectors_alone() -> None:
    latents = make()
    converted = latents.to(dtype=torch.bfloat16)
    assert converted.vectors.dtype == torch.bfloat16
    assert torch.equal(converted.vectors, latents.vectors.bfloat16())
    assert_identical(dataclasses.replace(converted, vectors=latents.vectors), latents)
    assert_identical(latents.to("cpu"), latents)


floats = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda pair: (max(pair), min(pair))),
        min_size=1,
        max_size=5,
    ),
    width=st.integers(1, 5),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    requested=st.none() | st.floats(1.0, 1e300),
    scale=floats,
    press=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    seed=st.integers(0, 2**31),
)
def test_a_saved_file_gives_back_every_bit(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[tuple[int, int]],
    width: int,
    dtype: torch.dtype,
    requested: float | None,
    scale: float,
    press: str,
    seed: int,
) -> None:
    latents = make(tuple(counts), width=width, requested_ratio=requested, scale=scale, press=press)
    element = torch.int16 if dtype == torch.bfloat16 else torch.int32
    limits = torch.iinfo(element)
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(limits.min, limits.max, latents.vectors.shape, generator=generator, dtype=element)
    latents = dataclasses.replace(
        latents, vectors=bits.view(dtype)
    )  # NaN payloads, infinities and subnormals among them
    path = tmp_path_factory.mktemp("round") / "x"
    latents.save(path)
    assert_identical(EmbeddingLatents.load(path), latents)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    starts = set()
    for length in range(1, 300, 8):  # safetensors rounds its header up to a multiple of 8
        make(press="x" * length).save(tmp_path / "x")
        starts.add((tmp_path / "x").read_bytes()[:2])
        assert EmbeddingLatents.load(tmp_path / "x").press == "x" * length
    assert starts & {b"\x80\x03", b"\x80\x04", b"\x80\x05"}


def test_views_of_larger_tensors_are_saved_alone(tmp_path: Path) -> None:
    spans = torch.tensor([[0, 2, 0, 2], [2, 4, 2, 4]])
    latents = make(
        ((4, 2),),
        vectors=torch.randn(5, 2, requires_grad=True).t(),
        token_spans=spans[:, :2],
        char_spans=spans[:, 2:],
    )
    latents.save(tmp_path / "x")
    loaded = EmbeddingLatents.load(tmp_path / "x")
    assert_identical(loaded, dataclasses.replace(latents, vectors=latents.vectors.detach()))
    assert not loaded.vectors.requires_grad


def test_loaded_latents_outlive_their_file(saved: Path) -> None:
    loaded = EmbeddingLatents.load(str(saved))
    saved.write_bytes(b"\x00" * saved.stat().st_size)
    assert_identical(loaded, make())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vectors": torch.zeros(6)}, "vectors of shape (6,) are not [latents, width]"),
        ({"vectors": torch.zeros(6, 0)}, "vectors of shape (6, 0) are not [latents, width]"),
        ({"vectors": torch.zeros(0, 4)}, "vectors of shape (0, 4) are not [latents, width]"),
        ({"vectors": torch.zeros(6, 4, dtype=torch.float64)}, "vectors are torch.float64"),
        ({"vectors": torch.zeros(5, 4)}, "token_spans are torch.int64 of shape (6, 2): 5 latents need"),
        ({"char_spans": torch.zeros(6, 2, dtype=torch.int32)}, "char_spans are torch.int32"),
        ({"char_spans": torch.zeros(6, 3, dtype=torch.int64)}, "char_spans are torch.int64 of shape (6, 3)"),
        ({"char_spans": torch.tensor([[0, 1]] * 5 + [[-1, 2]])}, "char_spans run backwards or below 0"),
        ({"char_spans": torch.tensor([[0, 1]] * 5 + [[3, 2]])}, "char_spans run backwards"),
        ({"char_spans": torch.tensor([[1, 4]] * 5 + [[0, 4]])}, "char_spans run backwards"),
        ({"char_spans": torch.tensor([[1, 4]] * 5 + [[1, 3]])}, "char_spans run backwards"),
        (
            {"token_spans": torch.tensor([[0, 3], [3, 6], [6, 11], [11, 13], [13, 16], [16, 19]])},
            "latent 2 covers the tokens [6, 11]: give it one or more inside its window [0, 10]",
        ),
        (
            {"token_spans": torch.tensor([[0, 3], [3, 6], [6, 10], [10, 10], [13, 16], [16, 19]])},
            "latent 3 covers the tokens [10, 10]",
        ),
        ({"windows": ()}, "6 vectors, but the windows' latents add up to 0"),
        ({"requested_ratio": 0.5}, "requested ratio 0.5"),
        ({"requested_ratio": float("inf")}, "requested ratio inf"),
        ({"requested_length": 0}, "requested length 0 is not a number of 1 or more"),
        ({"scale": float("nan")}, "scale nan is not finite"),
        ({"press": ""}, "the name of the press is empty"),
        ({"press_fingerprint": ""}, "press_fingerprint '' is not a hexadecimal number"),
        ({"base_fingerprint": "XYZ"}, "base_fingerprint 'XYZ' is not a hexadecimal number"),
        ({"text_sha256": "ab12"}, "text_sha256 'ab12' is not a hexadecimal SHA-256"),
    ],
)
def test_contradicting_fields_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(LatentsError) as caught:
        make(**changes)
    assert expected in str(caught.value)


def test_spans_of_neighbours_may_overlap_and_share_characters() -> None:
    make(((4, 2),), token_spans=torch.tensor([[0, 4], [0, 4]]), char_spans=torch.tensor([[0, 1], [0, 1]]))
    make(((4, 2),), token_spans=torch.tensor([[2, 3], [3, 4]]), char_spans=torch.tensor([[5, 5], [5, 6]]))


def test_windows_that_overlap_are_refused() -> None:
    windows = (
        WindowInfo(start=0, tokens=10, latents=3, ratio=4.0, log2_ratio=None),
        WindowInfo(start=9, tokens=10, latents=3, ratio=4.0, log2_ratio=None),
    )
    with pytest.raises(LatentsError, match="the window at token 9 begins before the one at 0 has ended"):
        make(windows=windows)


@pytest.mark.parametrize(
    "changes",
    [
        {"start": -1},
        {"start": 2**63},
        {"tokens": 0},
        {"latents": 0},
        {"latents": 9},
        {"ratio": 0.5},
        {"ratio": float("nan")},
        {"ratio": float("inf")},
        {"log2_ratio": float("nan")},
    ],
)
def test_impossible_windows_are_refused(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"start": 0, "tokens": 8, "latents": 2, "ratio": 4.0, "log2_ratio": None, **changes}
    with pytest.raises(LatentsError):
        WindowInfo(**fields)


def test_a_file_cut_anywhere_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for length in (0, 1, 4, 7, 8, 9, header // 2, header - 1, header, header + 1, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(LatentsError, match="truncated or not safetensors") as caught:
            EmbeddingLatents.load(saved)
        assert str(caught.value).startswith(f"{saved}: "), length
    saved.write_bytes(content + b"more")
    with pytest.raises(LatentsError):
        EmbeddingLatents.load(saved)


def test_a_flipped_bit_in_any_tensor_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for place in range(header, len(content), 7):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(LatentsError, match="do not match their checksum"):
            EmbeddingLatents.load(saved)


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    target, path = tmp_path / "ran", tmp_path / "x"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Bomb(target), protocol=protocol))
        with pytest.raises(LatentsError, match="is a pickle" if protocol >= 2 else "not safetensors"):
            EmbeddingLatents.load(path)
    torch.save({"vectors": torch.zeros(2, 2)}, path)
    with pytest.raises(LatentsError, match="is a pickle or zip file, not opened because it can run code"):
        EmbeddingLatents.load(path)
    assert not target.exists()


@pytest.mark.parametrize("change", [{"scale": 0.5}, {"press": "other"}, {"requested_ratio": 8.0}])
def test_an_altered_header_is_noticed(saved: Path, change: dict[str, Any]) -> None:
    rewrite(saved, lambda header: header.update(change), sign=False)
    with pytest.raises(LatentsError, match="do not match their checksum"):
        EmbeddingLatents.load(saved)


def test_what_can_be_no_path_is_refused() -> None:
    for name in ("a\0b", "x" * 5000, "~nobody-of-that-name/x", 3):
        with pytest.raises(LatentsError, match="latents file"):
            EmbeddingLatents.load(name)  # type: ignore[arg-type]


def test_what_is_no_latents_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"text", b"\x00" * 100, b"\xff" * 100, b"{}" * 50, safetensors.torch.save({"a": torch.zeros(1)})):
        path.write_bytes(content)
        with pytest.raises(LatentsError, match=r"give a file that latents\.save wrote"):
            EmbeddingLatents.load(path)
    with pytest.raises(LatentsError, match="No such file"):
        EmbeddingLatents.load(tmp_path / "missing")
    with pytest.raises(LatentsError, match="cannot be read"):
        EmbeddingLatents.load(tmp_path)


HEADER_CHANGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda header: header.update(schema_version=2), "its schema version is 2, and this latentpress reads 1 only"),
    (lambda header: header.pop("schema_version"), "its schema version is None"),
    (lambda header: header.update(kind="kv"), "latents of kind 'kv' instead of 'embedding'"),
    (lambda header: header.update(extra=1), "its header holds"),
    (lambda header: header.pop("press"), "its header holds"),
    (lambda header: header.update(press=7), "its header has 7 as press"),
    (lambda header: header.update(scale="0"), "its header has '0' as scale"),
    (lambda header: header.update(scale=None), "its header has None as scale"),
    (lambda header: header.update(scale=True), "its header has True as scale"),
    (lambda header: header.update(scale=float("nan")), "scale nan is not finite"),
    (lambda header: header.update(scale=10**400), "too large"),
    (lambda header: header.update(requested_ratio=0.1), "requested ratio 0.1"),
    (lambda header: header.update(requested_length=1.5), "its header has 1.5 as requested_length"),
    (lambda header: header.update(text_sha256="no"), "text_sha256 'no'"),
    (lambda header: header.update(sha256="no"), "do not match their checksum"),
    (lambda header: header.update(windows={}), "its header has {} as windows"),
    (lambda header: header.update(windows=[]), "6 vectors, but the windows' latents add up to 0"),
    (lambda header: header.update(windows=[1, 2]), "window 0 of its header holds int"),
    (lambda header: header["windows"][1].update(tokens=9.0), "window 1 of its header has 9.0 as tokens"),
    (lambda header: header["windows"][1].update(tokens=2), "window of 2 tokens from token 10 with 3 latents"),
    (lambda header: header["windows"][1].update(tokens=5), "inside its window [10, 15]"),
    (lambda header: header["windows"][1].update(start=10**30), "window of 9 tokens from token 1000000"),
    (lambda header: header["windows"][0].update(latents=2), "6 vectors, but the windows' latents add up to 5"),
    (lambda header: header["windows"][0].update(extra=1), "window 0 of its header holds"),
]


@pytest.mark.parametrize(("change", "expected"), HEADER_CHANGES)
def test_a_tampered_header_is_refused(saved: Path, change: Callable[[dict[str, Any]], Any], expected: str) -> None:
    rewrite(saved, change)
    with pytest.raises(LatentsError) as caught:
        EmbeddingLatents.load(saved)
    assert str(caught.value).startswith(f"{saved}: ")
    assert expected in str(caught.value)


def test_a_file_of_an_older_version_says_nothing_of_lengths(saved: Path) -> None:
    before = EmbeddingLatents.load(saved)
    rewrite(saved, lambda header: header.pop("requested_length"))
    assert EmbeddingLatents.load(saved).requested_length is None
    assert EmbeddingLatents.load(saved).windows == before.windows


@pytest.mark.parametrize("header", ["", "{", "[]", "null", "[" * 100_000, '"latentpress"'])
def test_a_header_of_another_form_is_refused(saved: Path, header: str) -> None:
    tensors = safetensors.torch.load(saved.read_bytes())
    saved.write_bytes(safetensors.torch.save(tensors, metadata={"latentpress": header}))
    with pytest.raises(LatentsError):
        EmbeddingLatents.load(saved)


def test_missing_and_additional_tensors_are_refused(saved: Path) -> None:
    tensors = safetensors.torch.load(saved.read_bytes())
    with safe_open(saved, framework="pt") as opened:
        metadata = opened.metadata()
    for changed in ({**tensors, "more": torch.zeros(1)}, {"vectors": tensors["vectors"]}):
        header = json.loads(metadata["latentpress"])
        header["sha256"] = _digest(changed, {name: value for name, value in header.items() if name != "sha256"})
        saved.write_bytes(safetensors.torch.save(changed, metadata={"latentpress": json.dumps(header)}))
        with pytest.raises(LatentsError, match="holds the tensors"):
            EmbeddingLatents.load(saved)


def test_an_integer_ratio_is_as_good_as_a_float(tmp_path: Path) -> None:
    latents = make(requested_ratio=4, scale=0)
    latents.save(tmp_path / "x")
    assert_identical(EmbeddingLatents.load(tmp_path / "x"), latents)


def refuse(code: int) -> Callable[..., None]:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_full_disk_leaves_the_old_file_and_nothing_else(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    for place in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, place, refuse(errno.ENOSPC))
            with pytest.raises(LatentsError, match=r"could not write .* bytes \(No space left on device\).*free space"):
                make(press="another").save(saved)
        assert saved.read_bytes() == before
        assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_disk_that_fills_up_while_writing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def open_full(self: Path, mode: str = "r", *arguments: Any) -> Any:
        return real(Path("/dev/full"), "wb") if mode == "xb" else real(self, mode, *arguments)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(LatentsError, match="No space left on device"):
        make().save(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_the_old_file_and_nothing_else(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(press="another").save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_an_old_file_is_replaced_and_a_link_followed(saved: Path) -> None:
    link = saved.parent / "link"
    link.symlink_to(saved)
    make(press="another").save(link)
    assert link.is_symlink()
    assert EmbeddingLatents.load(saved).press == "another"


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "no" / "such" / "x", tmp_path / "file" / "x", tmp_path):
        with pytest.raises(LatentsError, match="existing, writable folder"):
            make().save(path)


def test_a_saved_file_has_ordinary_permissions(saved: Path) -> None:
    plain = saved.parent / "plain"
    plain.touch()
    assert saved.stat().st_mode == plain.stat().st_mode


def test_a_file_says_its_kind_and_is_read_as_that(tmp_path: Path) -> None:
    embeddings = make()
    entries = KVLatents(**{field.name: getattr(embeddings, field.name) for field in dataclasses.fields(embeddings)})
    embeddings.save(tmp_path / "e")
    entries.save(tmp_path / "k")
    for cls, name in ((EmbeddingLatents, "e"), (KVLatents, "k"), (Latents, "e"), (Latents, "k")):
        assert_identical(cls.load(tmp_path / name), embeddings)
    assert [type(Latents.load(tmp_path / name)) for name in "ek"] == [EmbeddingLatents, KVLatents]
    with pytest.raises(LatentsError, match="holds latents of kind 'key-value' instead of 'embedding'"):
        EmbeddingLatents.load(tmp_path / "k")
    with pytest.raises(LatentsError, match="holds latents of kind 'embedding' instead of 'key-value'"):
        KVLatents.load(tmp_path / "e")
    rewrite(tmp_path / "k", lambda header: header.update(kind="words"))
    with pytest.raises(LatentsError, match="kind 'words' instead of 'embedding' or 'key-value'"):
        Latents.load(tmp_path / "k")
    with pytest.raises(LatentsError, match="make one of those"):
        Latents(**{field.name: getattr(embeddings, field.name) for field in dataclasses.fields(embeddings)})
    assert repr(entries).startswith("KVLatents(6 latents of 19 tokens")
    assert type(entries.to(dtype=torch.bfloat16)) is KVLatents
