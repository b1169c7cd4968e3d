"""Time to the first token from stored latents, and to the first answer from the text, each beside the full text."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.documents import QUESTION, nearest_ratio, text_of
from benchmarks.results import Report, Result, Settings, Side
from benchmarks.work import compress_work, forward_work, logits_work
from latentpress.backbone import Backbone
from latentpress.decoder.generate import Prompt, embed_pieces, prompt_of
from latentpress.decoder.prompt import Piece, ask_messages, render, split_at_last_slot
from latentpress.evaluation.systems.timed import write_answer
from latentpress.evaluation.timing import Side as Action
from latentpress.evaluation.timing import Timings, interleave
from latentpress.latents import Latents
from latentpress.press import Press
from latentpress.tokens import tokenize

LENGTHS = (512, 2048, 7900)
ANSWER_TOKENS = 16
# Of a side's warm-up: the whole context is read, and a step of the decoder follows.
_WARM_TOKENS = 2
_TEXT, _OTHER = "full text", "full text, transformers' own pass"
# What the template and the question take beside the context, at most.
_TEMPLATE = 64


class Asker:
    """Asks one question of contexts, in prompts like those of `Press.ask`.

    Answers never end early: both sides write the same number of tokens, whatever a press was trained to say.
    """

    def __init__(self, press: Press) -> None:
        self.press = press
        self.plain = Backbone(press.base.model)
        self._tokenizer = press.base.tokenizer

    def opening(self) -> list[Piece]:
        """The prompt up to the context's place, which is its last piece."""
        return split_at_last_slot(render(self._tokenizer, ask_messages(self.press.config.prompt, 1, "?")))[0]

    def request(self) -> list[int]:
        """The question, and the template up to the answer."""
        request = self.press.config.prompt.question.format(question=QUESTION)
        return split_at_last_slot(render(self._tokenizer, ask_messages(self.press.config.prompt, 1, request)))[1]

    def text(self, text: str, tokens: int) -> dict[str, float]:
        """Reads a text with the base model as it is, then answers; returns seconds to the first token."""
        began = time.perf_counter()
        ids = list(tokenize(self._tokenizer, text).ids)
        pieces = [piece if isinstance(piece, list) else ids for piece in self.opening()]
        return self._answer(self.plain, embed_pieces(self.plain, [*pieces, self.request()], []), tokens, began)[0]

    def latents(self, latents: Latents, tokens: int, began: float) -> dict[str, float]:
        """Reads latents, then answers; returns seconds to the first token since `began`."""
        decoder = self.press.model.decoder
        return self._answer(
            decoder, prompt_of(decoder, [*self.opening(), self.request()], [latents.vectors]), tokens, began
        )[0]

    def tokens(self, latents: Latents, tokens: int) -> list[int]:
        """The answer from latents."""
        decoder = self.press.model.decoder
        return self._answer(
            decoder, prompt_of(decoder, [*self.opening(), self.request()], [latents.vectors]), tokens, 0.0
        )[1]

    def _answer(
        self, backbone: Backbone, prompt: Prompt, tokens: int, began: float
    ) -> tuple[dict[str, float], list[int]]:
        first, written = write_answer(backbone, prompt, tokens, began)
        return {"first token": first}, written

    @torch.no_grad()
    def other(self, text: str) -> None:
        """Finds the first token behind a text with transformers' own pass, to see whether ours is as fast."""
        ids = list(tokenize(self._tokenizer, text).ids)
        row = [i for piece in self.opening() for i in (piece if isinstance(piece, list) else ids)] + self.request()
        output = self.press.base.model(input_ids=torch.tensor([row]), use_cache=True, logits_to_keep=1)
        output.logits.argmax(-1)

    def least(self, settings: Settings, backbone: Backbone, context: int, answer: int) -> float:
        """Least seconds to read a context of so many positions and to write so many tokens."""
        vocabulary = self.press.base.model.config.vocab_size
        fixed = sum(len(piece) for piece in self.opening() if isinstance(piece, list)) + len(self.request())
        logits = logits_work(backbone, 1, vocabulary)
        read = forward_work(backbone, [context + fixed], causal=True) + logits
        step = forward_work(backbone, [1], causal=True, past=context + fixed) + logits
        return read.seconds(settings.machine, backbone.dtype) + (answer - 1) * step.seconds(
            settings.machine, backbone.dtype
        )

    def least_compress(self, settings: Settings, length: int, ratio: int) -> float:
        """Least seconds to compress a text of so many tokens."""
        return compress_work(self.press, [length], ratio).seconds(settings.machine, self.press.model.decoder.dtype)


