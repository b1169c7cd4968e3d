"""Systems by name; a press and a bound answer a batch as they answer each question alone."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from handmade import OTHER_TEXT, QUESTION, TEXT, save_press, sharpen_head
from test_readers import READER
from tiny import config_for, make_model

from latentpress.errors import InputError, PressError, RatioError
from latentpress.evaluation.questions import Question
from latentpress.evaluation.systems import Setup, Size, System, families, make_systems
from latentpress.evaluation.systems.bounds import BOUNDS
from latentpress.evaluation.systems.named import press_names
from latentpress.evaluation.systems.presses import PressSystem, stored_bytes
from latentpress.press import Press

if TYPE_CHECKING:
    from latentpress.backbone import Base

CONTEXTS = ((TEXT,), (OTHER_TEXT,), (TEXT, OTHER_TEXT), (TEXT,), (OTHER_TEXT * 2, TEXT[:90]))
ASKED = (QUESTION, "Who was elsewhere?", "What does the dog do?", "Where was it signed?", "日本語?")
QUESTIONS = tuple(
    Question(id=str(i), dataset="tiny", contexts=contexts, question=question, answers=("a fox",))
    for i, (contexts, question) in enumerate(zip(CONTEXTS, ASKED, strict=True))
)


@pytest.fixture(scope="module")
def press(tiny_base: Base) -> Press:
    return Press(sharpen_head(make_model(config_for(tiny_base), tiny_base)), tiny_base, None, "feed")


@pytest.fixture(scope="module")
def tuned(tiny_base: Base) -> Press:
    return Press(make_model(config_for(tiny_base, name="reader", **READER), tiny_base), tiny_base, None, "beef")


@pytest.fixture(scope="module")
def setup(press: Press, tuned: Press) -> Setup:
    return Setup(press=press, readers={"tuned": tuned})


@pytest.fixture
def made(press: Press, tuned: Press, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes systems by name, where `tiny`, `other` (of the same name) and `fixed` are folders of presses."""
    monkeypatch.chdir(tmp_path)
    other = Press(press.model, press.base, None, "0123456789")
    presses = {"runs/tiny@home": press, "other": other, "fixed": tuned}
    for folder in presses:
        Path(folder).mkdir(parents=True)
    setup = Setup(press=press, readers={"tuned": tuned})

    def make(*names: str, sizes: str = "4/8/auto", readers: dict[str, Press] | None = None) -> Any:
        chosen = setup if readers is None else dataclasses.replace(setup, readers=readers)
        return make_systems(names, chosen, [Size.parse(size) for size in sizes.split("/")], presses.__getitem__)

    make.presses = presses  # type: ignore[attr-defined]
    return make


def labels(systems: list[System]) -> list[str]:
    return [system.label for system in systems]


# ---- a press ----


@pytest.mark.parametrize("size", ["4", "auto", "auto+1"])
def test_a_press_answers_a_batch_as_each_question_alone(press: Press, size: str) -> None:
    system = PressSystem(press, Size.parse(size))
    together = system.answer(QUESTIONS, 6)
    assert together == [system.answer([question], 6)[0] for question in QUESTIONS]
    assert len({answer.text for answer in together}) > 2
    ratio, scale = system.size.ratio, system.size.scale
    for question, answer in zip(QUESTIONS, together, strict=True):
        latents = press.compress(question.contexts, ratio=ratio, scale=scale)
        assert answer.text == press.ask(latents, question.question, max_new_tokens=6)
        assert answer.tokens == sum(press.count_tokens(context) for context in question.contexts)
        assert answer.kept == sum(map(len, latents))
        assert answer.error is None


