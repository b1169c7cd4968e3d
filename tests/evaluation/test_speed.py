"""Times of systems belong together round by round, and every answer is of the same length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from handmade import sharpen_head
from tiny import config_for, make_model

from latentpress.errors import InputError, PeerError
from latentpress.evaluation import speed
from latentpress.evaluation.questions import Answer, Question
from latentpress.evaluation.speed_schema import Speed
from latentpress.evaluation.systems import Setup, Size, System, families
from latentpress.evaluation.systems.bounds import CachedText
from latentpress.evaluation.systems.presses import PressSystem
from latentpress.evaluation.systems.timed import Held, Reading, Timed, write_answer
from latentpress.press import Press

if TYPE_CHECKING:
    from latentpress.backbone import Base


@pytest.fixture(scope="module")
def press(tiny_base: Base) -> Press:
    return Press(sharpen_head(make_model(config_for(tiny_base), tiny_base)), tiny_base, None, "feed")


@pytest.fixture(scope="module")
def setup(press: Press) -> Setup:
    return Setup(press=press, readers={})


def made(setup: Setup, name: str, ratio: float | None) -> System:
    return families()[name].make(setup, "zero-shot", None if ratio is None else Size(ratio=ratio))


def test_every_system_is_timed_at_every_length_that_fits(
    setup: Setup, press: Press, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CachedText, "prompt", None)  # it times itself
    systems = [PressSystem(press, Size(ratio=4)), made(setup, "head", 8), made(setup, "bm25-sentences", 4)]
    notes: list[str] = []
    most = press.base.max_positions
    found = speed.measure(
        systems,
        made(setup, "full", None),
        press.base.tokenizer,
        most,
        cached=CachedText(setup, "zero-shot"),
        lengths=(40, 60, 10 * most),
        rounds=2,
        answer_tokens=3,
        note=notes.append,
    )
    assert sorted(found.lengths) == [40, 60]
    assert set(found.lengths[40]) == {
        "full-zero-shot",
        "full-cached-zero-shot",
        "tiny-x4",
        "head-x8-zero-shot",
        "bm25-sentences-x4-zero-shot",
    }
    assert (found.reference, found.cached) == ("full-zero-shot", "full-cached-zero-shot")
    assert found.lengths[40]["full-cached-zero-shot"].kept == 40
    for times in found.lengths[40].values():
        assert len(times.total) == 2
        assert all(0 < first < total for first, total in zip(times.first_token, times.total, strict=True))
    assert found.lengths[40]["tiny-x4"].kept == 10
    assert found.lengths[40]["head-x8-zero-shot"].kept == 5
    seeing = found.lengths[40]["bm25-sentences-x4-zero-shot"]
    assert seeing.compress is not None
    assert seeing.stored_total is None  # nothing can be kept before the question is known
    assert any(note.startswith("60 tokens, round 2") for note in notes)
    found.write(tmp_path / "speed.json")
    assert Speed.read(tmp_path / "speed.json") == found


def test_what_is_timed_reads_what_is_answered_from(setup: Setup, press: Press) -> None:
    text = speed.text_of(press.base.tokenizer, 50)
    question = Question(id="a", dataset="a", contexts=(text,), question="Who is there?", answers=("b",))
    for system in (PressSystem(press, Size(ratio=2)), made(setup, "head", 4), made(setup, "none", None)):
        assert isinstance(system, Timed)
        _, tokens = write_answer(*system.prompt(system.hold(question), question), 6)
        written = press.base.tokenizer.decode(tokens, skip_special_tokens=True)
        assert written.startswith(system.answer([question], 6)[0].text)


class Far(System):
    """Answers in another process, by its clock."""

    name, size, reader, kind, sees_question = "far", None, "own", "peer", False

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps

    def identity(self) -> dict[str, Any]:
        return {}

    def answer(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        raise NotImplementedError


class Timing(Far):
    def timed_hold(self, question: Question) -> Held:
        self.steps.append("hold")
        return Held(len(self.steps), 7, 20.0)

    def timed_read(self, held: Held, question: Question, tokens: int) -> Reading:
        self.steps.append(f"read {tokens} from {held.what}")
        return Reading(3.0, 5.0)


def measured(setup: Setup, system: System, rounds: int) -> Speed:
    base = setup.press.base
    reference = made(setup, "full", None)
    return speed.measure(
        [system], reference, base.tokenizer, base.max_positions, lengths=(40,), rounds=rounds, answer_tokens=4
    )


def test_a_system_that_times_itself_takes_its_turn_and_its_times_are_as_it_says(setup: Setup) -> None:
    system = Timing([])
    found = measured(setup, system, rounds=2)
    times = found.lengths[40]["far"]
    assert times.kept == 7
    assert times.compress == (20.0, 20.0)
    assert (times.first_token, times.total) == ((23.0, 23.0), (25.0, 25.0))
    assert (times.stored_first_token, times.stored_total) == ((3.0, 3.0), (5.0, 5.0))
    assert system.steps[:2] == ["hold", "read 2 from 1"]  # warm
    # The second round runs the other way about; what was kept first is what is read from store.
    assert system.steps[2:8] == ["hold", "read 4 from 3", "read 4 from 1", "read 4 from 1", "hold", "read 4 from 7"]


def test_a_system_that_cannot_be_timed_is_named_with_the_reason(setup: Setup) -> None:
    class Dying(Timing):
        def timed_hold(self, question: Question) -> Held:
            raise PeerError("the process of the peer far ended")

    assert measured(setup, Far([]), rounds=1).left_out == {40: {"far": "it does not say how its parts are timed"}}
    found = measured(setup, Dying([]), rounds=1)
    assert found.left_out == {40: {"far": "the process of the peer far ended"}}
    assert set(found.lengths[40]) == {"full-zero-shot"}


def test_no_length_that_fits_is_an_error(setup: Setup, press: Press) -> None:
    with pytest.raises(InputError, match=r"no text of 900 tokens and its answer fit the 100 positions"):
        speed.measure([], made(setup, "full", None), press.base.tokenizer, 100, lengths=(900, 2000))


def test_an_answer_never_ends_early(press: Press) -> None:
    embedded = press.prompt("A fox is there.", "Who?")
    with torch.no_grad():
        first, tokens = write_answer(press.model.decoder, embedded, 9)
    assert len(tokens) == 9
    assert first > 0


@pytest.mark.parametrize("tokens", [1, 17, 333])
def test_texts_have_exactly_the_tokens_asked_for(press: Press, tokens: int) -> None:
    assert press.count_tokens(speed.text_of(press.base.tokenizer, tokens)) == tokens
