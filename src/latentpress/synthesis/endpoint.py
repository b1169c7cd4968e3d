"""A teacher behind an address that speaks OpenAI's chat completions: a service, vLLM, llama.cpp, Ollama, ..."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from latentpress.errors import InputError
from latentpress.synthesis.settings import TeacherSpec
from latentpress.synthesis.teachers import Fault, Reply, Teacher

if TYPE_CHECKING:
    import httpx2

KEYS = ("LATENTPRESS_TEACHER_KEY", "OPENAI_API_KEY")
_MOST_BYTES = 8_000_000  # of an answer
_SHOWN = 100  # characters of an answer that is none
_BUSY = {408, 409, 425, 429}  # and all from 500
_TIMED_OUT = {504, 524}  # of a proxy, behind which the teacher may have worked
_OPTIONAL = ("max_tokens", "seed", "temperature")
_UNSUPPORTED = (
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|forbidden|deprecated|n['o]t (?:support|permitted|a valid)"
)
_PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY")


class Endpoint(Teacher):
    """Asks over HTTP; the key is the value of `LATENTPRESS_TEACHER_KEY`, else of `OPENAI_API_KEY`, else none is sent.

    A parameter that the teacher says it does not support is left out from then on, `max_tokens` sent as
    `max_completion_tokens`.

    Args:
        spec: address, model and sampling.

    Raises:
        InputError: what is given is no address, holds a password, the environment's proxy or certificates cannot be
            used, or the package `httpx2` is missing.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        self._spec = spec
        self._refused: set[str] = set()
        self._url = f"{checked_address(spec.place)}/chat/completions"
        try:
            import httpx2
        except ImportError as error:
            raise InputError(
                "asking a teacher over HTTP needs the package `httpx2`: pip install 'latentpress[synth]'"
            ) from error
        self._http = httpx2
        try:
            httpx2.URL(self._url)
        except httpx2.InvalidURL as error:
            raise InputError(f"{_shown(spec.place)} is no address ({error}); check how it is written") from error
        self._client = self._connected()

    def _connected(self) -> httpx2.AsyncClient:
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise InputError(f"the key in {' or '.join(KEYS)} holds characters that no key has; set it anew")
        http = self._http
        try:
            client: httpx2.AsyncClient = http.AsyncClient(
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=None,  # one for the whole answer is set around each request
                limits=http.Limits(max_connections=None, max_keepalive_connections=None),
            )
        except OSError as error:
            raise InputError(
                f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read ({error}); set it anew"
            ) from error
        except (ImportError, ValueError, http.InvalidURL) as error:
            names = sorted(name for name in os.environ if name.upper() in _PROXIES) or ["the system's settings"]
            raise InputError(
                f"the proxy in {' or '.join(names)} cannot be used ({_why_no_proxy(error)}); give one like "
                "http://host:port, or unset it"
            ) from error
        return client

    async def __aenter__(self) -> Endpoint:
        """Connects anew where it has been left before: connections belong to one event loop."""
        if self._client.is_closed:
            self._client = self._connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends connections."""
        await self._client.aclose()

    async def reply(self, text: str) -> Reply:
        """See `Teacher.reply`."""
        spec = self._spec
        request = self._request(text)
        try:
            async with asyncio.timeout(spec.timeout):
                status, headers, body = await self._post(request)
        except TimeoutError as error:
            raise Fault(
                f"{self._url} gave no whole answer in {spec.timeout:g} s; raise --timeout, lower --concurrency, or see "
                "whether it is up",
                again=True,
                wrote=spec.reply_tokens,
            ) from error
        except self._http.HTTPError as error:
            raise self._unanswered(error) from error
        if status != 200:
            raise self._refusal(status, headers, body, request)
        try:
            reply = _parsed(body, headers, self._url)
        except Fault as fault:
            fault.wrote = min(spec.reply_tokens, -(-len(body) // 4))  # about four bytes a token
            raise
        return replace(reply, refused=tuple(name for name in _OPTIONAL if name not in request))

    def _request(self, text: str) -> dict[str, Any]:
        spec = self._spec
        limit = "max_completion_tokens" if "max_tokens" in self._refused else "max_tokens"
        request = {
            "model": spec.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": spec.temperature,
            limit: spec.reply_tokens,
            "seed": spec.seed,
        }
        return {name: value for name, value in request.items() if name not in self._refused}

    async def _post(self, request: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        async with self._client.stream("POST", self._url, json=request) as response:
            body = bytearray()
            try:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise self._unread(f"sent more than {_MOST_BYTES:,} bytes, which is no reply", response)
            except self._http.HTTPError as error:
                why = f"broke off its answer ({_named(error)}); see whether it is up, and proxies on the way"
                raise self._unread(why, response, again=True) from error
            return response.status_code, response.headers, bytes(body)

    def _unread(self, what: str, response: httpx2.Response, *, again: bool = False) -> Fault:
        """An answer that is not read to its end: what it took is not known."""
        worked = response.status_code == 200
        return Fault(f"{self._url} {what}", again=again, wrote=self._spec.reply_tokens if worked else None)

    def _unanswered(self, error: httpx2.HTTPError) -> Fault:
        """No answer at all; where there was a connection, the teacher may have read the prompt."""
        connected = isinstance(error, self._http.ReadError | self._http.RemoteProtocolError)
        return Fault(
            f"{self._url} cannot be reached ({_named(error)}); check the address, or start it",
            again=True,
            wrote=0 if connected else None,
        )

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes, request: Mapping[str, Any]) -> Fault:
        """What an answer other than 200 means."""
        said = f"{self._url} answered {status}: {_said(body)}"
        if status in (400, 422) and (refused := _unsupported(body) & request.keys()):
            self._refused |= refused
            return Fault(f"{said}; asked again without {' and '.join(sorted(refused))}", at_once=True)
        if status in (401, 403):
            return Fault(f"{said}; set the key of the teacher in {KEYS[0]}", final=True)
        if status in (404, 405) or 300 <= status < 400:
            where = f" (it points to {headers['location']})" if "location" in headers else ""
            return Fault(f"{said}{where}; check the address, which usually ends in /v1, and --model", final=True)
        if status == 402:
            return Fault(f"{said}; add to the balance of the account, then run the same command again", final=True)
        if status in _BUSY or status >= 500:
            return Fault(
                f"{said}; lower --concurrency, or run again later",
                again=True,
                wait=retry_after(headers.get("retry-after")),
                wrote=self._spec.reply_tokens if status in _TIMED_OUT else None,
            )
        return Fault(f"{said}; the request does not suit it: shorten passages or --reply-tokens, or check --model")


def checked_address(place: str) -> str:
    """An address without a slash at its end.

    Raises:
        InputError: it is no http address, or holds a password.
    """
    if "?" in place or "@" in place.partition("//")[2].partition("/")[0]:
        raise InputError(
            f"the address {_shown(place)} holds a name, password or query; put a key into {KEYS[0]} instead"
        )
    try:
        parts = urlsplit(place)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # brackets around what is none, or a port that is none
        usable = False
    if not (usable and place.isprintable()):
        raise InputError(f"{_shown(place)} is no address; give one like openai:http://localhost:8000/v1")
    return place.rstrip("/").removesuffix("/chat/completions")


def _shown(place: str) -> str:
    """An address for a message: not its secrets, and not all of a long one."""
    if "@" in place or "?" in place:
        place = f"{place.partition('//')[0]}//..." if "//" in place else "..."
    return repr(place[:_SHOWN] + ("..." if len(place) > _SHOWN else ""))


def _named(error: Exception) -> str:
    return str(error) or type(error).__name__


def _why_no_proxy(error: Exception) -> str:
    """What is wrong with a proxy, without its password."""
    if isinstance(error, ImportError):
        return "SOCKS needs the package `socksio`: pip install socksio"
    return "it is of another kind than http, https and socks5" if isinstance(error, ValueError) else "it is no address"


def _unsupported(body: bytes) -> set[str]:
    """Optional parameters beside which an answer says that something is not supported."""
    said = body[:4000].decode("utf-8", "replace").lower()
    return {
        name
        for name in _OPTIONAL
        if re.search(rf"(?:{_UNSUPPORTED})[^.]{{0,60}}\b{name}\b|\b{name}\b[^.]{{0,60}}(?:{_UNSUPPORTED})", said)
    }


def retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks to wait; None if it says nothing that can be understood."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _parsed(body: bytes, headers: Mapping[str, str], url: str) -> Reply:
    """The reply in an answer.

    Raises:
        Fault: it holds none.
    """
    if body.lstrip()[:1] == b"<" or "html" in headers.get("content-type", ""):
        raise Fault(
            f"{url} answered with HTML instead of a chat completion: {_said(body)}; check the address, which usually "
            "ends in /v1, and proxies on the way"
        )
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Fault(f"{url} answered with broken JSON: {_said(body)}", again=True) from error
    if isinstance(answer, dict) and answer.get("error") and not answer.get("choices"):
        wait = retry_after(headers.get("retry-after"))
        raise Fault(
            f"{url} answered with an error: {_message(answer['error'])}; run again later", again=True, wait=wait
        )
    try:
        choice = answer["choices"][0]
        content = choice["message"]["content"]
        text = "" if content is None else content
        if not isinstance(text, str):
            raise TypeError
        text.encode()  # half a surrogate pair could not be written down
    except (LookupError, TypeError, UnicodeEncodeError) as error:
        raise Fault(f"{url} answered with JSON that is no chat completion: {_said(body)}; check the address") from error
    usage = answer.get("usage")
    return Reply(
        text=text,
        prompt_tokens=_count(usage, "prompt_tokens"),
        reply_tokens=_count(usage, "completion_tokens"),
        cut_off=choice.get("finish_reason") == "length",
    )


def _count(usage: Any, name: str) -> int | None:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and count >= 0 else None


def _message(error: Any) -> str:
    """What an error object says."""
    message = error.get("message") if isinstance(error, dict) else error
    text = message if isinstance(message, str) and message else json.dumps(error)
    return _said(text.encode("utf-8", "replace"))


def _said(body: bytes) -> str:
    """The first characters of an answer, on one line."""
    text = " ".join(body[: 8 * _SHOWN].decode("utf-8", "replace").split())
    return repr(text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")) if text else "nothing"
