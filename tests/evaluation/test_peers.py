"""Peers answer from processes of their own: workers that work, lag, die and chatter; environments; the systems."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from handmade import OTHER_TEXT, QUESTION, TEXT
from test_readers import READER
from tiny import config_for, make_model

from latentpress.errors import InputError, PeerError
from latentpress.evaluation.memory import resident_bytes
from latentpress.evaluation.questions import Question
from latentpress.evaluation.systems import Setup, Size
from latentpress.evaluation.systems.bounds import BOUNDS
from latentpress.evaluation.systems.peers import PEERS, environments, kvpress, llmlingua
from latentpress.evaluation.systems.peers.environments import PACKAGES, Interpreter, find, install
from latentpress.evaluation.systems.peers.llmlingua import nearest
from latentpress.evaluation.systems.peers.merged import merged_folder
from latentpress.evaluation.systems.peers.process import PeerProcess
from latentpress.evaluation.systems.peers.sharing import Lease
from latentpress.press import Press

if TYPE_CHECKING:
    from latentpress.backbone import Base

WORKERS = Path(kvpress.__file__).parent / "workers"
PYTHON = Path(sys.executable)
HERE = Interpreter(PYTHON, {"fake": "1.0"})
POSIX = pytest.mark.skipif(os.name == "nt", reason="stands in for a Python by a script with a shebang")


def worker(tmp_path: Path, answer: str, *, before: str = "", start: str = "") -> Path:
    """Writes a worker that runs the given lines in its answer, before it serves, and at its start."""
    script = tmp_path / "fake_worker.py"
    script.write_text(
        f"import json, os, sys, time\n{before}\nsys.path.insert(0, {str(WORKERS)!r})\nfrom peer_protocol import serve\n"
        f"def start(settings):\n    {start or 'pass'}\n    def answer(request):\n        {answer}\n    return answer\n"
        "serve(('pip',), start)\n",
        encoding="utf-8",
    )
    return script


def running(script: Path, settings: dict[str, Any] | None = None, **limits: float) -> PeerProcess:
    return PeerProcess("fake", PYTHON, script, settings or {}, **limits)


# ---- a process ----


def test_each_request_gets_its_own_answer_in_any_script_and_settings_reach_the_worker(tmp_path: Path) -> None:
    script = worker(tmp_path, "return {'said': request['text'] + settings['end']}")
    with running(script, {"end": "\u2028日本"}) as process:
        texts = ["é", "\n", "", "🦊" * 50_000]
        assert [process.ask(text=text)["said"] for text in texts] == [f"{text}\u2028日本" for text in texts]
        assert process.versions["python"] == ".".join(map(str, sys.version_info[:3]))
        assert "pip" in process.versions


def test_what_a_worker_prints_is_no_answer(tmp_path: Path) -> None:
    noise = "print('loading'); os.write(1, b'half a line'); sys.stdout.flush()"
    script = worker(
        tmp_path, f"{noise}; print(json.dumps(dict(id=1, said='wrong'))); return dict(said='right')", before=noise
    )
    with running(script) as process:
        assert [process.ask()["said"] for _ in range(3)] == ["right"] * 3


def test_a_request_that_fails_leaves_the_worker_running(tmp_path: Path) -> None:
    script = worker(tmp_path, "return {'half': 1 / request['by']}")
    with running(script) as process:
        with pytest.raises(PeerError, match="fake cannot answer: ZeroDivisionError: division by zero"):
            process.ask(by=0)
        assert process.ask(by=2) == {"id": 2, "half": 0.5}


def test_a_worker_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    script = worker(tmp_path, "print('out of luck', file=sys.stderr, flush=True); os._exit(3)")
    process = running(script)
    with pytest.raises(PeerError, match=r"ended with code 3; it last wrote: out of luck$"):
        process.ask()
    assert not process.alive
    with pytest.raises(PeerError, match="has been ended; start it again"):
        process.ask()


def test_a_worker_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    script = worker(tmp_path, "time.sleep(600)")
    process = running(script, answer_seconds=0.5)
    began = time.monotonic()
    with pytest.raises(PeerError, match=r"has not answered for 0\.5 seconds and was ended"):
        process.ask()
    assert time.monotonic() - began < 30
    assert not process.alive


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    script = worker(tmp_path, "pass", start="raise OSError('no such model')")
    with pytest.raises(PeerError, match=r"ended with code 1; it last wrote: .*OSError: no such model$"):
        running(script)
    with pytest.raises(PeerError, match=r"does not run .* name another interpreter"):
        PeerProcess("fake", tmp_path / "no-python", script, {})


def test_a_worker_ends_with_its_parent_whatever_it_does(tmp_path: Path) -> None:
    script = worker(tmp_path, "time.sleep(600)")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([PYTHON, script], **pipes) as process:
        process.communicate(b'{"id": 0, "settings": {}}\n{"id": 1}\n', timeout=60)  # closes its input at the end
        assert process.returncode == 0


def test_systems_with_the_same_settings_share_a_process_until_the_last_is_closed(tmp_path: Path) -> None:
    script = worker(tmp_path, "return {'pid': os.getpid()}")
    first, second, other = (Lease("fake", PYTHON, script, {"model": name}) for name in ("a", "a", "b"))
    pid = first.ask()["pid"]
    assert first.pid == pid
    assert {"python", "pip"} == set(first.versions)
    assert second.ask()["pid"] == pid != other.ask()["pid"]
    first.close()
    first.close()
    assert second.ask()["pid"] == pid
    second.close()
    other.close()
    again = Lease("fake", PYTHON, script, {"model": "a"})
    assert again.ask()["pid"] != pid
    again.close()


def test_a_process_that_died_is_started_again_for_the_next_request(tmp_path: Path) -> None:
    script = worker(tmp_path, "os._exit(1) if request['die'] else None; return {'fine': True}")
    lease = Lease("fake", PYTHON, script, {})
    with pytest.raises(PeerError, match="ended with code 1"):
        lease.ask(die=True)
    assert lease.ask(die=False)["fine"]
    lease.close()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to give memory back")
def test_a_worker_gives_back_what_it_has_freed(tmp_path: Path) -> None:
    # The last of many small pieces holds the heap's end in place, so that what is freed below it stays.
    hold = "held = [bytearray(65536) for _ in range(2000)]; settings['last'] = held[-1]; del held"
    with running(worker(tmp_path, "return {'fine': True}", start=hold)) as process:
        before = resident_bytes(str(process.pid))
        process.give_back_freed()
        assert before - resident_bytes(str(process.pid)) > 0.8 * 2000 * 65536
        assert process.ask() == {"id": 2, "fine": True}


# ---- environments ----


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no interpreter named."""
    monkeypatch.setenv("LATENTPRESS_CACHE", str(tmp_path / "cache"))
    for package in PACKAGES.values():
        monkeypatch.delenv(package.variable, raising=False)
    return tmp_path / "cache"


