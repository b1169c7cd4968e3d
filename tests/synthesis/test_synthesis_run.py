"""Whole runs against a teacher over HTTP: what comes out, and what is left after every kind of end."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from teacher_server import PASSAGE, Answer, Script, Teacher, document, good, rows_of, write_corpus
from training.helpers import overrides

from latentpress.data.records import read_records
from latentpress.errors import InputError
from latentpress.synthesis.settings import TASKS

if TYPE_CHECKING:
    from latentpress.synthesis.run import Outcome

Serve = Callable[[Script], Teacher]
Synth = Callable[..., "Outcome"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_records_hold_all_that_was_asked_for_as_training_reads_them(serve: Serve, synth: Synth, out: Path) -> None:
    outcome = synth(serve(good), tasks=TASKS, documents=2)
    records = read_records(out / "records.jsonl")
    single = [record for record in records if len(record.contexts) == 1]
    several = [record for record in records if len(record.contexts) == 2]
    assert (len(single), len(several)) == (4, 2)
    assert [record.contexts[0] for record in single] == [document(i) for i in range(4)]
    for record in single:
        assert record.summary is not None
        assert record.short_summary is not None
        assert len(record.short_summary) < len(record.summary) < len(record.contexts[0])
        assert len(record.qas) == 2
        assert all(qa.answers[0] in record.contexts[0] for qa in record.qas)
    assert all(record.source == "news" and record.lang == "en" for record in records)
    assert len({qa.id for record in records for qa in record.qas}) == sum(len(record.qas) for record in records)
    assert (outcome.total, outcome.replied, outcome.given_up, outcome.stopped) == (16, 16, 0, None)


def test_questions_about_several_passages_are_distinct_over_both_tasks(serve: Serve, synth: Synth, out: Path) -> None:
    outcome = synth(serve(good), tasks=("multi-document", "multi-hop"), documents=2)
    rows = rows_of(out / "records.jsonl")
    assert [[qa["task"] for qa in row["qas"]] for row in rows] == [["multi-document"] * 2] * 2
    assert all(qa["passages"] == [1, 2] for row in rows for qa in row["qas"])
    assert outcome.card["rejects"] == [{"task": "multi-hop", "reason": "question asked twice", "number": 4}]


def test_a_press_trains_on_the_records(
    serve: Serve, synth: Synth, out: Path, tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentpress.training import callbacks, run

    synth(serve(good))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(run, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(callbacks, "plot_losses", lambda history, path: None)
    settings = overrides(steps=1, max_context_tokens=600, eval_every=1, save_every=1, dev_rows=2)
    records = str(out / "records.jsonl")
    press = run.train(
        "semidynamic",
        data=[records],
        dev=records,
        out=tmp_path / "run",
        base=str(tiny_base_folder),
        overrides=settings,
    )
    assert (press / "config.json").is_file()


def test_the_card_counts_what_was_made_and_what_it_cost(serve: Serve, synth: Synth, out: Path) -> None:
    def half_lying(prompt: str, number: int) -> str:
        words = good(prompt, number)
        return words.replace('"answer": "', '"answer": "never ', 1) if "questions" in words else words

    synth(serve(half_lying), per_million_in=2.0, per_million_out=10.0)
    card = json.loads((out / "card.json").read_text())
    assert card["tasks"]["qa"] == {"requests": 4, "replies": 4, "made": 4, "rejected": 4}
    assert card["tasks"]["summary"]["made"] == card["tasks"]["short-summary"]["made"] == 4
    assert card["rejects"] == [{"task": "qa", "reason": "answer not in the context", "number": 4}]
    spent = card["spent"]
    assert (spent["requests"], spent["tokens_in"], spent["tokens_out"]) == (12, 1200, 120)
    assert spent["cost"] == pytest.approx((1200 * 2 + 120 * 10) / 1e6)
    assert card["records_by_source"] == {"news": 4}
    assert card["teacher"]["model"] == "good"
    assert card["density"]["labels"] == 4
    assert card["density"]["mean_log2_ratio"] > 2
    text = (out / "card.md").read_text()
    assert "answer not in the context" in text
    assert "4 records" in text
    rejects = rows_of(out / "rejects.jsonl")
    assert {(row["task"], row["reason"]) for row in rejects} == {("qa", "answer not in the context")}
    assert all("never" in row["detail"] and '"questions"' in row["reply"] for row in rejects)


def test_a_summary_longer_than_its_text_is_rejected_and_an_order_of_summaries_turned_round_counted(
    serve: Serve, synth: Synth, out: Path
) -> None:
    def wordy(prompt: str, number: int) -> str:
        (text,) = PASSAGE.findall(prompt)
        if text == document(0):
            return json.dumps({"summary": f"{text} And more."})
        few = "few words" in prompt
        return json.dumps({"summary": " ".join(text.split()[: 20 if few else 5])})

    outcome = synth(serve(wordy), tasks=("summary", "short-summary"))
    records = read_records(out / "records.jsonl")
    assert [record.contexts[0] for record in records] == [document(i) for i in range(1, 4)]
    assert all(record.summary and record.short_summary for record in records)
    assert Counter(row["reason"] for row in rows_of(out / "rejects.jsonl")) == {"summary not shorter than its text": 2}
    assert outcome.card["ultra_concise_not_shorter_than_summary"] == 3
    assert "3 of these summaries are not shorter" in (out / "card.md").read_text()


def test_the_same_question_and_answer_about_another_text_is_rejected(serve: Serve, synth: Synth, out: Path) -> None:
    row = {"question": "What left the harbour?", "answer": "ships"}
    synth(serve(lambda *_: json.dumps({"questions": [row]})), tasks=("qa",))
    assert len(read_records(out / "records.jsonl")) == 1
    assert {row["reason"] for row in rows_of(out / "rejects.jsonl")} == {"question and answer of another text"}


def test_chinese_texts_are_asked_about_in_chinese(serve: Serve, synth: Synth, tmp_path: Path, out: Path) -> None:
    text = "条约于一九四五年五月一日在巴黎签署，参加者来自十二个国家。" * 2
    (tmp_path / "zh.jsonl").write_text(json.dumps({"text": text}))

    def script(prompt: str, number: int) -> str:
        assert "只回复一个如下形式的 JSON 对象" in prompt
        rows = [
            {"question": "条约在哪里签署？", "answer": "巴黎"},
            {"question": "Where was it signed?", "answer": "巴黎"},
        ]
        return json.dumps({"questions": rows}, ensure_ascii=False)

    synth(serve(script), data=tmp_path / "zh.jsonl", tasks=("qa",))
    (record,) = read_records(out / "records.jsonl")
    assert (record.lang, [qa.question for qa in record.qas]) == ("zh", ["条约在哪里签署？"])
    assert [row["reason"] for row in rows_of(out / "rejects.jsonl")] == ["other language than its text"]


def test_a_finished_run_asks_nothing_and_writes_the_same(serve: Serve, synth: Synth, out: Path) -> None:
    teacher = serve(good)
    synth(teacher)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}
    assert set(before) == {"journal.jsonl", "records.jsonl", "rejects.jsonl", "card.json", "card.md"}
    outcome = synth(teacher)
    assert len(teacher.prompts) == 12
    assert (outcome.kept, outcome.replied) == (12, 12)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"} == before


def test_tasks_and_passages_can_be_added_to_a_folder(serve: Serve, synth: Synth, out: Path) -> None:
    teacher = serve(good)
    synth(teacher, tasks=("qa", "summary"), limit=2)
    synth(teacher, tasks=("short-summary",), limit=2)
    synth(teacher, tasks=("qa",))
    records = read_records(out / "records.jsonl")
    assert len(teacher.prompts) == len(set(teacher.prompts)) == 8
    assert [(len(record.qas), record.summary is None, record.short_summary is None) for record in records] == [
        (2, False, False),
        (2, False, False),
        (2, True, True),
        (2, True, True),
    ]


def test_a_higher_limit_keeps_records_about_several_passages(
    serve: Serve, synth: Synth, corpus: Path, out: Path
) -> None:
    write_corpus(corpus, 24)
    teacher, before = serve(good), set[str]()
    for limit, groups in ((5, 2), (9, 4), (24, 12)):
        outcome = synth(teacher, tasks=("multi-document",), documents=2, limit=limit, max_passage_tokens=2000)
        now = {record.id for record in read_records(out / "records.jsonl")}
        assert before < now
        assert len(now) == outcome.total == len(teacher.prompts) == groups
        before = now


def test_a_folder_of_other_settings_or_another_corpus_is_refused(
    serve: Serve, synth: Synth, out: Path, tmp_path: Path
) -> None:
    teacher = serve(good)
    synth(teacher, tasks=("qa",))
    before = (out / "records.jsonl").read_bytes()
    for change, part in (
        ({"seed": 1}, "seed 0, now 1"),
        ({"questions": 9}, "questions 4, now 9"),
        ({"temperature": 0.1}, "temperature 0.7, now 0.1"),
        ({"data": write_corpus(tmp_path / "other.jsonl")}, "corpora"),
    ):
        with pytest.raises(InputError, match=part):
            synth(teacher, tasks=("qa",), **change)
    assert len(teacher.prompts) == 4
    assert (out / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (Answer(delay=2), ("gave no whole answer in 0.2 s", "raise --timeout")),
        (Answer(body=b"<!DOCTYPE html><title>Log in</title>"), ("answered with HTML", "<title>Log in</title>")),
        (Answer(status=403, body=b"who are you"), ("answered 403: 'who are you'", "LATENTPRESS_TEACHER_KEY")),
    ],
    ids=["mute", "HTML", "no key"],
)
def test_a_teacher_that_is_none_stops_the_run_with_the_reason(
    serve: Serve, synth: Synth, out: Path, answer: Answer, parts: tuple[str, ...]
) -> None:
    outcome = synth(serve(lambda *_: answer), timeout=0.2, tries=1, concurrency=2)
    assert (outcome.replied, outcome.card["records"]) == (0, 0)
    assert 1 <= outcome.given_up <= 4
    for part in parts:
        assert part in (outcome.stopped or "")
    assert (out / "records.jsonl").read_bytes() == b""
    assert synth(serve(good)).replied == 12


def test_requests_that_were_given_up_are_asked_again_by_the_next_run(serve: Serve, synth: Synth, out: Path) -> None:
    broken = True

    def script(prompt: str, number: int) -> Answer | str:
        return Answer(status=500, body=b"down") if broken and document(1) in prompt else good(prompt)

    teacher = serve(script)
    outcome = synth(teacher, tries=2, concurrency=1, tasks=("qa",))
    assert (outcome.replied, outcome.given_up, outcome.stopped) == (3, 1, None)
    assert "'down'" in outcome.card["without_reply"]["errors"][0]
    assert "'down'" in (out / "card.md").read_text()
    broken = False
    outcome = synth(teacher, tasks=("qa",))
    assert (outcome.replied, outcome.given_up) == (4, 0)
    assert outcome.card["spent"]["requests"] == 6
    assert outcome.card["without_reply"]["errors"] == []
    assert len(read_records(out / "records.jsonl")) == 4


def test_a_budget_holds_over_runs_and_a_higher_one_goes_on(serve: Serve, synth: Synth, out: Path) -> None:
    teacher = serve(good)
    for _ in range(2):
        outcome = synth(teacher, max_requests=5)
        assert (outcome.replied, len(teacher.prompts)) == (5, 5)
        assert "the budget of 5 requests is spent" in (outcome.stopped or "")
        assert len(read_records(out / "records.jsonl")) == 4
    outcome = synth(teacher, max_tokens=600)
    assert outcome.replied == 5
    needed = re.search(r"tokens 550 are spent, and the next request may take ([\d,]+);", str(outcome.stopped))
    assert needed is not None
    outcome = synth(teacher, max_tokens=550 + int(needed[1].replace(",", "")) + 220)
    assert outcome.stopped is not None
    assert 5 < outcome.replied < 12
    outcome = synth(teacher)
    assert (outcome.replied, outcome.stopped) == (12, None)
    assert len(teacher.prompts) == len(set(teacher.prompts)) == 12


def test_a_full_disk_stops_the_run_and_leaves_nothing_half_written(
    serve: Serve, synth: Synth, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, real, calls = serve(good), os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr("latentpress.synthesis.journal.os.fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            synth(teacher, concurrency=1)
    assert caught.value.filename == str(out / "journal.jsonl")
    assert len(rows_of(out / "journal.jsonl")) == 4  # what the run is a function of, and three replies
    synth(teacher)
    assert len(read_records(out / "records.jsonl")) == 4
    assert len(teacher.prompts) == 13  # one reply was lost


def test_records_are_replaced_whole_or_not_at_all(
    serve: Serve, synth: Synth, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentpress.synthesis import run

    teacher = serve(good)
    synth(teacher, tasks=("qa",))
    before = (out / "records.jsonl").read_bytes()
    real, calls = run.json_line, [0]

    def full(row: Any) -> str:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(row)

    with monkeypatch.context() as patched:
        patched.setattr(run, "json_line", full)
        with pytest.raises(OSError, match="No space left") as caught:
            synth(teacher)
    assert caught.value.filename == str(out / "records.jsonl")
    assert (out / "records.jsonl").read_bytes() == before
    assert not [path.name for path in out.iterdir() if path.name.endswith(".new")]
    assert synth(teacher).kept == 12


def test_an_interruption_keeps_what_came(serve: Serve, synth: Synth, out: Path) -> None:
    teacher = serve(good)

    def interrupt(now: Any) -> None:
        if now.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synth(teacher, concurrency=1, show=interrupt)
    assert len(read_records(out / "records.jsonl")) == 4  # four with questions, one of them with a summary
    assert synth(teacher).kept == 5
    assert len(teacher.prompts) == 12


def test_an_error_that_nobody_foresaw_keeps_what_came(serve: Serve, synth: Synth, out: Path) -> None:
    teacher = serve(good)

    def fail(now: Any) -> None:
        if now.done == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        synth(teacher, concurrency=1, show=fail)
    assert len(read_records(out / "records.jsonl")) == 4
    assert json.loads((out / "card.json").read_text())["spent"]["requests"] == 5


def test_what_tries_without_a_reply_may_have_cost_is_in_budget_and_card(serve: Serve, synth: Synth, out: Path) -> None:
    teacher = serve(lambda *_: Answer(body=b'{"cho' + b"x" * 900))
    asked = []
    for allowed in (5000, 5000, 9000):
        outcome = synth(teacher, max_tokens=allowed, tries=9, concurrency=1, per_million_in=1e6, tasks=("qa",))
        spent = outcome.card["spent"]
        asked.append(len(teacher.prompts))
        assert "--max-tokens" in (outcome.stopped or "")
        assert spent["requests"] == asked[-1]
        assert spent["tokens_in"] + spent["tokens_out"] == spent["tokens_without_reply"] <= allowed
        assert (spent["tokens_out"], spent["cost"]) == (50 * asked[-1], spent["tokens_in"])
    assert 1 < asked[0] == asked[1] < asked[2]
    assert f"{spent['tokens_without_reply']:,} of the tokens are estimates" in (out / "card.md").read_text()


def test_the_card_says_which_parameters_the_teacher_refused(serve: Serve, synth: Synth, out: Path) -> None:
    def script(prompt: str, number: int) -> Answer | str:
        return Answer(status=400, body=b"unknown argument: max_tokens") if number == 0 else good(prompt)

    outcome = synth(serve(script), concurrency=1, tasks=("qa",))
    assert (outcome.replied, outcome.card["teacher"]["refused"]) == (4, {"max_tokens": 4})
    assert "`max_tokens` (sent as `max_completion_tokens`, 4 replies)" in (out / "card.md").read_text()


def test_two_runs_in_one_folder_do_not_mix(serve: Serve, synth: Synth, out: Path) -> None:
    def again(now: Any) -> None:
        if now.done == 1:
            with pytest.raises(InputError, match="another synthesis is at work"):
                synth(teacher)

    teacher = serve(good)
    assert synth(teacher, show=again).replied == 12


def test_a_file_in_place_of_the_folder_is_refused(serve: Serve, synth: Synth, out: Path) -> None:
    out.write_text("x")
    with pytest.raises(InputError, match="is a file; give a folder"):
        synth(serve(good))


def test_a_killed_run_loses_no_reply_and_doubles_no_record(serve: Serve, synth: Synth, corpus: Path, out: Path) -> None:
    write_corpus(corpus, 10)
    killing = True
    teacher = serve(lambda prompt, number: Answer(delay=60) if number >= 12 and killing else good(prompt))
    settings: dict[str, Any] = {"tasks": ("qa", "short-summary"), "concurrency": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the threads of this process, which later Pythons mention
        process = multiprocessing.get_context("fork").Process(target=lambda: synth(teacher, **settings))
        process.start()
    deadline = time.monotonic() + 100
    while len(teacher.prompts) < 14 and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    journal = out / "journal.jsonl"
    kept = rows_of(journal)
    assert len(kept) == 13  # its first line and every reply that had come
    with journal.open("ab") as file:
        file.write(b'{"key": "torn')
    killing = False
    assert synth(teacher, **settings).kept == 12
    rows = rows_of(journal)
    assert rows[:13] == kept
    assert len({row["key"] for row in rows[1:]}) == len(rows) - 1 == 20
    records = read_records(out / "records.jsonl")
    assert len({record.id for record in records}) == len(records) == 10
    assert all(len(record.qas) == 2 and record.short_summary for record in records)
    assert len(teacher.prompts) == 22  # the two that were under way were asked twice


def test_the_command_does_it_all(
    serve: Serve, corpus: Path, tiny_base_folder: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from latentpress.cli import main

    teacher = serve(good)
    command = [
        *("synth", "--data", str(corpus), "--out", str(out), "--tasks", "qa", "--base", str(tiny_base_folder)),
        *("--teacher", f"openai:{teacher.address}", "--model", "good", "--reply-tokens", "50"),
    ]
    assert main([*command, "--max-requests", "3"]) == 1
    assert "stopped: the budget of 3 requests is spent" in capsys.readouterr().err
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 3
    assert len(read_records(out / "records.jsonl")) == 4
