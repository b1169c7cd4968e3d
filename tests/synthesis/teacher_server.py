"""A teacher over HTTP for tests: it speaks OpenAI's chat completions on the loopback, well or as badly as is wanted."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PASSAGE = re.compile(r"<passage[^>]*>\n(.*?)\n</passage>", re.DOTALL)
PLACES = ("Paris", "Lima", "Oslo", "Cairo", "Quito", "Delhi", "Perth", "Turin", "Kyoto", "Malta")
# Of passages, by a tokenizer that makes a token of every second or third character.
SHORTEST, LONGEST = 60, 1000
PEOPLE = ("Ada", "Boris", "Clara", "Diego", "Elena", "Farid", "Greta", "Hugo", "Irene", "Jonas")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the server sends."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before the first byte."""
    drip: float = 0.0
    """Seconds before every further byte."""


Script = Callable[[str, int], "Answer | str"]
"""Makes of a prompt, and the number of the request from 0, an answer, or the words of a good one."""


@dataclass(kw_only=True, slots=True)
class Teacher:
    """A running server."""

    address: str
    prompts: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0


def document(number: int, sentences: int = 12) -> str:
    """A text that shares no run of five words with another one."""
    return " ".join(
        f"{PEOPLE[(number + i) % 10]} number {number * 97 + i * 13} left {PLACES[(number * 3 + i) % 10]} in "
        f"{1500 + number * 31 + i * 7} with {number + i * 3 + 2} ships."
        for i in range(sentences)
    )


def write_corpus(path: Path, count: int = 4, **fields: Any) -> Path:
    """Writes documents that are one passage each."""
    rows = [{"id": f"d{i}", "source": "news", "text": document(i), **fields} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def completion(text: str, *, finish: str = "stop", usage: dict[str, int] | None = None) -> bytes:
    """A chat completion that says a text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    content: dict[str, Any] = {"id": "x", "object": "chat.completion", "choices": [choice]}
    if usage is not None:
        content["usage"] = usage
    return json.dumps(content).encode()


def good(prompt: str, number: int = 0) -> str:
    """What a teacher would say that does what it is told."""
    texts = PASSAGE.findall(prompt)
    words = [word for text in texts for word in text.split()]
    if '{"summary"' in prompt:
        few = "few words" in prompt
        return json.dumps({"summary": " ".join(words[:4] if few else words[: len(words) // 3])})
    start = len(words) // 2 if len(texts) > 1 else 0
    rows: list[dict[str, Any]] = []
    for i in range(2):
        at = start + 9 * i
        asked = "What, of both, follows" if len(texts) > 1 else "What follows"
        row = {"question": f"{asked} {' '.join(words[at : at + 6])}?", "answer": words[at + 6].strip(".")}
        rows.append({**row, "passages": [1, 2]} if len(texts) > 1 else row)
    return json.dumps({"questions": rows})


@contextmanager
def serving(script: Script) -> Iterator[Teacher]:
    """Runs a server in threads; what still sleeps at the end is left behind."""
    lock = threading.Lock()
    at_once = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal at_once
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompt = body["messages"][-1]["content"]
            with lock:
                number = len(teacher.prompts)
                teacher.prompts.append(prompt)
                teacher.bodies.append(body)
                teacher.headers.append({key.lower(): value for key, value in self.headers.items()})
                teacher.times.append(time.monotonic())
                at_once += 1
                teacher.most_at_once = max(teacher.most_at_once, at_once)
            answer = script(prompt, number)
            if isinstance(answer, str):
                usage = {"prompt_tokens": 100, "completion_tokens": 10}
                answer = Answer(body=completion(answer, usage=usage))
            time.sleep(answer.delay)
            with lock:
                at_once -= 1
            try:
                self._send(answer)
            except OSError:  # the client has hung up
                return

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for key, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if answer.drip:
                for i in range(len(answer.body)):
                    self.wfile.write(answer.body[i : i + 1])
                    self.wfile.flush()
                    time.sleep(answer.drip)
            else:
                self.wfile.write(answer.body)

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    teacher = Teacher(address=f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield teacher
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