def run(press: Press, settings: Settings) -> list[Report]:
    """Measures every length that fits the decoder with the question and the answer."""
    asker = Asker(press)
    answer = 4 if settings.quick else ANSWER_TOKENS
    room = press.base.max_positions - _TEMPLATE - answer
    lengths = [n for n in ((64, 128) if settings.quick else LENGTHS) if n <= room]
    ratios = sorted({nearest_ratio(press, 4), nearest_ratio(press, 16)})
    with tempfile.TemporaryDirectory() as folder:
        return [report for n in lengths for report in _length(asker, settings, n, ratios, answer, Path(folder))]


def _length(
    asker: Asker, settings: Settings, length: int, ratios: Sequence[int], answer: int, folder: Path
) -> list[Report]:
    """One length of text."""
    text = text_of(asker.press.base.tokenizer, length)
    files = {ratio: folder / f"{length}-x{ratio}.safetensors" for ratio in ratios}
    counts = {}
    for ratio, file in files.items():
        latents = asker.press.compress(text, ratio=ratio)
        counts[ratio] = len(latents)
        latents.save(file)
    rounds = 2 if settings.quick else 5 if length <= 1024 else 3
    times = interleave(
        _sides(asker, text, files, answer),
        rounds=rounds,
        seconds=40,
        at_least=min(rounds, 3),
        warm=_sides(asker, text, files, _WARM_TOKENS),
        note=lambda line: settings.note(f"{length:,} tokens, {line}"),
    )
    return _reports(asker, settings, length, counts, answer, times)


def _sides(asker: Asker, text: str, files: Mapping[int, Path], answer: int) -> dict[str, Action]:
    """What takes turns, each with an answer of so many tokens where it is timed to the end of one."""
    sides: dict[str, Action] = {_TEXT: lambda: asker.text(text, answer), _OTHER: lambda: asker.other(text)}
    for ratio, file in files.items():
        sides[f"stored x{ratio}"] = lambda file=file: _from_file(asker, file)  # type: ignore[misc]
        sides[f"pressed x{ratio}"] = lambda ratio=ratio: _from_text(asker, text, ratio, answer)  # type: ignore[misc]
    return sides


def _from_file(asker: Asker, file: Path) -> Mapping[str, float]:
    began = time.perf_counter()
    return asker.latents(Latents.load(file), 1, began)


def _from_text(asker: Asker, text: str, ratio: int, answer: int) -> Mapping[str, float]:
    began = time.perf_counter()
    return asker.latents(asker.press.compress(text, ratio=ratio), answer, began)


def _reports(
    asker: Asker, settings: Settings, length: int, counts: Mapping[int, int], answer: int, times: Timings
) -> list[Report]:
    least = _least(asker, settings, length, counts, answer)
    start = (f"{_TEXT}: first token", f"{_TEXT}, first token")
    whole = (_TEXT, f"{_TEXT}, {answer} tokens")

    def side(name: str, says: str) -> Side:
        return Side(name=f"{length:,} tokens: {says}", measured=times.spread(name), floor=least[name])

    def compare(title: str, text: tuple[str, str], press: tuple[str, str]) -> Report:
        return Result(
            name=title,
            measured=times.ratio(text[0], press[0]),
            floor=least[text[0]] / least[press[0]],
            sides=(side(*text), side(*press)),
        )

    stored = [
        compare(
            f"first token, {length:,} tokens: full text over latents stored at x{ratio}",
            start,
            (f"stored x{ratio}", f"latents stored at x{ratio}, first token"),
        )
        for ratio in counts
    ]
    pressed = [
        compare(
            f"first answer ({answer} tokens), {length:,} tokens: full text over compressing at x{ratio}",
            whole,
            (f"pressed x{ratio}", f"compressing at x{ratio}, then {answer} tokens"),
        )
        for ratio in counts
    ]
    check = Result(
        name=f"check, {length:,} tokens: full text here over transformers' own pass, first token",
        measured=times.ratio(start[0], _OTHER),
        floor=1.0,
        says="above 1 the comparisons with the full text flatter the press",
        sides=(side(_OTHER, _OTHER),),
    )
    return [*stored, *pressed, check]


def _least(asker: Asker, settings: Settings, length: int, counts: Mapping[int, int], answer: int) -> dict[str, float]:
    """Least seconds of every side, by its name."""
    decoder = asker.press.model.decoder
    first = asker.least(settings, asker.plain, length, 1)
    least = {
        f"{_TEXT}: first token": first,
        _OTHER: first,
        _TEXT: asker.least(settings, asker.plain, length, answer),
    }
    for ratio, count in counts.items():
        least[f"stored x{ratio}"] = asker.least(settings, decoder, count, 1)
        compress = asker.least_compress(settings, length, ratio)
        least[f"pressed x{ratio}"] = compress + asker.least(settings, decoder, count, answer)
    return least