def fake_python(path: Path, code: str) -> Path:
    """A program that takes the place of a Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\nfrom pathlib import Path\n{code}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def python_with(path: Path, **versions: str) -> Path:
    return fake_python(path, f"print(json.dumps({versions!r}))")


@POSIX
def test_the_python_that_is_named_goes_before_the_one_that_is_installed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"kvpress": "0.5.5", "transformers": "5.2.0"}
    installed = python_with(cache / ".venv-peers/kvpress/bin/python", **versions)
    assert find("kvpress") == Interpreter(installed, versions)
    of_variable = python_with(tmp_path / "variable/python", **versions)
    monkeypatch.setenv("LATENTPRESS_PEER_KVPRESS", str(of_variable))
    assert find("kvpress").python == of_variable
    given = python_with(tmp_path / "given/python", **versions)
    assert find("kvpress", {"kvpress": given, "llmlingua": of_variable}).python == given


@POSIX
@pytest.mark.parametrize(
    ("versions", "says"), [({"kvpress": "0.4.0"}, "has 0.4.0"), ({"transformers": "5.2.0"}, "has none")]
)
def test_a_python_without_the_right_version_is_refused(
    cache: Path, tmp_path: Path, versions: dict[str, str], says: str
) -> None:
    python = python_with(tmp_path / "python", **versions)
    with pytest.raises(InputError) as error:
        find("kvpress", {"kvpress": python})
    assert str(error.value).startswith(f"the peer kvpress needs the package kvpress==0.5.5, and {python} {says}; ")
    assert "run: latentpress eval peer kvpress " in str(error.value)


def test_a_python_that_does_not_run_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not run as the Python of the peer llmlingua"):
        find("llmlingua", {"llmlingua": tmp_path / "nothing"})


def test_a_peer_that_is_nowhere_is_told_with_the_command_that_installs_it(cache: Path) -> None:
    # Not here: it cannot be installed beside this library's transformers.
    with pytest.raises(
        InputError, match=r"kvpress==0\.5\.5, and it is not installed; run: latentpress eval peer kvpress "
    ):
        find("kvpress")


FAKE_VENV = """
arguments = sys.argv[1:]
if arguments[:2] == ["-m", "venv"]:
    made = Path(arguments[2]) / "bin/python"
    made.parent.mkdir(parents=True)
    made.write_text(Path(__file__).read_text())
    made.chmod(0o755)