def test_a_press_that_reads_some_windows_answers_as_the_library_does(made: Any, press: Press) -> None:
    systems, _ = made("runs/tiny@home:focus1@2", "runs/tiny@home@2", "mine=runs/tiny@home:focus2@2")
    assert labels(systems) == ["tiny-x2-focus1", "tiny-x2", "mine-x2-focus2"]
    assert not any(system.sees_question for system in systems)
    identities = [system.identity() for system in systems]
    assert [one.get("focus") for one in identities] == [1, None, 2]
    rows = [system.answer(QUESTIONS, 6) for system in systems]
    for question, narrow, whole in zip(QUESTIONS, *rows[:2], strict=True):
        latents = press.compress(question.contexts, ratio=2)
        assert narrow.text == press.ask(latents, question.question, focus=1, max_new_tokens=6)
        assert whole.text == press.ask(latents, question.question, max_new_tokens=6)
        assert narrow.kept == whole.kept == sum(map(len, latents)), "what is stored, not what is read"
    assert [answer.text for answer in rows[0]] != [answer.text for answer in rows[1]]
    for question, two in zip(QUESTIONS, rows[2], strict=True):
        latents = press.compress(question.contexts, ratio=2)
        assert two.text == press.ask(latents, question.question, focus=2, max_new_tokens=6)
    assert labels(made("runs/tiny@home:focus1", sizes="4")[0]) == ["tiny-x4-focus1"]
    held = systems[0].hold(QUESTIONS[0])
    _, prompt = systems[0].prompt(held, QUESTIONS[0])
    _, longer = systems[1].prompt(held, QUESTIONS[0])
    assert len(prompt) < len(longer)


