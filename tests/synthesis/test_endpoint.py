"""A teacher over HTTP, well and badly behaved, over real connections."""

from __future__ import annotations

import asyncio
import json
import sys
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
        (Answer(body=b'{"error": "overloaded"}'), ("answered with an error: 'overloaded'",), True, False),
        (
            Answer(body=b'{"error": {"code": 502, "message": "Upstream is \\u00fcber\\nloaded"}, "choices": []}'),
            ("answered with an error: 'Upstream is über loaded'", "run again later"),
            True,
            False,
        ),
        (Answer(headers={"Content-Encoding": "gzip"}, body=b"no gzip"), ("broke off its answer",), True, False),
        (Answer(body=b'{"choices": []}'), ("no chat completion",), False, False),
        (Answer(body=b'{"choices": [{"message": {"content": "\\ud83d"}}]}'), ("no chat completion",), False, False),
        (Answer(status=400, body=b"too long"), ("answered 400: 'too long'", "--reply-tokens"), False, False),
        (Answer(status=401, body=b"no key"), ("answered 401", "LATENTPRESS_TEACHER_KEY"), False, True),
        (Answer(status=402, body=b"no money"), ("answered 402: 'no money'", "balance of the account"), False, True),
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
    [
        *("localhost:8000/v1", "ftp://a/v1", "http://", "http://a:port/v1", "http://[::1/v1", "http://[zz]/v1"),
        *("http://a\0/v1", "http://a/v1\n", "http://a\udc80/v1", "http://a/v\udc801", "http://a-.\u200d/v1"),
        *("https://me:secret@a/v1", "http://a?k=secret", "http://me:secret@[::1/v1", "http://me:pa/secret@a/v1"),
        "http://a/" + "b" * 70_000,
    ],
    ids=ascii,
)
def test_what_is_no_address_is_refused_and_no_secret_repeated(place: str) -> None:
    with pytest.raises(InputError) as caught:
        Endpoint(TeacherSpec.parse(f"openai:{place}", "good"))
    said = str(caught.value)
    assert "secret" not in said
    assert said.isprintable()
    assert len(said) < 400
    assert "secret" in place or repr(place)[1:20] in said


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1", "socksio"),
        ("http_proxy", "me:secret:baz", "no address"),
        ("HTTPS_PROXY", "socks4://me:secret@x", "of another kind"),
        ("SSL_CERT_FILE", "/none/such", "certificates"),
    ],
)
@pytest.mark.usefixtures("serve")  # an environment without proxies
def test_a_proxy_or_certificates_that_cannot_be_used_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=rf"{name}.*{part}|{part}.*{name}") as caught:
        Endpoint(TeacherSpec.parse("openai:https://127.0.0.1:1/v1", "good"))
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
    assert (retry_after("Fri, 31 Dec 9999 23:59:59 -0500") or 0) > 1e10
    assert retry_after(f"Fri, 31 Dec {'9' * 30} 23:59:59 GMT") is None
    assert retry_after("Fri, 31 Dec 1999 23:59:59 -0000") == 0


def test_a_request_is_tried_again_until_it_is_answered(serve: Serve) -> None:
    bad = [Answer(status=500), Answer(body=b'{"cho'), Answer(status=503, body=b"<html>busy</html>")]
    teacher = serve(lambda _, number: bad[number] if number < 3 else "Good day.")
    (entry,), stopped, budget = ask(teacher)
    assert (entry.reply, entry.tries, stopped, budget.requests, budget.tokens) == ("Good day.", 4, None, 4, 110 + 102)
    assert not entry.estimated


