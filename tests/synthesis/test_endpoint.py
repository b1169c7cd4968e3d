"""A teacher over HTTP, well and badly behaved, over real connections."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from teacher_server import Answer, Script, Teacher, completion

from latentpress.errors import InputError
from latentpress.synthesis.asking import Asker
from latentpress.synthesis.budget import Budget
from latentpress.synthesis.endpoint import Endpoint, checked_address, retry_after
from latentpress.synthesis.journal import Entry
from latentpress.synthesis.requests import Request
from latentpress.synthesis.settings import Allowance, Patience, TeacherSpec
from latentpress.synthesis.teachers import Fault, Reply

Serve = Callable[[Script], Teacher]


def spec_of(teacher: Teacher, **options: Any) -> TeacherSpec:
    return TeacherSpec.parse(f"openai:{teacher.address}", "good", **{"timeout": 20.0, "reply_tokens": 50, **options})


def one_reply(teacher: Teacher, **options: Any) -> Reply:
    async def ask() -> Reply:
        async with Endpoint(spec_of(teacher, **options)) as endpoint:
            return await endpoint.reply("Hello?")

    return asyncio.run(ask())


def ask(teacher: Teacher, count: int = 1, **settings: Any) -> tuple[list[Entry], str | None, Budget]:
    """Entries of some requests, why asking stopped, and what was spent."""
    options = {name: settings.pop(name) for name in ("timeout",) if name in settings}
    limits = {name: settings.pop(name) for name in ("max_requests", "max_tokens") if name in settings}
    requests = [Request(key=f"k{i}", task="qa", record="r", passages=(), tokens=100) for i in range(count)]

    async def run() -> tuple[list[Entry], str | None, Budget]:
        budget, entries = Budget(Allowance(**limits)), list[Entry]()
        async with Endpoint(spec_of(teacher, **options)) as endpoint:
            asker = Asker(endpoint, Patience(**{"first_wait": 0.01, **settings}), budget, 50, len)
            return entries, await asker.ask_all(requests, lambda one: f"Hello {one.key}", entries.append), budget

    return asyncio.run(run())


def test_a_request_is_what_the_protocol_says_and_so_is_the_reply(serve: Serve) -> None:
    teacher = serve(lambda *_: "Good day.")
    reply = one_reply(teacher, temperature=0.5, seed=7)
    assert reply == Reply(text="Good day.", prompt_tokens=100, reply_tokens=10, cut_off=False)
    assert teacher.bodies == [
        {
            "model": "good",
            "messages": [{"role": "user", "content": "Hello?"}],
            "temperature": 0.5,
            "max_tokens": 50,
            "seed": 7,
        }
    ]
    assert "authorization" not in teacher.headers[0]


def test_the_key_comes_from_the_environment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = serve(lambda *_: "Good day.")
    monkeypatch.setenv("OPENAI_API_KEY", "general")
    one_reply(teacher)
    monkeypatch.setenv("LATENTPRESS_TEACHER_KEY", "special")
    one_reply(teacher)
    assert [headers["authorization"] for headers in teacher.headers] == ["Bearer general", "Bearer special"]
    monkeypatch.setenv("LATENTPRESS_TEACHER_KEY", "of two\nlines")
    with pytest.raises(InputError, match="the key in LATENTPRESS_TEACHER_KEY") as caught:
        one_reply(teacher)
    assert "lines" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (completion("a", finish="length"), Reply(text="a", prompt_tokens=None, reply_tokens=None, cut_off=True)),
        (
            completion("a", usage={"prompt_tokens": -3, "completion_tokens": 2}),
            Reply(text="a", prompt_tokens=None, reply_tokens=2, cut_off=False),
        ),
        (
            b'{"choices": [{"message": {"content": null}}]}',
            Reply(text="", prompt_tokens=None, reply_tokens=None, cut_off=False),
        ),
    ],
)
def test_what_an_answer_leaves_out_is_not_known(serve: Serve, body: bytes, expected: Reply) -> None:
    assert one_reply(serve(lambda *_: Answer(body=body))) == expected


@pytest.mark.parametrize(
    ("answer", "parts", "again", "final"),
    [
        (
            Answer(body=b"<html>\n<h1>Sign in</h1></html>", headers={"Content-Type": "text/html"}),
            ("answered with HTML", "'<html> <h1>Sign in</h1></html>'", "/v1"),
            False,
            False,
        ),
        (Answer(body=b'{"choices": [{"mess'), ("broken JSON", '{"choices": [{"mess'), True, False),
        (Answer(body=b""), ("broken JSON", "nothing"), True, False),
        (Answer(body=b'{"error": "overloaded"}'), ("no chat completion", "overloaded"), False, False),
        (Answer(body=b'{"choices": []}'), ("no chat completion",), False, False),
        (Answer(body=b'{"choices": [{"message": {"content": "\\ud83d"}}]}'), ("no chat completion",), False, False),
        (Answer(status=400, body=b"too long"), ("answered 400: 'too long'", "--reply-tokens"), False, False),
        (Answer(status=401, body=b"no key"), ("answered 401", "LATENTPRESS_TEACHER_KEY"), False, True),
        (Answer(status=404, body=b"no model"), ("answered 404: 'no model'", "--model"), False, True),
        (Answer(status=302, headers={"Location": "http://elsewhere/"}), ("points to http://elsewhere/",), False, True),
        (Answer(status=500, body=b"<html>oops</html>"), ("answered 500: '<html>oops</html>'",), True, False),
        (Answer(status=429, headers={"Retry-After": "7"}), ("answered 429: nothing", "--concurrency"), True, False),
    ],
    ids=lambda value: str(getattr(value, "status", "")) or None,
)
def test_an_answer_that_is_no_reply_is_named_and_quoted(
    serve: Serve, answer: Answer, parts: tuple[str, ...], again: bool, final: bool
) -> None:
    teacher = serve(lambda *_: answer)
    with pytest.raises(Fault) as caught:
        one_reply(teacher)
    for part in (teacher.address, *parts):
        assert part in str(caught.value)
    assert (caught.value.again, caught.value.final) == (again, final)
    assert caught.value.wait == (7.0 if answer.status == 429 else None)


@pytest.mark.parametrize("slow", [Answer(delay=3), Answer(body=completion("x" * 200), drip=0.02)], ids=["mute", "drip"])
def test_a_teacher_that_never_finishes_is_timed_out_however_it_dawdles(serve: Serve, slow: Answer) -> None:
    teacher = serve(lambda *_: slow)
    started = time.monotonic()
    with pytest.raises(Fault, match=r"gave no whole answer in 0.3 s; raise --timeout") as caught:
        one_reply(teacher, timeout=0.3)
    assert caught.value.again
    assert time.monotonic() - started < 2.5


def test_a_teacher_that_is_not_there_cannot_be_reached() -> None:
    with pytest.raises(Fault, match=r"http://127.0.0.1:9/v1/chat/completions cannot be reached"):
        one_reply(Teacher(address="http://127.0.0.1:9/v1"))


def test_an_endless_answer_is_not_read_to_its_end(serve: Serve) -> None:
    with pytest.raises(Fault, match="sent more than 8,000,000 bytes"):
        one_reply(serve(lambda *_: Answer(body=b" " * 8_100_000)))


@pytest.mark.parametrize(
    "place",
    ["localhost:8000/v1", "ftp://a/v1", "http://", "http://a:port/v1", "https://me:secret@a/v1", "http://a?k=secret"],
)
def test_what_is_no_address_is_refused_and_no_secret_repeated(place: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_address(place)
    assert "secret" not in str(caught.value)


def test_an_address_is_taken_with_or_without_what_follows_it() -> None:
    for place in ("http://a/v1", "http://a/v1/", "http://a/v1/chat/completions"):
        assert checked_address(place) == "http://a/v1"


def test_retry_after_is_read_in_both_its_forms() -> None:
    assert retry_after("1.5") == 1.5
    assert retry_after("-3") == 0
    soon = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    assert soon is not None
    assert 25 < soon <= 30
    assert [retry_after(value) for value in (None, "soon", "inf", "")] == [None] * 4


def test_a_request_is_tried_again_until_it_is_answered(serve: Serve) -> None:
    bad = [Answer(status=500), Answer(body=b'{"cho'), Answer(status=503, body=b"<html>busy</html>")]
    teacher = serve(lambda _, number: bad[number] if number < 3 else "Good day.")
    (entry,), stopped, budget = ask(teacher)
    assert (entry.reply, entry.tries, stopped, budget.requests, budget.tokens) == ("Good day.", 4, None, 4, 110)
    assert not entry.estimated


def test_waits_grow_from_try_to_try(serve: Serve) -> None:
    teacher = serve(lambda _, number: Answer(status=500) if number < 3 else "Good day.")
    ask(teacher, first_wait=0.1)
    waits = [b - a for a, b in zip(teacher.times, teacher.times[1:], strict=False)]
    assert all(wait >= least for wait, least in zip(waits, (0.05, 0.1, 0.2), strict=True))


def test_retry_after_holds_for_all_requests(serve: Serve) -> None:
    teacher = serve(
        lambda _, number: (
            Answer(status=429, headers={"Retry-After": "0.5"})
            if number == 0
            else Answer(body=completion("Good day."), delay=0.1)
        )
    )
    entries, _, _ = ask(teacher, 4, concurrency=2)
    assert [entry.reply for entry in entries] == ["Good day."] * 4
    first = teacher.times[0]
    assert len([at for at in teacher.times if at - first < 0.5]) <= 2  # the refused one, and what was under way
    assert all(entry.estimated for entry in entries)  # the answers do not say how many tokens they took


def test_a_teacher_that_asks_for_too_long_a_pause_stops_the_run(serve: Serve) -> None:
    teacher = serve(lambda *_: Answer(status=429, headers={"Retry-After": "7200"}))
    entries, stopped, _ = ask(teacher, 9, concurrency=1)
    assert len(teacher.prompts) == 1
    assert stopped is not None
    assert "come again in 7,200 s" in stopped
    assert [entry.reply for entry in entries] == [None]


def test_no_more_requests_are_under_way_than_allowed(serve: Serve) -> None:
    teacher = serve(lambda *_: Answer(body=completion("Good day."), delay=0.05))
    entries, stopped, _ = ask(teacher, 12, concurrency=3)
    assert (len(entries), stopped, teacher.most_at_once) == (12, None, 3)


def test_a_dead_teacher_stops_the_run_after_a_few_requests(serve: Serve) -> None:
    teacher = serve(lambda *_: Answer(status=500, body=b"dead"))
    entries, stopped, _ = ask(teacher, 50, tries=2, concurrency=1)
    assert len(entries) == 3
    assert len(teacher.prompts) == 6
    assert stopped is not None
    assert "3 requests in a row had no reply, the last after 2 tries" in stopped
    assert "'dead'" in stopped


def test_one_bad_request_stops_nothing(serve: Serve) -> None:
    teacher = serve(lambda prompt, _: Answer(status=400, body=b"too long") if "k1" in prompt else "Good day.")
    entries, stopped, _ = ask(teacher, 4, concurrency=1)
    assert stopped is None
    assert [entry.reply is None for entry in entries] == [False, True, False, False]
    assert entries[1].tries == 1
    assert "too long" in (entries[1].error or "")


def test_a_refused_key_stops_the_run_at_once(serve: Serve) -> None:
    teacher = serve(lambda *_: Answer(status=401, body=json.dumps({"error": "who are you"}).encode()))
    entries, stopped, _ = ask(teacher, 50, concurrency=2)
    assert len(teacher.prompts) <= 2
    assert len(entries) <= 2
    assert stopped is not None
    assert "LATENTPRESS_TEACHER_KEY" in stopped


def test_a_budget_ends_the_run_with_what_was_paid_for_kept(serve: Serve) -> None:
    teacher = serve(lambda *_: "Good day.")
    entries, stopped, budget = ask(teacher, 20, concurrency=4, max_requests=7)
    assert len(entries) == len(teacher.prompts) == budget.requests == 7
    assert stopped is not None
    assert "--max-requests" in stopped
    entries, stopped, budget = ask(teacher, 20, concurrency=4, max_tokens=1000)
    assert budget.tokens <= 1000
    assert len(entries) == 8  # of 110 tokens each, where the next might take 150
    assert stopped is not None
    assert "--max-tokens" in stopped