def test_a_press_with_lengths_is_asked_for_a_number_of_latents(tiny_base: Base) -> None:
    config = config_for(tiny_base, policy="fixed-length", candidates=(4, 8))
    press = Press(make_model(config, tiny_base), tiny_base, None, "feed")
    system = PressSystem(press, Size.parse("m4"))
    assert system.label == "tiny-m4"
    (answer,) = system.answer(QUESTIONS[:1], 1)
    windows = -(-press.count_tokens(TEXT) // press.config.window_tokens)
    assert answer.kept == 4 * windows
    assert system.identity() != PressSystem(press, Size.parse("m8")).identity()
    with pytest.raises(RatioError, match="ratio=4"):
        PressSystem(press, Size.parse("4"))


def test_stored_bytes_are_those_of_the_file_but_for_its_header(press: Press, tmp_path: Path) -> None:
    latents = press.compress(TEXT, ratio=4)
    latents.save(tmp_path / "a.latents")
    header = (tmp_path / "a.latents").stat().st_size - stored_bytes(latents)
    assert 0 < header < 2500
    (answer,) = PressSystem(press, Size(4)).answer(QUESTIONS[:1], 1)
    assert answer.nbytes == stored_bytes(latents) == len(latents) * (64 * 4 + 2 * 16)


def test_each_document_is_read_once_for_all_sizes_of_a_press(
    made: Any, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [PressSystem(press, Size.parse(size)).answer(QUESTIONS, 1) for size in ("4", "8", "auto")]
    systems, _ = made("runs/tiny@home@4/8", "runs/tiny@home@auto")
    read: list[int] = []
    encode = press.model.encode

    def watched(texts: list[list[int]]) -> Any:
        read.append(len(texts))
        return encode(texts)

    monkeypatch.setattr(press.model, "encode", watched)
    assert [system.answer(QUESTIONS, 1) for system in systems] == alone
    windows = [TEXT, OTHER_TEXT, OTHER_TEXT * 2, TEXT[:90]]
    limit = press.config.window_tokens
    assert sum(read) == sum(-(-press.count_tokens(text) // limit) for text in windows)
    assert systems[0].shares is systems[2].shares


def test_a_question_is_answered_once_from_the_same_latents(
    made: Any, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales = [f"auto{scale:+g}" for scale in (-9, 0, 9)]
    sizes = ["2", "8", *scales]
    asked = [*QUESTIONS, QUESTIONS[0]]
    alone = [PressSystem(press, Size.parse(size)).answer(asked, 3) for size in sizes]
    systems, _ = made(f"runs/tiny@home@{'/'.join(sizes)}")
    answered: list[str] = []
    ask_many = press.ask_many

    def watched(contexts: Any, questions: list[str], **options: Any) -> list[str]:
        answered.extend(questions)
        return ask_many(contexts, questions, **options)

    monkeypatch.setattr(press, "ask_many", watched)
    for system, wanted in zip(systems, alone, strict=True):
        answers = system.answer(asked, 3)
        assert answers == wanted
        if system.size.scale:  # all at an end of the candidates
            assert answered == []
        else:
            assert len(answered) <= len(QUESTIONS)
        answered.clear()
    systems[0].answer(asked, 2)
    assert len(answered) == len(QUESTIONS)


def test_what_does_not_fit_the_decoder_is_recorded_and_the_others_are_answered(press: Press) -> None:
    system = PressSystem(press, Size(2))
    long = dataclasses.replace(QUESTIONS[0], contexts=(TEXT * 12,))
    first, failed, last = system.answer([QUESTIONS[0], long, QUESTIONS[1]], 4)
    assert [first, last] == system.answer(QUESTIONS[:2], 4)
    assert failed.text == ""
    assert "ratio=" in str(failed.error)
    assert failed.kept == math.ceil(failed.tokens / 2) or failed.kept > failed.tokens / 2


def test_presses_are_told_apart_by_whatever_their_answers_depend_on(press: Press, tuned: Press) -> None:
    systems = [PressSystem(press, Size.parse(size)) for size in ("4", "8", "auto", "auto+1")]
    systems += [PressSystem(tuned, Size(4)), PressSystem(Press(press.model, press.base, None, "ff"), Size(4))]
    assert len({json.dumps(system.identity(), sort_keys=True) for system in systems}) == len(systems)


@pytest.mark.parametrize(
    ("size", "message"), [("3", "'tiny': ratio 3.*2, 4, 8"), ("64", "'tiny': ratio 64"), ("2.5", "ratio 2.5")]
)
def test_a_ratio_that_is_no_candidate_is_refused(press: Press, size: str, message: str) -> None:
    with pytest.raises(RatioError, match=message):
        PressSystem(press, Size.parse(size))


@pytest.mark.parametrize("size", ["auto", "auto-1"])
def test_a_press_without_a_selector_does_not_choose(tuned: Press, size: str) -> None:
    with pytest.raises(RatioError, match=r"'reader'.*selector.*1, 4"):
        PressSystem(tuned, Size.parse(size))


# ---- bounds ----


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("reader", ["zero-shot", "tuned"])
def test_a_bound_answers_a_batch_as_each_question_alone(setup: Setup, name: str, reader: str) -> None:
    system = BOUNDS[name].make(setup, reader, Size(4) if BOUNDS[name].sized else None)
    together = system.answer(QUESTIONS, 5)
    assert together == [system.answer([question], 5)[0] for question in QUESTIONS]
    assert all(answer.error is None for answer in together)
    for question, answer in zip(QUESTIONS, together, strict=True):
        tokens = sum(setup.press.count_tokens(context) for context in question.contexts)
        assert answer.tokens == tokens
        if BOUNDS[name].sized:
            assert math.ceil(tokens / 4) - 8 <= answer.kept <= math.ceil(tokens / 4)
    assert system.sees_question == (name == "bm25-sentences")
    assert (system.kind, system.name, system.reader) == ("bound", name, reader)


def test_the_whole_text_is_read_as_one_and_nothing_as_nothing(setup: Setup, press: Press) -> None:
    full = BOUNDS["full"].make(setup, "zero-shot", None).answer(QUESTIONS, 5)
    texts = [question.text for question in QUESTIONS]
    assert [answer.text for answer in full] == press.ask_texts(texts, ASKED, max_new_tokens=5)
    assert [answer.kept for answer in full] == [press.count_tokens(text) for text in texts]
    assert [answer.nbytes for answer in full] == [len(text.encode()) for text in texts]
    none = BOUNDS["none"].make(setup, "zero-shot", None).answer(QUESTIONS, 5)
    assert {(answer.kept, answer.nbytes) for answer in none} == {(0, None)}
    assert none[0].text != full[0].text


def test_what_is_drawn_depends_on_question_and_seed_alone(setup: Setup) -> None:
    def kept(seed: int, question: Question) -> str:
        system: Any = BOUNDS["random-sentences"].make(dataclasses.replace(setup, seed=seed), "zero-shot", Size(4))
        return str(system.kept(question, 20))

    long = dataclasses.replace(QUESTIONS[0], contexts=(f"{TEXT} {OTHER_TEXT} Fox. Dog. Owl.",))
    assert kept(0, long) == kept(0, dataclasses.replace(long, id="other", answers=("b",)))
    assert len({kept(seed, long) for seed in range(6)}) > 2
    assert len({kept(0, dataclasses.replace(long, question=f"{i}?")) for i in range(6)}) > 2


def test_only_what_is_drawn_depends_on_the_seed(setup: Setup) -> None:
    for name, family in BOUNDS.items():
        size = Size(4) if family.sized else None
        made = [family.make(dataclasses.replace(setup, seed=seed), "tuned", size).identity() for seed in (0, 1)]
        assert (made[0] != made[1]) == (name == "random-sentences")
        json.dumps(made)


# ---- by name ----


def test_names_give_systems_with_the_sizes_and_readers_asked_for(made: Any) -> None:
    systems, notes = made("runs/tiny@home@2/auto+1", "head@8", "full:tuned", "none", "bm25-sentences:zero-shot@4")
    assert labels(systems) == [
        "tiny-x2",
        "tiny-auto+1",
        "head-x8-zero-shot",
        "head-x8-tuned",
        "full-tuned",
        "none-zero-shot",
        "none-tuned",
        "bm25-sentences-x4-zero-shot",
    ]
    assert notes == ["none with the reader 'prompt-tuned': no such reader was given (--prompt-tuned PRESS names one)"]


def test_without_sizes_the_default_ones_that_fit_are_taken(made: Any) -> None:
    systems, notes = made("runs/tiny@home", "fixed", "head:tuned", sizes="4/16/auto")
    assert labels(systems) == ["tiny-x4", "tiny-auto", "reader-x4", "head-x4-tuned", "head-x16-tuned"]
    assert len(notes) == 4
    assert [note for note in notes if "16" in note and "'tiny'" in note]
    assert [note for note in notes if "selector" in note and note.startswith("reader at auto")]
    assert [note for note in notes if note.startswith("head at auto")]


def test_a_family_takes_the_readers_that_there_are(made: Any) -> None:
    systems, notes = made("head@4", readers={})
    assert labels(systems) == ["head-x4-zero-shot"]
    assert notes == ["head with the reader 'tuned': no such reader was given (--reader PRESS names one)"]


def test_two_presses_of_one_name_need_names_of_their_own(made: Any) -> None:
    with pytest.raises(InputError, match=r"two presses are called 'tiny' \(feed and 01234567\).*mine=FOLDER@4"):
        made("runs/tiny@home@4", "other@4/8")
    systems, _ = made("runs/tiny@home@4", "mine=other@4/8")
    assert labels(systems) == ["tiny-x4", "mine-x4", "mine-x8"]


def test_a_press_of_another_name_takes_the_default_sizes_too(made: Any) -> None:
    systems, _ = made("mine=other", sizes="4/8")
    assert labels(systems) == ["mine-x4", "mine-x8"]


def test_names_ignore_case_but_for_folders(made: Any) -> None:
    made.presses["semidynamic-smollm2-135m"] = made.presses["other"]
    systems, _ = made("Head:tuned@4", "BM25-Sentences:zero-shot@4", "mine=Semidynamic-SmolLM2-135M@4")
    assert labels(systems) == ["head-x4-tuned", "bm25-sentences-x4-zero-shot", "mine-x4"]
    assert press_names(["SnapKV@4", "FULL:tuned", "Org/Press"]) == ["Org/Press"]
    Path("HEAD").mkdir()
    assert press_names(["HEAD@4", "head@4"]) == ["HEAD"]


def test_a_name_of_ones_own_is_one_that_files_can_have(made: Any) -> None:
    with pytest.raises(InputError, match="gives a press a name that files cannot have"):
        made("a b=other@4")
    with pytest.raises(InputError, match=r"names a bound or peer, which keeps its own name; give 'head'"):
        made("mine=head@4")


def test_a_press_on_another_base_model_is_refused(made: Any, other_base: Base) -> None:
    config = config_for(other_base)
    far = Press(make_model(config, other_base), other_base, None, "far")
    made.presses["other"] = far
    with pytest.raises(InputError, match=r"runs on the base model 'tiny-other'.*compare presses of one base model"):
        made("runs/tiny@home@4", "other@4")


def test_families_are_bounds_and_peers_by_their_names() -> None:
    table = families()
    assert table.keys() >= BOUNDS.keys()
    assert all(name == family.name and family.about and family.readers for name, family in table.items())


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["haed@4"], InputError, r"unknown system 'haed'.*did you mean head.*--list"),
        (["semidynamic-smolm2-135m"], InputError, "did you mean semidynamic-smollm2-135m"),
        (["xyzzy"], InputError, r"unknown system 'xyzzy'.*folder of one; `latentpress"),
        ([""], InputError, "unknown system ''"),
        (["semidynamic-smollm2-135m:tuned"], InputError, "read by its own decoder"),
        (["Semidynamic-SmolLM2-135m:tuned"], InputError, "give 'semidynamic-smollm2-135m', or .*:focus2"),
        (["full:focus2"], InputError, "full is read by zero-shot"),
        (["semidynamic-smollm2-135m:focus0@4"], InputError, "give :focus1 or more"),
        (["bm25@4"], InputError, r"'bm25'.*; did you mean bm25-sentences\? `latentpress"),
        (["Semidynamic"], InputError, "did you mean semidynamic-kv-smollm2-135m or semidynamic-smollm2-135m"),
        (["llm"], InputError, "did you mean llmlingua or llmlingua-question"),
        (["kvpress"], InputError, "; kvpress has snapkv, expected-attention, key-norm, streaming-llm; `latentpress"),
        (["KVPres:tuned@4"], InputError, "; kvpress has snapkv, "),
        (["prompt-tuning"], InputError, "a reader stands behind a bound or peer, as in full:prompt-tuned; "),
        (["prompt-tuned"], InputError, "as in full:prompt-tuned"),
        (["reader"], InputError, "as in full:tuned"),
        (["zeroshot"], InputError, "as in full:zero-shot"),
        (["head:ours"], InputError, "head is read by zero-shot, tuned"),
        (["full:prompt-tuned"], InputError, "needs a trained reader"),
        (["full@4"], InputError, "full has no size; leave @x4 out"),
        (["head@auto"], InputError, "only a press has lengths, or a selector"),
        (["head@"], InputError, "size ''"),
        (["head@much"], InputError, "size 'much'"),
        (["runs/tiny@home@3"], RatioError, "2, 4, 8"),
        (["fixed@auto"], RatioError, "selector"),
        (["head@4/x4"], InputError, r"head-x4-zero-shot.*name each system once"),
        (["head@4:tuned"], InputError, "size '4:tuned'"),
        (["other@4", "other@2/4"], InputError, "tiny-x4 would be compared with itself"),
    ],
)
def test_names_that_cannot_be_are_refused(made: Any, names: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(*names)


def test_a_press_that_fits_no_default_size_is_refused(made: Any) -> None:
    with pytest.raises(RatioError, match=r"'tiny' was trained for none of the sizes asked for .x3, x64.*other@2/4/8"):
        made("other", sizes="3/64")


def test_a_press_that_is_nowhere_is_refused_by_what_loads_it(setup: Setup) -> None:
    from latentpress.loading import press_folder

    with pytest.raises(PressError, match="runs/nowhere/press"):
        make_systems(["runs/nowhere/press@4"], setup, [], press_folder)  # type: ignore[arg-type]


def test_presses_are_loaded_once_each(press: Press, setup: Setup, tmp_path: Path) -> None:
    folder = str(save_press(press.model, tmp_path / "press"))
    loaded: list[str] = []

    def load(name: str) -> Press:
        loaded.append(name)
        return press

    systems, _ = make_systems([f"{folder}@2", f"{folder}@4/8"], setup, [], load)
    assert labels(systems) == ["tiny-x2", "tiny-x4", "tiny-x8"]
    assert loaded == [folder]


def test_the_table_of_systems_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from latentpress.evaluation.systems import families; families();"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
