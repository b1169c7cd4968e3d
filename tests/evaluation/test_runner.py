"""A comparison writes answers as they come, goes on where it stopped, and mixes no settings."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentpress.errors import InputError, LatentsError, PeerError, PeerGoneError
from latentpress.evaluation.datasets import Dataset, Dropped
from latentpress.evaluation.questions import Answer, Question
from latentpress.evaluation.results import read_folder
from latentpress.evaluation.runner import BATCH, Comparison, Progress, grouped, run
from latentpress.evaluation.systems.base import Size, System, SystemKind

TOKENS = {"span": 24, "summary": 128, "choice": 24}


class Echo(System):
    """Answers with the question, so that every answer can be told."""

    kind: SystemKind = "press"
    reader = "own"
    sees_question = False

    def __init__(
        self,
        name: str = "echo",
        *,
        kind: SystemKind = "press",
        fails: str = "",
        fails_at: str = "",
        stops_after: int = 10**9,
    ) -> None:
        self.name, self.kind, self.size = name, kind, Size(ratio=4)
        self.fails, self.fails_at, self.stops_after = fails, fails_at, stops_after
        self.seen: list[list[str]] = []
        self.closed = 0

    def identity(self) -> dict[str, Any]:
        return {
            "press": "feed",
            "reader": "beef",
            "ratio": (4,),
        }  # a key that headers have too; a tuple: JSON gives a list back

    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        if self.fails in {question.dataset for question in questions}:
            raise LatentsError("the peer is gone")
        if self.fails_at in {question.id for question in questions}:
            raise LatentsError("this one is binary")
        if sum(map(len, self.seen)) >= self.stops_after:
            raise KeyboardInterrupt
        self.seen.append([question.id for question in questions])
        return [Answer(text=f"{one.question} {max_new_tokens}", tokens=8, kept=2, nbytes=16) for one in questions]

    def close(self) -> None:
        self.closed += 1


def questions(name: str, count: int, contexts: int = 3) -> tuple[Question, ...]:
    return tuple(
        Question(
            id=f"{name}-{i}",
            dataset=name,
            contexts=(f"Context {i % contexts} of {name}.",),
            question=f"Question {i}?",
            answers=(f"answer {i}",),
        )
        for i in range(count)
    )


def dataset(name: str, count: int) -> Dataset:
    return Dataset(name=name, place=f"{name}.jsonl", questions=questions(name, count), dropped=Dropped(too_long=2))


def comparison(out: Path, *systems: System, sets: Sequence[Dataset] = (), **changes: Any) -> Comparison:
    settings = {"seed": 0, "base": {"id": "tiny", "fingerprint": "abc"}}
    made = Comparison(
        out=out, sets=sets or [dataset("one", 5)], systems=systems, settings=settings, answer_tokens=TOKENS
    )
    return replace(made, **changes)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_system_answers_every_question_of_every_set(tmp_path: Path) -> None:
    sets = [dataset("one", 5), dataset("two", 40)]
    first, second = Echo("first"), Echo("second")
    outcome = run(comparison(tmp_path / "out", first, second, sets=sets))
    assert (outcome.answered, outcome.kept, outcome.failed) == (90, 0, {})
    assert (first.closed, second.closed) == (1, 1)
    folder = read_folder(tmp_path / "out")
    assert set(folder.systems) == {"first-x4", "second-x4"}
    assert {system.reader for system in folder.systems.values()} == {"own"}
    assert not (tmp_path / "out" / "failed.json").exists()
    for one in sets:
        found = folder.predictions[one.name, "second-x4"]
        assert [found[i]["prediction"] for i in range(len(one.questions))] == [
            f"{question.question} 24" for question in one.questions
        ]


def test_questions_of_one_context_are_asked_side_by_side(tmp_path: Path) -> None:
    system = Echo()
    run(comparison(tmp_path / "out", system))
    assert system.seen == [["one-0", "one-3", "one-1", "one-4", "one-2"]]
    assert [question.id for question in grouped(questions("a", 4, 2))] == ["a-0", "a-2", "a-1", "a-3"]


def test_an_interrupted_comparison_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    sets = [dataset("one", BATCH + 5)]
    with pytest.raises(KeyboardInterrupt):
        run(comparison(tmp_path, Echo(stops_after=BATCH), sets=sets))
    path = tmp_path / "predictions" / "one" / "echo-x4.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "half a li')
    again = Echo()
    outcome = run(comparison(tmp_path, again, sets=sets))
    assert (outcome.answered, outcome.kept) == (5, BATCH)
    assert [len(batch) for batch in again.seen] == [5]
    assert len({row["id"] for row in rows(path)[1:]}) == BATCH + 5


def test_a_system_may_join_later(tmp_path: Path) -> None:
    run(comparison(tmp_path, Echo("first")))
    outcome = run(comparison(tmp_path, Echo("first"), Echo("second")))
    assert (outcome.answered, outcome.kept) == (5, 5)


def test_a_last_question_that_fails_is_recorded_and_does_not_end_the_set(tmp_path: Path) -> None:
    many = questions("one", BATCH + 1, BATCH + 1)
    sets = [Dataset(name="one", place="one.jsonl", questions=many, dropped=Dropped())]
    outcome = run(comparison(tmp_path, Echo(fails_at=f"one-{BATCH}"), sets=sets))
    assert (outcome.answered, outcome.failed) == (BATCH + 1, {})
    last = rows(tmp_path / "predictions" / "one" / "echo-x4.jsonl")[-1]
    assert last["error"] == "this one is binary"


def test_a_run_that_is_refused_leaves_what_the_folder_says_it_was_asked(tmp_path: Path) -> None:
    peer = Echo("peer", kind="peer")
    run(comparison(tmp_path, peer, peer_limit=2, asked_how={"command": ["first"]}))
    with pytest.raises(InputError):
        run(comparison(tmp_path, peer, peer_limit=4, asked_how={"command": ["refused"]}))
    assert json.loads((tmp_path / "settings.json").read_text())["asked_how"] == {"command": ["first"]}
    (tmp_path / "failed.json").write_text("{half")
    run(comparison(tmp_path, peer, peer_limit=2, asked_how={"command": ["again"]}))
    assert json.loads((tmp_path / "settings.json").read_text())["asked_how"] == {"command": ["again"]}
    assert not (tmp_path / "failed.json").exists()


def test_peers_are_asked_the_first_questions_of_the_draw(tmp_path: Path) -> None:
    peer, press = Echo("peer", kind="peer"), Echo("press")
    run(comparison(tmp_path, peer, press, peer_limit=2))
    assert peer.seen == [["one-0", "one-1"]]
    assert sum(map(len, press.seen)) == 5


def test_systems_that_share_work_answer_each_batch_in_turn(tmp_path: Path) -> None:
    first, other, second = Echo("first"), Echo("other"), Echo("second", fails="two")
    first.shares = second.shares = object()
    sets = [dataset("one", BATCH + 2), dataset("two", 3)]
    seen: list[Progress] = []
    outcome = run(comparison(tmp_path, first, other, second, sets=sets), seen.append)
    turns = ["first one", "second one"] * 2 + ["first two", "second two"] + ["other one"] * 2 + ["other two"]
    assert [f"{now.label.removesuffix('-x4')} {now.dataset}" for now in seen] == turns
    assert outcome.failed == {"two": {"second-x4": "the peer is gone"}}
    assert outcome.answered == 3 * (BATCH + 2) + 2 * 3
    assert [one.closed for one in (first, other, second)] == [1, 1, 1]


def test_bounds_that_read_part_of_a_text_have_a_limit_of_their_own(tmp_path: Path) -> None:
    cut, whole, press = Echo("cut", kind="bound"), Echo("whole", kind="bound"), Echo("press")
    whole.size = None
    run(comparison(tmp_path, cut, whole, press, cut_limit=2, peer_limit=1))
    assert cut.seen == [["one-0", "one-1"]]
    assert sum(map(len, whole.seen)) == sum(map(len, press.seen)) == 5


def test_a_system_that_fails_on_a_set_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    sets = [dataset("one", 3), dataset("two", 3)]
    failing, whole = Echo("failing", fails="one"), Echo("whole")
    seen: list[Progress] = []
    outcome = run(comparison(tmp_path, failing, whole, sets=sets), seen.append)
    assert outcome.failed == {"one": {"failing-x4": "the peer is gone"}}
    assert json.loads((tmp_path / "failed.json").read_text()) == outcome.failed
    assert run(comparison(tmp_path, whole, sets=sets)).answered == 0
    assert (tmp_path / "failed.json").exists()  # of a system that did not take part this time
    assert outcome.answered == 9
    assert failing.closed == 1
    assert [(now.label, now.dataset, now.done, now.total) for now in seen] == [
        ("failing-x4", "one", 0, 12),
        ("failing-x4", "two", 3, 12),
        ("whole-x4", "one", 6, 12),
        ("whole-x4", "two", 9, 12),
    ]


def test_a_peer_whose_process_fails_is_asked_again_even_about_a_single_text(tmp_path: Path) -> None:
    class Dead(Echo):
        error: PeerError = PeerGoneError("killed: out of memory")

        def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
            raise self.error

    sets = [Dataset(name="one", place="one.jsonl", questions=questions("one", 6, 1), dropped=Dropped())]
    outcome = run(comparison(tmp_path, Dead("peer", kind="peer"), sets=sets))
    assert (outcome.answered, outcome.failed) == (0, {"one": {"peer-x4": "killed: out of memory"}})
    again = run(comparison(tmp_path, Echo("peer", kind="peer"), sets=sets))
    assert (again.answered, again.kept, again.failed) == (6, 0, {})
    cannot = Dead("other", kind="peer")
    cannot.error = PeerError("cannot answer")  # its process lives: it would say so the next time, too
    outcome = run(comparison(tmp_path, cannot, sets=sets))
    assert (outcome.answered, outcome.failed) == (6, {})
    assert {row["error"] for row in rows(tmp_path / "predictions" / "one" / "other-x4.jsonl")[1:]} == {"cannot answer"}


def test_results_of_other_settings_are_refused_and_stay(tmp_path: Path) -> None:
    run(comparison(tmp_path, Echo()))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = comparison(tmp_path, Echo(), settings={"seed": 1, "base": {"id": "tiny", "fingerprint": "abc"}})
    with pytest.raises(InputError, match=r"holds a comparison with other settings \(seed: 0 there, 1 now\).*--out"):
        run(other)
    with pytest.raises(
        InputError, match=r"sets: one \(5 questions, span, \w{8}, left out 2\) there, one \(6 questions"
    ):
        run(comparison(tmp_path, Echo(), sets=[dataset("one", 6)]))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_predictions_of_another_press_of_the_same_name_are_refused(tmp_path: Path) -> None:
    run(comparison(tmp_path, Echo()))

    class Other(Echo):
        def identity(self) -> dict[str, Any]:
            return {"press": "beef", "ratio": (4,)}

    with pytest.raises(InputError, match=r"echo-x4\.jsonl holds predictions made otherwise"):
        run(comparison(tmp_path, Other()))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else than a comparison"):
        run(comparison(tmp_path, Echo()))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_question_that_alone_fails_is_recorded_with_its_error(tmp_path: Path) -> None:
    outcome = run(comparison(tmp_path, Echo(fails_at="one-3")))
    assert (outcome.answered, outcome.failed) == (5, {})
    found = {row["id"]: row for row in rows(tmp_path / "predictions" / "one" / "echo-x4.jsonl")[1:]}
    assert found["one-3"]["error"] == "this one is binary"
    assert [name for name, row in found.items() if "error" in row] == ["one-3"]


def test_an_adapter_that_loses_answers_is_stopped(tmp_path: Path) -> None:
    class Short(Echo):
        def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
            return super().answer(questions, max_new_tokens)[:-1]

    outcome = run(comparison(tmp_path, Short()))
    assert "4 answers to 5 questions" in outcome.failed["one"]["echo-x4"]


def test_kinds_of_question_are_asked_apart_each_with_its_own_length(tmp_path: Path) -> None:
    mixed = [replace(one, kind="choice" if i % 2 else "span") for i, one in enumerate(questions("one", 6, contexts=2))]
    data = Dataset(name="one", place="one.jsonl", questions=tuple(mixed), dropped=Dropped())
    system = Echo()
    run(comparison(tmp_path, system, sets=[data], answer_tokens={"span": 9, "choice": 1, "summary": 5}))
    assert system.seen == [["one-0", "one-2", "one-4"], ["one-1", "one-3", "one-5"]]
    found = {row["id"]: row["prediction"] for row in rows(tmp_path / "predictions" / "one" / "echo-x4.jsonl")[1:]}
    assert found["one-0"] == "Question 0? 9"
    assert found["one-1"] == "Question 1? 1"
    assert [row["kind"] for row in rows(tmp_path / "questions" / "one.jsonl")] == ["span", "choice"] * 3


def test_compressed_predictions_are_gone_on_with(tmp_path: Path) -> None:
    run(comparison(tmp_path, Echo()))
    path = tmp_path / "predictions" / "one" / "echo-x4.jsonl"
    whole = path.read_bytes()
    packed = path.with_name("echo-x4.jsonl.xz")
    packed.write_bytes(lzma.compress(whole))
    path.unlink()
    assert (run(comparison(tmp_path, Echo())).answered, path.exists()) == (0, False)
    packed.write_bytes(lzma.compress(b"".join(whole.splitlines(keepends=True)[:3])))  # two answers
    outcome = run(comparison(tmp_path, Echo()))
    assert (outcome.answered, outcome.kept) == (3, 2)
    assert path.read_bytes() == whole
    assert not packed.exists()


def test_a_folder_that_was_only_begun_is_taken(tmp_path: Path) -> None:
    (tmp_path / "questions").mkdir()
    assert run(comparison(tmp_path, Echo())).answered == 5


def test_systems_stay_open_on_request(tmp_path: Path) -> None:
    system = Echo()
    run(comparison(tmp_path, system), close=False)
    assert system.closed == 0


def test_contexts_are_not_published(tmp_path: Path) -> None:
    run(comparison(tmp_path, Echo()))
    assert not any("Context 0" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    published = rows(tmp_path / "questions" / "one.jsonl")
    assert [row["id"] for row in published] == [f"one-{i}" for i in range(5)]
    assert published[0]["context"] == published[3]["context"] != published[1]["context"]
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["sets"][0]["dropped"] == {"too_long": 2}


def test_sources_are_published_and_a_folder_from_before_they_were_is_gone_on_with(tmp_path: Path) -> None:
    asked = tuple(replace(one, source="book") for one in questions("one", 5))
    sourced = [replace(dataset("one", 5), questions=asked)]
    out = tmp_path / "old"
    run(comparison(out, Echo("first")))  # its questions say no source
    settings = (out / "settings.json").read_bytes()
    assert run(comparison(out, Echo("first"), Echo("second"), sets=sourced)).kept == 5
    assert (out / "settings.json").read_bytes() == settings
    assert {question.source for one in read_folder(out).sets for question in one.questions} == {None}
    path = out / "questions" / "one.jsonl"
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "source"}) + "\n" for row in rows(path)))
    assert {question.source for one in read_folder(out).sets for question in one.questions} == {None}
    run(comparison(tmp_path / "new", Echo(), sets=sourced))
    assert {question.source for one in read_folder(tmp_path / "new").sets for question in one.questions} == {"book"}