elif arguments[0] == "-c":
    print(json.dumps({"kvpress": "0.5.5"}))
else:
    with open(os.environ["FAKE_LOG"], "a") as log:
        log.write(json.dumps(arguments) + "\\n")
    if os.environ.get("FAKE_FAILS") in arguments:
        sys.exit("chatter\\nERROR: No matching distribution found\\nhint")
"""


@POSIX
def test_an_environment_is_made_whole_torch_first_or_not_at_all(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.setattr(sys, "executable", str(fake_python(tmp_path / "python", FAKE_VENV)))
    monkeypatch.setenv("FAKE_FAILS", "--requirement")
    with pytest.raises(InputError, match=r"cannot install kvpress==0\.5\.5: ERROR: No matching distribution found; "):
        install("kvpress")
    assert [path.name for path in (cache / ".venv-peers").iterdir()] in ([], [".kvpress.lock"])
    monkeypatch.delenv("FAKE_FAILS")
    log.unlink()
    said: list[str] = []
    assert install("kvpress", said.append) == cache / ".venv-peers/kvpress/bin/python"
    first, second = map(json.loads, log.read_text().splitlines())
    assert first[-1].startswith("torch==")
    assert first[-3] == "--constraint"
    assert second[-2:] == ["--requirement", str(PACKAGES["kvpress"].requirements)]
    assert said[-1].startswith("kvpress==0.5.5 is ready")
    assert find("kvpress").python == install("kvpress")
    assert len(log.read_text().splitlines()) == 2


def test_an_unknown_peer_cannot_be_installed(cache: Path) -> None:
    with pytest.raises(InputError, match="no peer 'gist' to install; choose one of llmlingua, kvpress"):
        install("gist")


@pytest.mark.parametrize("package", PACKAGES.values(), ids=list(PACKAGES))
def test_environments_are_pinned(package: environments.Package) -> None:
    pins = [line for line in package.requirements.read_text().splitlines() if not line.startswith("#")]
    assert package.requirement in pins
    assert all(line.count("==") == 1 and "+" not in line for line in pins)
    assert {"torch", "transformers"} <= {line.partition("==")[0] for line in pins}


# ---- systems ----


@pytest.fixture(scope="module")
def press(tiny_base: Base, tiny_base_folder: Path) -> Press:
    base = dataclasses.replace(tiny_base, id=str(tiny_base_folder))
    return Press(make_model(config_for(base), base), base, None, "feed")


@pytest.fixture(scope="module")
def setup(press: Press) -> Setup:
    tuned = Press(make_model(config_for(press.base, name="reader", **READER), press.base), press.base, None, "beef")
    return Setup(press=press, readers={"tuned": tuned})


def ask(number: int, *contexts: str, question: str = QUESTION) -> Question:
    return Question(id=str(number), dataset="tiny", contexts=contexts, question=question, answers=("a fox",))


def system(
    setup: Setup, name: str, reader: str, ratio: float, monkeypatch: Any = None, script: Path | None = None
) -> Any:
    """A peer's system, of a fake worker where one is given."""
    if script is not None:
        module = llmlingua if name.startswith("llmlingua") else kvpress
        monkeypatch.setattr(module, "_WORKER", script)
        monkeypatch.setattr(module, "find", lambda *_: HERE)
    return PEERS[name].make(setup, reader, Size(ratio=ratio))


