"""The same on a local Ray cluster, which needs the extra `ray`, and its parts without one."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from teacher_server import Answer, Script, Teacher, document, good, rows_of

from latentpress.data.records import read_records
from latentpress.errors import InputError
from latentpress.synthesis import on_ray
from latentpress.synthesis.journal import Entry
from latentpress.synthesis.on_ray import Worker
from latentpress.synthesis.settings import Patience, RaySettings, TeacherSpec

if TYPE_CHECKING:
    from latentpress.synthesis.run import Outcome

Serve = Callable[[Script], Teacher]
Synth = Callable[..., "Outcome"]

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install '.[ray]'")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of this machine alone."""
    import ray

    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}.items():
            patched.setenv(name, value)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        yield
        ray.shutdown()


@with_ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
def test_a_cluster_gives_the_records_that_one_process_gives(serve: Serve, synth: Synth, tmp_path: Path) -> None:
    teacher = serve(good)
    here = synth(teacher, out=tmp_path / "here")
    there = synth(teacher, out=tmp_path / "there", ray=RaySettings(workers=2), concurrency=4)
    assert (there.replied, there.stopped) == (here.replied, None) == (12, None)
    for name in ("records.jsonl", "rejects.jsonl"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


@with_ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
def test_a_cluster_stays_within_the_budget_tries_again_and_goes_on(serve: Serve, synth: Synth, tmp_path: Path) -> None:
    refused: set[str] = set()

    def script(prompt: str, number: int) -> Answer | str:
        if document(0) in prompt and prompt not in refused:
            refused.add(prompt)
            return Answer(status=500)
        return good(prompt)

    teacher = serve(script)
    first = synth(teacher, ray=RaySettings(), max_requests=5, concurrency=2, tries=2, tasks=("qa", "summary"))
    assert "--max-requests" in (first.stopped or "")
    assert len(teacher.prompts) == 5
    second = synth(teacher, ray=RaySettings(), concurrency=2, tries=2, tasks=("qa", "summary"))
    assert (second.replied, second.stopped) == (8, None)
    assert second.card["spent"]["requests"] == len(teacher.prompts) == 10
    keys = [row["key"] for row in rows_of(tmp_path / "out" / "journal.jsonl")[1:]]
    assert len(keys) == len(set(keys)) == 8
    assert len(read_records(tmp_path / "out" / "records.jsonl")) == 4


@with_ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
def test_a_cluster_stops_where_the_teacher_refuses_the_key(serve: Serve, synth: Synth) -> None:
    teacher = serve(lambda *_: Answer(status=401))
    outcome = synth(teacher, ray=RaySettings(), concurrency=1)
    assert "LATENTPRESS_TEACHER_KEY" in (outcome.stopped or "")
    assert outcome.replied == 0


def batch_of(count: int, name: str, tries: int = 2) -> dict[str, Any]:
    rows = [{"key": f"{name}-{i}", "task": "qa", "record": "r", "tokens": 10, "text": "hi"} for i in range(count)]
    return {"request": [json.dumps({**row, "tries": tries}) for row in rows]}


@pytest.mark.parametrize("concurrency", [1, 2, 3])
def test_a_worker_notices_a_dead_teacher_over_batches(serve: Serve, concurrency: int) -> None:
    teacher = serve(lambda *_: Answer(status=500, body=b"dead"))
    spec = TeacherSpec.parse(f"openai:{teacher.address}", "good", timeout=5.0)
    worker = Worker(spec, Patience(concurrency=concurrency, first_wait=0.001))
    stops = [any(worker(batch_of(concurrency, str(number)))["stopped"]) for number in range(6)]
    batches = math.ceil(3 / concurrency)
    assert stops == [number >= batches - 1 for number in range(6)]
    assert len(teacher.prompts) <= 2 * concurrency * batches


def test_a_worker_forgets_failures_with_a_reply_and_remembers_refused_parameters(serve: Serve) -> None:
    def script(_: str, number: int) -> Answer | str:
        if "seed" in teacher.bodies[number]:
            return Answer(status=400, body=b"Unrecognized request argument supplied: seed")
        return Answer(status=500) if number % 3 else "Good day."

    teacher = serve(script)
    spec = TeacherSpec.parse(f"openai:{teacher.address}", "good", timeout=5.0)
    worker = Worker(spec, Patience(concurrency=1, first_wait=0.001))
    assert not any(any(worker(batch_of(1, str(number), tries=1))["stopped"]) for number in range(9))
    assert ["seed" in body for body in teacher.bodies] == [True] + [False] * 9


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are asked for in this process, by a worker of its own for each wave, as in a cluster."""

    def results(rows: list[dict[str, str]], spec: TeacherSpec, patience: Patience, _: Any, failed: int) -> Any:
        worker = on_ray.Worker(spec, patience, failed)
        for at in range(0, len(rows), patience.concurrency):
            batch = worker({"request": [row["request"] for row in rows[at : at + patience.concurrency]]})
            entries = [Entry(**json.loads(entry)) for entry in batch["entry"] if entry]
            yield entries, next((why for why in batch["stopped"] if why), "")

    monkeypatch.setattr(on_ray, "_results", results)
    monkeypatch.setattr("latentpress.synthesis.run.check_ray", lambda: None)


@pytest.mark.usefixtures("no_cluster")
def test_a_dead_teacher_is_noticed_over_waves_of_one_request(serve: Serve, synth: Synth) -> None:
    teacher = serve(lambda *_: Answer(status=500, body=b"dead"))
    outcome = synth(teacher, ray=RaySettings(), max_tokens=1200, tries=1, concurrency=1)
    assert "3 requests in a row had no reply" in (outcome.stopped or "")
    assert len(teacher.prompts) == 3


@pytest.mark.usefixtures("no_cluster")
def test_a_cluster_counts_tries_that_the_teacher_may_have_worked_on(serve: Serve, synth: Synth) -> None:
    teacher = serve(lambda *_: Answer(body=b'{"cho' + b"x" * 900))
    outcome = synth(teacher, ray=RaySettings(), max_tokens=3000, tries=3, concurrency=1, first_wait=0.001)
    spent = outcome.card["spent"]
    assert "--max-tokens" in (outcome.stopped or "")
    assert 2000 < spent["tokens_without_reply"] == spent["tokens_in"] + spent["tokens_out"] <= 3000
    assert len(teacher.prompts) == spent["requests"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_message_says_how_to_get_it(serve: Serve, synth: Synth) -> None:
    with pytest.raises(InputError, match=r"needs the package `ray` .*pip install 'latentpress\[ray\]'"):
        synth(serve(good), ray=RaySettings())
