"""`latentpress synth`: what it passes on and prints, and mistakes. The synthesis itself has its own tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.helpers import Result

Run = Callable[..., Result]
NEEDED = ("synth", "--data", "a.jsonl", "--out", "x", "--teacher", "openai:http://127.0.0.1:9/v1", "--model", "m")


@pytest.fixture
def synthesis(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Takes the place of the synthesis; notes each call. `calls[0]["outcome"]` may be changed by the test."""
    from latentpress.synthesis.run import Outcome, Standing

    card = {
        "records": 3,
        "tasks": {"qa": {"made": 7}, "summary": {"made": 2}},
        "rejects": [{"task": "qa", "reason": "blank question", "number": 4}],
        "spent": {"requests": 9},
        "without_reply": {"errors": ["it was down"]},
    }
    calls: list[dict[str, Any]] = []

    def synthesize(plan: Any, spec: Any, out: Path, *, show: Any, note: Any, **options: Any) -> Outcome:
        note("reading the corpora")
        show(Standing(done=6, total=6, given_up=0, requests=9, tokens=1234))
        calls.append({"plan": plan, "spec": spec, "out": out, **options})
        short = plan.limit or 6
        stopped = None if short == 6 else "the budget of 5 requests is spent; go on with a higher --max-requests"
        return Outcome(total=6, replied=short, kept=1, given_up=6 - short, stopped=stopped, card=card)

    monkeypatch.setattr("latentpress.synthesis.run.synthesize", synthesize)
    return calls


def test_every_option_reaches_the_synthesis(run: Run, synthesis: list[dict[str, Any]]) -> None:
    done = run(
        *(*NEEDED, "--data", "org/name:train", "--tasks", "qa, summary", "--limit", "6", "--field", "content"),
        *("--lang", "de", "--min-passage-tokens", "64", "--max-passage-tokens", "512", "--base", "org/base"),
        *("--questions", "5", "--documents", "2", "--concurrency", "3", "--timeout", "7", "--tries", "2"),
        *("--max-requests", "10", "--max-tokens", "1000", "--price-in", "0.5", "--price-out", "2"),
        *("--temperature", "0", "--reply-tokens", "300", "--seed", "4", "--engine", "ray", "--workers", "2"),
        *("--worker-gpus", "1", "--device", "cpu", "--dtype", "float32"),
    )
    assert done.code == 0, done.err
    (call,) = synthesis
    plan, spec = call["plan"], call["spec"]
    assert (plan.corpora, plan.tasks, plan.limit) == (("a.jsonl", "org/name:train"), ("qa", "summary"), 6)
    assert (plan.field, plan.lang, plan.seed) == ("content", "de", 4)
    assert (plan.min_passage_tokens, plan.max_passage_tokens, plan.questions, plan.documents) == (64, 512, 5, 2)
    assert (spec.kind, spec.place, spec.model, spec.timeout) == ("openai", "http://127.0.0.1:9/v1", "m", 7.0)
    assert (spec.temperature, spec.reply_tokens, spec.seed, spec.device, spec.dtype) == (0, 300, 4, "cpu", "float32")
    assert (call["patience"].concurrency, call["patience"].tries) == (3, 2)
    assert (call["allowance"].max_requests, call["allowance"].max_tokens) == (10, 1000)
    assert call["prices"].cost(1_000_000, 1_000_000) == 2.5
    assert (call["ray"].workers, call["ray"].gpus, call["base"], call["out"]) == (2, 1, "org/base", Path("x"))


def test_what_was_made_is_printed_or_one_json_object(run: Run, synthesis: list[dict[str, Any]]) -> None:
    done = run(*NEEDED)
    assert done.code == 0
    assert "3 records (7 qa, 2 summary) from 6 replies, 1 of them there before; 4 rejected; see x/card.md" in done.out
    assert "6 of 6 replies: 9 requests, 1,234 tokens" in done.err
    done = run(*NEEDED, "--json")
    assert done.json["records"] == 3
    assert done.json["made"] == {"qa": 7, "summary": 2}
    assert done.json["rejected"] == 4
    assert synthesis[0]["ray"] is None


def test_an_early_end_is_exit_code_1_and_says_how_to_go_on(run: Run, synthesis: list[dict[str, Any]]) -> None:
    for extra in ((), ("--json",)):
        done = run(*NEEDED, "--limit", "5", *extra)
        assert done.code == 1
        assert "1 of 6 requests have no reply; the same command goes on" in done.err
        assert "given up: it was down" in done.err
        assert "stopped: the budget of 5 requests is spent; go on with a higher --max-requests" in done.err
    assert "higher --max-requests" in done.json["stopped"]


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--tasks", "poem"], "task 'poem' is unknown"),
        (["--engine", "spark"], "--engine 'spark' is unknown; give local or ray"),
        (["--teacher", "gpt"], "teacher 'gpt' is unknown"),
        (["--teacher", "openai:localhost"], "is no address"),
        (["--timeout", "0"], "--timeout 0.0 is no time to wait"),
        (["--tries", "0"], "--tries 0 is below 1"),
        (["--max-tokens", "0"], "--max-tokens 0 is below 1"),
        (["--price-in", "-1"], "--price-in -1.0 is no price"),
        (["--temperature", "nan"], "--temperature nan is below 0 or no finite number"),
        (["--workers", "0"], "--workers 0 is below 1"),
    ],
)
def test_a_mistake_is_named_before_anything_is_read(run: Run, tmp_path: Path, args: list[str], part: str) -> None:
    extra = ["--engine", "ray"] if args[0] == "--workers" else []
    run(*NEEDED[:4], tmp_path / "x", *NEEDED[5:], *extra, *args).fails_with(part)
    assert not (tmp_path / "x").exists()


def test_a_corpus_that_cannot_be_read_is_named_with_the_remedy(
    run: Run, tmp_path: Path, tiny_base_folder: Path
) -> None:
    latin = tmp_path / "a.txt"
    latin.write_bytes("Grüße".encode("latin-1"))
    for corpus, part in ((tmp_path / "none.jsonl", "no such file"), (latin, "byte 0xfc at offset 2 is not UTF-8")):
        args = ("--data", corpus, "--teacher", "embedded", "--base", tiny_base_folder, "--out", tmp_path / "x")
        done = run("synth", *args, "--json")
        assert (done.code, done.json["error"]["type"]) == (2, "DataError")
        assert str(corpus) in done.json["error"]["message"]
        assert part in done.json["error"]["message"]
