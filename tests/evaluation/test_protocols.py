"""Protocols are the papers' settings, and each can be run as it stands."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import latentpress
from latentpress.decoder.prompt import PromptSettings
from latentpress.errors import InputError
from latentpress.evaluation import metrics
from latentpress.evaluation.datasets import Selection
from latentpress.evaluation.protocols import PROTOCOLS, Protocol, find_protocol

FOLDER = Path(latentpress.__file__).parent


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_names_known_measures_prompts_and_limits(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.name == name
    assert protocol.metrics
    for metric in protocol.metrics:
        assert getattr(metrics, metric)("Denver", ["Denver"]) == 1.0
    own = PromptSettings(question="\nQ: {question}")
    prompt = protocol.reader_prompt(own, ["span"])
    assert "{question}" in prompt.question
    assert (prompt is own) is (protocol.prompt is None)
    assert (protocol.reader_prompt(own, ["span", "summary"]) is own) is ("summary" not in protocol.prompt_kinds)
    Selection(min_tokens=protocol.min_tokens, max_tokens=protocol.max_tokens, limit=protocol.limit)
    assert protocol.answer_tokens("span") == protocol.answer_tokens("choice") == protocol.max_new_tokens
    assert protocol.answer_tokens("summary") == protocol.summary_tokens > protocol.max_new_tokens


def test_the_semidynamic_protocol_is_the_papers() -> None:
    protocol = PROTOCOLS["semidynamic"]
    assert protocol.sets == ("HotpotQA", "SQuAD", "NQ", "AdversarialQA")
    assert (protocol.max_tokens, protocol.limit) == (2047, 1000)
    assert protocol.metrics[0] == "substring_accuracy"
    assert protocol.correct_only
    prompt = protocol.reader_prompt(PromptSettings(), ["span"])
    assert prompt.context + "TEXT" + prompt.question.format(question="Who?") == "Context: TEXT\n\nQuestion: Who?"


def test_the_comprexit_protocol_is_the_papers() -> None:
    protocol = PROTOCOLS["comprexit"]
    assert len(set(protocol.sets)) == 12
    assert protocol.sets[:6] == ("SQuAD", "NewsQA", "TriviaQA-web", "SearchQA", "HotpotQA", "NaturalQuestionsShort")
    assert protocol.max_new_tokens == 20
    assert protocol.metrics == ("exact_match", "f1")
    assert not protocol.correct_only
    assert protocol.reader_prompt(PromptSettings(), ["span"]).question.format(question="Who?").strip() == (
        "Question: Who?Answer the question directly with a short span only, no explanation. Answer:"
    )


@pytest.mark.parametrize("name", ["semidynamic", "comprexit"])
def test_the_sets_of_a_protocol_are_found_in_a_folder_by_their_names(name: str, tmp_path: Path) -> None:
    sets = PROTOCOLS[name].sets
    for one in sets:
        (tmp_path / f"{one}.jsonl.gz").touch()
    found = PROTOCOLS[name].find_sets(tmp_path)
    assert [source.name for source in found] == list(sets)
    assert {Path(source.place).parent for source in found} == {tmp_path}


def test_sets_of_a_protocol_that_are_nowhere_are_refused_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = PROTOCOLS["semidynamic"]
    monkeypatch.setattr("latentpress.evaluation.sources._reads_hub", lambda: False)
    with pytest.raises(InputError) as caught:
        protocol.find_sets()
    message = str(caught.value)
    assert message.startswith("protocol 'semidynamic' asks for the data sets HotpotQA, SQuAD, NQ, AdversarialQA, and")
    assert "without --data-dir there is no HotpotQA, SQuAD, NQ, AdversarialQA; give --data-dir FOLDER" in message
    assert "HotpotQA.jsonl.gz" in message
    (tmp_path / "nq.jsonl").touch()
    with pytest.raises(InputError) as caught:
        protocol.find_sets(tmp_path)
    message = str(caught.value)
    assert f"the folder {tmp_path} has no HotpotQA, SQuAD, AdversarialQA; give" in message
    assert "or choose sets of your own: --data FILE; pip install 'latentpress[hub]' reads HotpotQA, SQuAD, " in message
    (tmp_path / "adversarialqa.jsonl.xz").touch()
    monkeypatch.setattr("latentpress.evaluation.sources._reads_hub", lambda: True)
    names = [source.name for source in protocol.find_sets(tmp_path)]
    assert names == ["HotpotQA", "SQuAD", "nq", "adversarialqa"]
    assert [source.name for source in protocol.find_sets() if source.hub] == [
        "HotpotQA",
        "SQuAD",
        "NaturalQuestionsShort",
        "AdversarialQA",
    ]


def test_protocols_are_found_case_aside_and_unknown_ones_refused_with_the_nearest() -> None:
    assert find_protocol("ComprExIT") is PROTOCOLS["comprexit"]
    with pytest.raises(InputError, match=r"'comprexitt' is unknown \(did you mean comprexit\?\); give one of default"):
        find_protocol("comprexitt")
    with pytest.raises(InputError, match="unknown; give one of"):
        find_protocol("zzz")


def test_no_field_goes_unread() -> None:
    """A reader takes it from a `protocol`, from `rules`, from what was found by name, or from `self` in the class."""
    read: set[str] = set()
    for path in (path for part in ("cli", "evaluation") for path in (FOLDER / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name == "Protocol" and path.name == "protocols.py":
                read |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            if isinstance(node, ast.Attribute) and _is_protocol(node.value):
                read.add(node.attr)
    assert {field.name for field in dataclasses.fields(Protocol)} - read == set()


def _is_protocol(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "find_protocol"
    return isinstance(node, ast.Name) and node.id in {"protocol", "rules"}


def test_reading_the_table_loads_no_model_code() -> None:
    code = "import sys, latentpress.evaluation.protocols; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
