"""A teacher on this machine: the embedded model, a Hugging Face model, or a GGUF."""

from __future__ import annotations

import asyncio
from pathlib import Path

from latentpress.attention import KeyValueCache
from latentpress.backbone import Backbone, Base, load_base, wrap_base
from latentpress.base_model import base_folder, is_gguf, read_gguf
from latentpress.decoder.generate import Sampling, embed_pieces, generate, prefill
from latentpress.decoder.prompt import render
from latentpress.decoder.reader import stop_tokens
from latentpress.errors import InputError
from latentpress.loading import resolve_device, resolve_dtype
from latentpress.paths import local_path
from latentpress.synthesis.settings import TeacherSpec
from latentpress.synthesis.teachers import Fault, Reply, Teacher


class LocalModel(Teacher):
    """Answers all requests that are waiting in one batch; a reply does not depend on what else is in it.

    Args:
        spec: model and sampling.

    Raises:
        BaseModelError: the model cannot be had, or its architecture is none that packed rows fit.
        InputError: a GGUF that is no file, or an unknown device or type.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        self._base = _load(spec)
        self._backbone = Backbone(self._base.model)
        self._stops = stop_tokens(self._base)
        self._sampling = Sampling(max_new_tokens=spec.reply_tokens, temperature=spec.temperature, seed=spec.seed)
        self._waiting: list[tuple[list[int], asyncio.Future[Reply]]] = []
        self._answering: asyncio.Task[None] | None = None

    async def reply(self, text: str) -> Reply:
        """See `Teacher.reply`."""
        pieces = render(self._base.tokenizer, [("user", [text])])
        ids = [token for piece in pieces if isinstance(piece, list) for token in piece]
        room = self._base.max_positions - self._sampling.max_new_tokens
        if len(ids) > room:
            raise Fault(
                f"the request takes {len(ids)} positions and the reply up to {self._sampling.max_new_tokens}, the "
                f"model has {self._base.max_positions}; lower --reply-tokens or --max-passage-tokens"
            )
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((ids, future))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer())
        return await future

    async def __aexit__(self, *_: object) -> None:
        """Stops in the middle of a batch, if one is under way."""
        if self._answering is not None:
            self._answering.cancel()

    async def _answer(self) -> None:
        """Answers until nobody waits."""
        await asyncio.sleep(0)  # the others that ask now come along
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self._answer_batch(batch)
            except Exception as error:  # noqa: BLE001 - whoever waits shall know of it, out of memory or a bug
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                return
            await asyncio.sleep(0)  # whoever got the last reply asks for the next one
            await asyncio.sleep(0)

    async def _answer_batch(self, batch: list[tuple[list[int], asyncio.Future[Reply]]]) -> None:
        """Gives each its reply as soon as it ends."""
        prompts = [embed_pieces(self._backbone, [ids], []) for ids, _ in batch]
        cache = KeyValueCache(len(batch))
        states = prefill(self._backbone, prompts, cache)
        tokens: list[list[int]] = [[] for _ in batch]
        for row in generate(self._backbone, states, cache, self._stops, self._sampling):
            for i, token in enumerate(row):
                if token is not None:
                    tokens[i].append(token)
                else:
                    self._give(*batch[i], tokens[i])
            await asyncio.sleep(0)  # an interruption takes effect here
        for (ids, future), mine in zip(batch, tokens, strict=True):
            self._give(ids, future, mine)

    def _give(self, prompt: list[int], future: asyncio.Future[Reply], tokens: list[int]) -> None:
        if not future.done():
            text = self._base.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            future.set_result(
                Reply(
                    text=str(text),
                    prompt_tokens=len(prompt),
                    reply_tokens=len(tokens),
                    cut_off=len(tokens) == self._sampling.max_new_tokens,
                )
            )


def _load(spec: TeacherSpec) -> Base:
    device = resolve_device(spec.device)
    dtype = resolve_dtype(spec.dtype, device)
    if spec.kind != "gguf":
        return load_base(base_folder(spec.place), id=spec.model, device=device, dtype=dtype)
    file = gguf_file(spec)
    model, tokenizer = read_gguf(file, dtype)
    return wrap_base(model, tokenizer, id=spec.model, fingerprint=f"gguf {file.stat().st_size}", device=device)


def check_model(spec: TeacherSpec) -> None:
    """Makes sure that a local teacher's files and its device are there; a model of the hub is downloaded.

    Raises:
        BaseModelError: the folder is no model, or the hub does not give it.
        InputError: a GGUF that is none, or an unknown device or type.
    """
    resolve_dtype(spec.dtype, resolve_device(spec.device))
    if spec.kind == "gguf":
        gguf_file(spec)
    else:
        base_folder(spec.place)


def gguf_file(spec: TeacherSpec) -> Path:
    """The file of a GGUF teacher.

    Raises:
        InputError: there is none, or it is of another kind.
    """
    file = local_path(spec.place, InputError, "the GGUF")
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a model in one GGUF file")
    if not is_gguf(file):
        raise InputError(f"{file} is no GGUF, which begins with these four letters; give one, or hf:FOLDER_OR_ID")
    return file