def test_peers_say_what_they_need_and_which_of_them_see_the_question() -> None:
    assert set(PEERS) == {
        "llmlingua", "llmlingua-question", "snapkv", "expected-attention", "key-norm", "streaming-llm"
    }  # fmt: skip
    assert {name for name, family in PEERS.items() if family.sees_question} == {"llmlingua-question"}
    for name, family in PEERS.items():
        assert (family.name, family.kind, family.readers, family.sized) == (name, "peer", ("zero-shot", "tuned"), True)
        assert family.needs in {package.requirement for package in PACKAGES.values()}


def test_the_merged_reader_reads_as_the_press_s_decoder_does(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from latentpress.attention import Layout

    monkeypatch.setenv("LATENTPRESS_CACHE", str(tmp_path))
    tuned = setup.readers["tuned"]
    folder = merged_folder(tuned)
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(40) * 7 % 300
    decoder = tuned.model.decoder
    with torch.no_grad():
        own = decoder.logits(decoder(decoder.embed(ids), Layout.of((40,), "causal", device=ids.device)))
        plain = tuned.base.model(ids[None]).logits[0]
        torch.testing.assert_close(merged(ids[None]).logits[0], own, atol=2e-5, rtol=1e-4)
    assert (own - plain).abs().max() > 0.1
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert merged_folder(tuned) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"] == [folder.name]


def test_a_reader_with_learned_vectors_cannot_be_merged(press: Press) -> None:
    config = config_for(press.base, name="prompted", **{**READER, "decoder_lora": None}, prompt_vectors=3)
    prompted = Press(make_model(config, press.base), press.base, None, "f00d")
    with pytest.raises(InputError, match="'prompted' reads with learned vectors in its prompt"):
        merged_folder(prompted)


ECHO = """seen = open(__file__ + '.log', 'a'); seen.write(json.dumps(request) + chr(10)); seen.close()
        rows = request["rows"]
        kept = [[row["keep"]] * 3 for row in rows]
        return {"answers": [row["question"][:3] for row in rows], "kept": kept, "bytes": [77] * len(rows)}"""


def log_of(script: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"{script}.log").read_text().splitlines()]


