"""The same on a local Ray cluster; needs the extra `ray`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from teacher_server import Answer, Script, Teacher, document, good, rows_of

from latentpress.data.records import read_records
from latentpress.errors import InputError
from latentpress.synthesis.settings import RaySettings

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


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_message_says_how_to_get_it(serve: Serve, synth: Synth) -> None:
    with pytest.raises(InputError, match=r"needs the package `ray` .*pip install 'latentpress\[ray\]'"):
        synth(serve(good), ray=RaySettings())
