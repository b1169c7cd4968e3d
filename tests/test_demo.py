"""`python -m latentpress.demo`, on a tiny random press and a short document."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.helpers import TEXT, Result, make_runner, write_tiny_press

import latentpress
from latentpress import demo
from latentpress.base_model import DEFAULT_BASE

SAMPLE = demo.Sample(
    title="A treaty",
    text=TEXT,
    questions=("Who was there?", "Where was the treaty [signed]?", "When?"),
    answers=(("the fox",), ("Paris", "in Paris"), ("the first day of May",)),
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    monkeypatch.setattr(demo, "load_sample", lambda: SAMPLE)
    runner = make_runner(monkeypatch, capsys)
    return lambda *args: runner(*args, entry=demo.main)


@pytest.fixture(scope="module")
def press(tmp_path_factory: pytest.TempPathFactory, tiny_base_folder: Path) -> Path:
    return write_tiny_press(tmp_path_factory.mktemp("presses") / "tiny", tiny_base_folder)


def test_every_question_is_answered_from_latents_and_from_the_text(run: Callable[..., Result], press: Path) -> None:
    done = run("--press", press, "--json")
    assert done.code == 0, done.err
    result, library = done.json, latentpress.load(press)
    made = library.compress(TEXT)
    assert [row["question"] for row in result["questions"]] == list(SAMPLE.questions)
    assert [row["gold"] for row in result["questions"]] == [list(gold) for gold in SAMPLE.answers]
    for row in result["questions"]:
        limit = result["max_new_tokens"]
        assert row["latents"]["answer"] == library.ask(made, row["question"], max_new_tokens=limit).strip()
        assert row["full_text"]["answer"] == library.ask_text(TEXT, row["question"], max_new_tokens=limit).strip()
    assert (result["latents"]["tokens"], result["latents"]["ratio"]) == (len(made), made.ratio)
    assert result["full_text"]["tokens"] == result["document"]["tokens"] == library.count_tokens(TEXT)
    assert [side["name"] for side in result["fixed_ratios"]] == ["latents, ratio 4", "latents, ratio 8"]
    assert [side["name"] for side in result["focused"]] == [
        "latents, chosen ratio, focus 2",
        "latents, ratio 4, focus 2",
        "latents, ratio 8, focus 2",
    ]
    assert [side["tokens"] for side in result["focused"][1:]] == [side["tokens"] for side in result["fixed_ratios"]]
    assert set(result["latents"]["seconds"]) == {"compress", "read", "first_answer", "next_answer", "total"}
    assert result["full_text"]["seconds"]["compress"] == 0
    assert "without the text" in done.err  # the explanation, out of the way of the object


def test_text_output_shows_every_question_gold_answer_and_total(run: Callable[..., Result], press: Path) -> None:
    done = run("--press", press)
    assert (done.code, done.err) == (0, "")
    for part in ("[signed]", "the fox", "Paris", "All questions", "latents, ratio 4", "latents, ratio 8", "full text"):
        assert part in done.out


def test_both_sides_are_asked_alike(run: Callable[..., Result], press: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str, int]] = []

    def ask(self: latentpress.Session, question: str, *, max_new_tokens: int) -> str:
        asked.append((self.tokens, question, max_new_tokens))
        return "It was the fox, in Paris."

    monkeypatch.setattr(latentpress.Session, "ask", ask)
    result = run("--press", press, "--json").json
    asked = asked[2:]  # the warm-up of either side
    assert len(asked) == 7 * len(SAMPLE.questions)
    assert {limit for _, _, limit in asked} == {demo._MAX_NEW_TOKENS}
    every = [asked[i : i + len(SAMPLE.questions)] for i in range(0, len(asked), len(SAMPLE.questions))]
    assert all([question for _, question, _ in own] == list(SAMPLE.questions) for own in every)
    whole = [own for own in every if len({tokens for tokens, _, _ in own}) == 1]
    assert len(whole) >= 4, "read once, before the first question"
    for side in (result["latents"], result["full_text"], *result["fixed_ratios"], *result["focused"]):
        assert side["holds_answer"] == pytest.approx(200 / 3)
        assert side["f1"] == pytest.approx(result["latents"]["f1"])
        assert side["f1"] > 0


def test_missing_base_model_is_fetched_with_a_message(
    run: Callable[..., Result], tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTPRESS_CACHE", str(tmp_path / "cache"))
    folder = write_tiny_press(tmp_path / "press", tiny_base_folder)
    text = (folder / "config.json").read_text().replace(str(tiny_base_folder), DEFAULT_BASE)
    (folder / "config.json").write_text(text)

    def fetch(progress: Callable[[str], None]) -> Path:
        progress("downloading it")
        monkeypatch.setattr("latentpress.loading.base_folder", lambda id: tiny_base_folder)
        return tiny_base_folder

    monkeypatch.setattr("latentpress.base_model.fetch_default", fetch)
    done = run("--press", folder, "--json")
    assert done.code == 0, done.err
    assert "the base model is not here yet" in done.err
    assert "downloading it" in done.err


def test_failure_is_one_message_and_exit_code_2() -> None:
    command = [sys.executable, "-m", "latentpress.demo", "--press", "no-such-press"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-such-press" in done.stderr
    assert "Traceback" not in done.stderr


def test_sample_is_several_thousand_tokens_with_at_least_eight_questions() -> None:
    sample = demo.load_sample()
    assert len(sample.text.split()) > 2500
    assert len(sample.questions) == len(sample.answers) >= 8