@pytest.mark.parametrize("status", [501, 505, 507, 520, 521, 527, 530, 599])
def test_whatever_is_wrong_with_the_server_is_tried_again(serve: Serve, status: int) -> None:
    (entry,), _, _ = ask(serve(lambda _, number: "Good day." if number else Answer(status=status)))
    assert (entry.reply, entry.tries) == ("Good day.", 2)


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (Answer(body=b'{"choices'), (100, 3)),
        (Answer(body=completion("x" * 9000)[:-9]), (100, 50)),
        (Answer(body=b'{"error": "overloaded"}'), (100, 6)),
        (Answer(headers={"Content-Encoding": "gzip"}, body=b"no gzip"), (100, 50)),
        (Answer(status=504), (100, 50)),
        (Answer(delay=1.0), (100, 50)),
        (Answer(status=500, body=b"x" * 9000), (0, 0)),
        (Answer(status=429), (0, 0)),
    ],
    ids=["broken", "long", "error", "broken off", "gateway", "mute", "down", "busy"],
)
def test_a_try_that_the_teacher_may_have_worked_on_is_charged(
    serve: Serve, answer: Answer, lost: tuple[int, int]
) -> None:
    teacher = serve(lambda _, number: "Good day." if number else answer)
    (entry,), _, budget = ask(teacher, timeout=0.5)
    assert (entry.reply, entry.prompt_tokens, entry.reply_tokens) == ("Good day.", 100, 10)
    assert (entry.lost_prompt_tokens, entry.lost_reply_tokens) == lost
    assert budget.tokens == entry.tokens_in + entry.tokens_out == 110 + sum(lost)


def test_a_budget_of_tokens_holds_where_no_try_brings_a_reply(serve: Serve) -> None:
    teacher = serve(lambda *_: Answer(body=completion("x" * 9000)[:-9]))
    entries, stopped, budget = ask(teacher, 9, concurrency=2, max_tokens=500)
    assert (len(teacher.prompts), budget.tokens) == (3, 450)
    assert sum(entry.tokens_in + entry.tokens_out for entry in entries) == 450
    assert "--max-tokens" in (stopped or "")


UNSUPPORTED = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
    "temperature": "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default is.",
    "seed": '{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}',
}


@pytest.mark.parametrize("names", [("max_tokens",), ("seed",), ("max_tokens", "seed", "temperature")], ids=str)
def test_parameters_that_the_teacher_does_not_support_are_sent_no_more(serve: Serve, names: tuple[str, ...]) -> None:
    def script(_: str, number: int) -> Answer | str:
        wrong = [name for name in names if name in teacher.bodies[number]]
        body = json.dumps({"error": {"message": UNSUPPORTED[wrong[0]]}}).encode() if wrong else b""
        return Answer(status=422 if wrong[0] == "seed" else 400, body=body) if wrong else "Good day."

    teacher = serve(script)
    entries, stopped, budget = ask(teacher, 6, concurrency=2, tries=1, first_wait=30.0)
    assert ([entry.reply for entry in entries], stopped) == (["Good day."] * 6, None)
    assert {entry.refused for entry in entries} == {", ".join(names)}
    assert budget.requests == len(teacher.bodies) <= 6 + 2 * len(names)
    limit = "max_completion_tokens" if "max_tokens" in names else "max_tokens"
    assert teacher.bodies[-1][limit] == 50
    assert set(teacher.bodies[-1]) == {"model", "messages", limit, "temperature", "seed"} - set(names)


@pytest.mark.parametrize(
    "said",
    [
        "max_tokens is too large: 50. This model supports at most 40 completion tokens.",
        "temperature must be between 0 and 0.5",
        "You asked for 5000 tokens; reduce max_tokens. Unknown texts are too long, too.",
        "Unsupported parameter: 'model'",
    ],
)
def test_a_parameter_with_a_value_that_does_not_suit_is_still_sent(serve: Serve, said: str) -> None:
    teacher = serve(lambda *_: Answer(status=400, body=said.encode()))
    (entry,), _, _ = ask(teacher)
    assert (entry.tries, len(teacher.bodies)) == (1, 1)
    assert "does not suit it" in (entry.error or "")


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}])
def test_waits_grow_from_try_to_try(serve: Serve, headers: dict[str, str]) -> None:
    teacher = serve(lambda _, number: Answer(status=500, headers=headers) if number < 3 else "Good day.")
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