@pytest.mark.parametrize("reader", ["zero-shot", "tuned"])
def test_keys_and_values_are_pressed_of_the_prompt_that_all_systems_read(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    from latentpress.evaluation.systems.readers import text_reader
    from latentpress.tokens import encode_inert

    monkeypatch.setenv("LATENTPRESS_CACHE", str(tmp_path))
    script = worker(tmp_path, ECHO)
    made = system(setup, "snapkv", reader, 4, monkeypatch, script)
    questions = [ask(0, TEXT, OTHER_TEXT), ask(1, TEXT, OTHER_TEXT, question="Who?"), ask(2, OTHER_TEXT)]
    answers = made.answer(questions, 5)
    made.close()
    (request,) = log_of(script)
    rows = sorted(request["rows"], key=lambda row: (-len(row["context"]), -len(row["question"])))
    press, tokenizer = setup.press, setup.press.base.tokenizer
    own = text_reader(setup, reader).press._reader
    (before, _), documents = own.opening(1), encode_inert(tokenizer, questions[0].text)
    assert rows[0]["context"] == rows[1]["context"] == [*before, *documents]
    assert [row["question"] for row in rows] == [own.request(one.question) for one in questions]
    for row, answer in zip(rows, answers, strict=True):
        assert row["press"] == "SnapKVPress"
        assert answer.kept == math.ceil(answer.tokens / 4) == row["keep"] - len(before)
        assert 1 <= row["options"]["window_size"] < row["keep"]
    assert answers[0].tokens == press.count_tokens(TEXT) + press.count_tokens(OTHER_TEXT)
    assert answers[2].text == tokenizer.decode(own.request(QUESTION)[:3], skip_special_tokens=True)
    assert {answer.nbytes for answer in answers} == {77}


def test_what_kvpress_has_read_of_texts_serves_all_methods_and_sizes_of_a_reader(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTPRESS_CACHE", str(tmp_path))
    script = worker(tmp_path, ECHO)
    every = [
        system(setup, name, "zero-shot", ratio, monkeypatch, script)
        for name, ratio in (("snapkv", 4), ("snapkv", 8), ("key-norm", 4))
    ]
    tuned = system(setup, "snapkv", "tuned", 4, monkeypatch, script)
    assert every[0].shares is every[1].shares is every[2].shares is not tuned.shares
    for contexts in (TEXT, OTHER_TEXT):
        for made in (*every, tuned):
            made.answer([ask(0, contexts)], 5)
    assert [one["forget"] for one in log_of(script)] == [True, False, False, True] * 2
    for made in (*every, tuned):
        made.close()


# Takes its time by its own clock, holds texts by name, and says with how many threads.
TIMED = """seen = open(__file__ + '.log', 'a'); seen.write(json.dumps({**request, **settings}) + chr(10)); seen.close()
        return {"kept": [request.get("keep", 0)] * 3, "bytes": 77, "seconds": 30.0, "first_token": 2.0, "total": 4.0}"""


def test_kvpress_is_timed_by_its_worker_s_clock_and_with_as_many_threads(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from latentpress.evaluation import speed

    script = worker(tmp_path, TIMED)
    made = system(setup, "snapkv", "zero-shot", 4, monkeypatch, script)
    reference, base = BOUNDS["full"].make(setup, "zero-shot", None), setup.press.base
    found = speed.measure(
        [made], reference, base.tokenizer, base.max_positions, lengths=(100,), rounds=1, answer_tokens=6
    )
    made.close()
    times = found.lengths[100]["snapkv-x4-zero-shot"]
    assert times.kept == 25
    assert times.compress == pytest.approx((30.0,), abs=1)  # what is done here is a little more
    assert times.first_token == pytest.approx((32.0,), abs=1)
    assert times.stored_total == pytest.approx((4.0,), abs=1)
    requests = log_of(script)
    assert [one["do"] for one in requests[:5]] == ["hold", "read", "hold", "read", "read"]
    assert {one["name"] for one in requests} == {"snapkv-x4-zero-shot"}
    assert [one["tokens"] for one in requests if one["do"] == "read"][:2] == [2, 6]
    assert {one["threads"] for one in requests} == {torch.get_num_threads()}
    assert found.elsewhere == {
        "snapkv-x4-zero-shot": f"compresses and answers in a process of its own (pip {metadata.version('pip')})"
    }


def test_a_peer_that_compresses_elsewhere_is_timed_with_what_it_takes_there(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentpress.evaluation import speed

    script = worker(tmp_path, f"time.sleep(0.3); held = bytearray({2**27})\n        {STINGY}")
    made = system(setup, "llmlingua", "zero-shot", 4, monkeypatch, script)
    reference, base = BOUNDS["full"].make(setup, "zero-shot", None), setup.press.base
    found = speed.measure(
        [made], reference, base.tokenizer, base.max_positions, lengths=(100,), rounds=1, answer_tokens=3
    )
    made.close()
    forgets = [one["forget"] for one in log_of(script)]
    assert forgets[0]
    assert forgets.count(True) >= 2  # each time that it is timed
    times = found.lengths[100]["llmlingua-x4-zero-shot"]
    assert times.compress[0] >= 0.3
    assert times.total[0] > times.compress[0] > times.stored_total[0]
    assert times.peak_bytes is None or times.peak_bytes > 2**26
    assert found.elsewhere["llmlingua-x4-zero-shot"].startswith("compresses in a process of its own (")


def test_a_text_beyond_the_decoder_s_positions_is_not_sent(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = worker(tmp_path, ECHO)
    made = system(setup, "key-norm", "zero-shot", 8, monkeypatch, script)
    long, short = made.answer([ask(0, TEXT * 40), ask(1, TEXT)], 5)
    made.close()
    assert long.text == ""
    assert "the decoder has 512" in long.error
    assert short.error is None
    assert len(log_of(script)) == 1


# Keeps words here and there, fewer than it is asked for.
STINGY = """seen = open(__file__ + '.log', 'a'); seen.write(json.dumps(request) + chr(10)); seen.close()
        words, share = ' '.join(request["documents"]).split(' '), request["target"] / 240
        return {"kept": ' '.join(word for i, word in enumerate(words) if i * share % 1 < share)}"""


def test_what_llmlingua_keeps_is_near_the_budget_and_never_above(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = worker(tmp_path, STINGY)
    made = system(setup, "llmlingua", "zero-shot", 4, monkeypatch, script)
    questions = [ask(0, TEXT, OTHER_TEXT), ask(1, TEXT, OTHER_TEXT, question="Who?"), ask(2, "A fox.")]
    answers = made.answer(questions, 3)
    made.close()
    budget = math.ceil(answers[0].tokens / 4)
    assert 0.8 * budget <= answers[0].kept <= budget
    assert answers[0].kept == answers[1].kept
    assert answers[2].kept <= math.ceil(answers[2].tokens / 4)
    requests = log_of(script)
    about_first = [one for one in requests if one["documents"] == [questions[0].text]]
    assert about_first[0]["target"] == budget
    assert 2 <= len(about_first) <= 3  # asked again, and once for both questions
    assert all(one["question"] is None for one in requests)
    assert not any(one["forget"] for one in requests)


def test_llmlingua_compresses_once_for_both_readers_though_sizes_are_at_other_questions(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = worker(tmp_path, STINGY)
    four, eight, tuned = (
        system(setup, "llmlingua", reader, ratio, monkeypatch, script)
        for reader, ratio in (("zero-shot", 4), ("zero-shot", 8), ("tuned", 4))
    )
    assert four.shares is eight.shares is tuned.shares  # in turn: the worker remembers what it computed of a text
    four.answer([ask(0, TEXT)], 3)
    eight.answer([ask(1, OTHER_TEXT)], 3)
    before = len(log_of(script))
    tuned.answer([ask(0, TEXT)], 3)
    assert len(log_of(script)) == before
    for made in (four, eight, tuned):
        made.close()


def test_longllmlingua_is_given_documents_and_question(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = worker(tmp_path, STINGY)
    made = system(setup, "llmlingua-question", "tuned", 2, monkeypatch, script)
    (answer,) = made.answer([ask(0, f"{TEXT}\n\n{OTHER_TEXT}", OTHER_TEXT)], 3)
    made.close()
    request = log_of(script)[0]
    assert request["documents"] == [TEXT.strip(), OTHER_TEXT.strip(), OTHER_TEXT.strip()]
    assert request["question"] == QUESTION
    assert request["options"]["rank_method"] == "longllmlingua"
    assert answer.nbytes is None


def test_a_text_within_the_budget_is_kept_without_asking(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = system(setup, "llmlingua", "tuned", 1, monkeypatch, tmp_path / "no-such-worker.py")
    (answer,) = made.answer([ask(0, TEXT)], 3)
    assert answer.kept == answer.tokens
    assert answer.text == BOUNDS["full"].make(setup, "tuned", None).answer([ask(0, TEXT)], 3)[0].text
    made.close()


@pytest.mark.parametrize(("share", "kept"), [(1.0, 100), (0.5, 100), (0.71, 100), (1.3, 100), (0.95, 95), (0.01, 4)])
def test_a_compressor_that_misses_is_asked_again(share: float, kept: int) -> None:
    asked: list[float] = []

    def compress(target: float) -> str:
        asked.append(target)
        return "x" * round(target * share)

    assert len(nearest(compress, 100, len)) == kept
    assert asked[0] == 100
    assert len(asked) <= 3


@pytest.mark.parametrize(("tries", "taken"), [((60, 130, 85), 85), ((60, 110, 70), 110), ((20, 40, 60), 60)])
def test_the_nearest_of_all_tries_is_taken(tries: tuple[int, ...], taken: int) -> None:
    lengths = iter(tries)
    assert len(nearest(lambda _: "x" * next(lengths), 100, len)) == taken


# ---- the packages themselves ----


@pytest.fixture
def real(request: pytest.FixtureRequest, setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes systems that run the package; skips where no Python has it."""
    found: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = find(package).python
        except InputError as error:
            missing[package] = str(error)
    monkeypatch.setenv("LATENTPRESS_CACHE", str(tmp_path))  # for merged readers

    def make(name: str, reader: str, ratio: float) -> Any:
        package = PEERS[name].needs.partition("==")[0]
        if package in missing:
            pytest.skip(missing[package])
        made = system(dataclasses.replace(setup, python=found), name, reader, ratio)
        request.addfinalizer(made.close)
        return made

    return make


ASKED = [ask(0, TEXT, OTHER_TEXT), ask(1, TEXT, OTHER_TEXT, question="Who was elsewhere?"), ask(2, OTHER_TEXT)]


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["zero-shot", "tuned"])
def test_kvpress_that_drops_nothing_answers_as_the_full_text_does(real: Any, setup: Setup, reader: str) -> None:
    pressed = real("snapkv", reader, 1).answer(ASKED, 8)
    full = BOUNDS["full"].make(setup, reader, None).answer(ASKED, 8)
    assert [answer.text for answer in pressed] == [answer.text for answer in full]
    assert [answer.tokens for answer in pressed] == [answer.tokens for answer in full]


@pytest.mark.slow
def test_kvpress_keeps_as_much_as_it_is_asked_to(real: Any, setup: Setup) -> None:
    answers = {}
    for method in kvpress.METHODS:
        made = real(method.name, "zero-shot", 4)
        answers[method.name] = together = made.answer(ASKED, 8)
        assert together == [made.answer([one], 8)[0] for one in ASKED]
        for answer in together:
            assert answer.kept == math.ceil(answer.tokens / 4)
            # 3 layers of 2 heads of 16 numbers, of 4 bytes each, for keys and for values; the prompt has entries too.
            assert answer.nbytes > answer.kept * 3 * 2 * 16 * 4 * 2
    assert len({tuple(answer.text for answer in made) for made in answers.values()}) > 1


@pytest.mark.slow
def test_what_kvpress_holds_is_answered_from_again_and_again(real: Any) -> None:
    from latentpress.evaluation.systems.timed import Reading

    made, (question, other) = real("snapkv", "zero-shot", 4), ASKED[:2]
    held = made.timed_hold(question)
    assert held.kept == math.ceil(sum(map(made._count, question.contexts)) / 4)
    assert held.seconds > 0
    for _ in range(2):
        for asked in (question, other):
            read = made.timed_read(held, asked, 9)
            assert isinstance(read, Reading)
            assert 0 < read.first_token < read.total
    ids = made._reader.request(question.question)
    every = [real(method.name, "zero-shot", 4) for method in kvpress.METHODS]
    for one in every:  # read under the press, and pressed of what was read before
        held = one.timed_hold(question)
        again = [one.worker.ask(do="read", name=held.what, question=ids, tokens=9)["answer"] for _ in range(2)]
        assert again[0] == again[1]
        assert len(again[0]) == 9
        (alone,) = one.answer([question], 9)
        assert one._decoded(again[0]).startswith(alone.text)
        assert alone.kept == held.kept


@pytest.mark.slow
def test_llmlingua_keeps_words_of_the_text_within_the_budget(real: Any, setup: Setup) -> None:
    for name in ("llmlingua", "llmlingua-question"):
        made = real(name, "tuned", 2)
        for question in (*ASKED, ask(3, *[TEXT, OTHER_TEXT] * 3)):
            budget = math.ceil(sum(map(setup.press.count_tokens, question.contexts)) / 2)
            kept = made.kept(question, budget)
            assert 0.6 * budget <= setup.press.count_tokens(kept) <= budget
            ascii_of = [{one for one in text if one.isascii()} for text in (kept, question.text)]
            assert ascii_of[0] <= ascii_of[1]  # of other characters, bytes may be dropped


def test_the_example_of_the_docs_is_a_system(setup: Setup, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/peers.md").read_text(encoding="utf-8")
    written, adapter = (part.partition("```")[0] for part in page.split("```python\n")[1:])
    script = tmp_path / "shorten_worker.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(WORKERS)!r})\n{written}", encoding="utf-8")
    names: dict[str, Any] = {"__file__": str(tmp_path / "shorten.py"), "__name__": "shorten"}
    exec(adapter, names)
    names |= {"_WORKER": script, "find": lambda *_: HERE}
    made = names["SHORTEN"].make(setup, "tuned", Size(ratio=4))
    (answer,) = made.answer([ask(0, TEXT)], 3)
    made.close()
    assert 0 < answer.kept <= math.ceil(answer.tokens / 4)
    assert made.label == "shorten-x4-tuned"
    assert made.identity()["peer"] == HERE.versions
