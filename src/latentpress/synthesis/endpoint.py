"""A teacher behind an address that speaks OpenAI's chat completions: a service, vLLM, llama.cpp, Ollama, ..."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from latentpress.errors import InputError
from latentpress.synthesis.settings import TeacherSpec
from latentpress.synthesis.teachers import Fault, Reply, Teacher

KEYS = ("LATENTPRESS_TEACHER_KEY", "OPENAI_API_KEY")
_MOST_BYTES = 8_000_000  # of an answer
_SHOWN = 100  # characters of an answer that is none
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}


class Endpoint(Teacher):
    """Asks over HTTP; the key is the value of `LATENTPRESS_TEACHER_KEY`, else of `OPENAI_API_KEY`, else none is sent.

    Args:
        spec: address, model and sampling.

    Raises:
        InputError: what is given is no address, holds a password, or the package `httpx2` is missing.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        self._spec = spec
        self._url = f"{checked_address(spec.place)}/chat/completions"
        try:
            import httpx2
        except ImportError as error:
            raise InputError(
                "asking a teacher over HTTP needs the package `httpx2`: pip install 'latentpress[synth]'"
            ) from error
        self._http = httpx2
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise InputError(f"the key in {' or '.join(KEYS)} holds characters that no key has; set it anew")
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=None,  # one for the whole answer is set around each request
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def __aexit__(self, *_: object) -> None:
        """Ends connections."""
        await self._client.aclose()

    async def reply(self, text: str) -> Reply:
        """See `Teacher.reply`."""
        spec = self._spec
        request = {
            "model": spec.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": spec.temperature,
            "max_tokens": spec.reply_tokens,
            "seed": spec.seed,
        }
        try:
            async with asyncio.timeout(spec.timeout):
                status, headers, body = await self._post(request)
        except TimeoutError as error:
            raise Fault(
                f"{self._url} gave no whole answer in {spec.timeout:g} s; raise --timeout, lower --concurrency, or see "
                "whether it is up",
                again=True,
            ) from error
        except self._http.HTTPError as error:
            why = str(error) or type(error).__name__
            raise Fault(f"{self._url} cannot be reached ({why}); check the address, or start it", again=True) from error
        if status != 200:
            raise self._refusal(status, headers, body)
        return _parsed(body, headers, self._url)

    async def _post(self, request: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        async with self._client.stream("POST", self._url, json=request) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise Fault(f"{self._url} sent more than {_MOST_BYTES:,} bytes, which is no reply")
            return response.status_code, response.headers, bytes(body)

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Fault:
        """What an answer other than 200 means."""
        said = f"{self._url} answered {status}: {_said(body)}"
        if status in (401, 403):
            return Fault(f"{said}; set the key of the teacher in {KEYS[0]}", final=True)
        if status in (404, 405) or 300 <= status < 400:
            where = f" (it points to {headers['location']})" if "location" in headers else ""
            return Fault(f"{said}{where}; check the address, which usually ends in /v1, and --model", final=True)
        if status in _BUSY:
            wait = retry_after(headers.get("retry-after"))
            return Fault(f"{said}; lower --concurrency, or run again later", again=True, wait=wait)
        return Fault(f"{said}; the request does not suit it: shorten passages or --reply-tokens, or check --model")


def checked_address(place: str) -> str:
    """An address without a slash at its end.

    Raises:
        InputError: it is no http address, or holds a password.
    """
    parts = urlsplit(place)
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is none
        usable = False
    if parts.username or parts.password or parts.query:
        shown = f"{parts.scheme}://...{parts.path}"
        raise InputError(f"the address {shown} holds a name, password or query; put a key into {KEYS[0]} instead")
    if not usable:
        raise InputError(f"{place!r} is no address; give one like openai:http://localhost:8000/v1")
    return place.rstrip("/").removesuffix("/chat/completions")


def retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks to wait; None if it says nothing that can be understood."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (when.astimezone(UTC) - datetime.now(UTC)).total_seconds()
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


def _said(body: bytes) -> str:
    """The first characters of an answer, on one line."""
    text = " ".join(body[: 8 * _SHOWN].decode("utf-8", "replace").split())
    return repr(text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")) if text else "nothing"
