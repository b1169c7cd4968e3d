"""A recipe: every setting that a training depends on, checked."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from latentpress.checkpoints.config import BaseReference, PressConfig
from latentpress.compressors import COMPRESSORS, Shape
from latentpress.data.rows import QUOTE_CUE
from latentpress.decoder.prompt import PromptSettings
from latentpress.errors import InputError, PressError, RatioError
from latentpress.lora import LoraSettings
from latentpress.model import make_compressor
from latentpress.ratios import POLICIES, SELECTIONS, RatioPolicy
from latentpress.residual import EmbeddingResidual
from latentpress.training.schedules import QuotePhase, RatioPhase, check_starts

_LAYERS = 500  # more than a base model has: which there are is known once it is loaded
_FREE = {"free": True}  # settings that change no weight: a run may be resumed with other values
_AT_LEAST_1 = "steps tokens_per_step window_tokens converter_width log_every eval_every save_every dev_rows"
_AT_LEAST_0 = (
    "questions quotes prompt_vectors tokens_per_pass continue_tokens warmup_steps dev_records f1_questions "
    "learning_rate other_learning_rate weight_decay"
)


def unusual_settings(compressor: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A compressor's own settings without those that are the usual ones, so that equal ones compare equal."""
    usual = dataclasses.asdict(COMPRESSORS[compressor].Settings())
    return {name: value for name, value in settings.items() if name not in usual or value != usual[name]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every setting of a training.

    A run is a function of the recipe, the data, the base model and the press it starts from. Bit for bit it is so for
    the same hardware and numbers of processes and threads, which order the sums (and seed the dropout of each process).
    """

    recipe: str
    """Name of the recipe."""
    press: str
    """Name of the press that comes out."""
    seed: int = 0
    """Seed of initial weights, order of the data, draws and dropout."""
    dtype: str = "auto"
    """Type of base weights and activations, `bfloat16` or `float32`; `auto` is what is fast on the device of the run,
    which keeps it. What is trained has float32 masters."""

    compressor: str = "mean-pooling"
    """Name of the compressor."""
    compressor_settings: dict[str, Any] = field(default_factory=dict)
    """Its own settings where they are not the usual ones, one an override: `compressor_settings.segment_tokens=64`."""
    policy: str = "selector"
    """Name of the ratio policy."""
    candidates: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Ratios trained, or numbers of latents where the policy counts those, ascending; one is drawn a step."""
    rounding: str = "linear"
    """How the selector rounds: `linear` or `log`."""
    selection: str = "window"
    """What has a size of its own: each `window`, or the `document`; see `RatioPolicy`."""
    length_exponent: float = 0.0
    """How much harder the selector compresses long documents than short ones; see `RatioPolicy`."""
    encoder_layers: int | None = 12
    """Layers of the base that the encoder uses, counted from the input; all if none."""
    encoder_lora: LoraSettings | None = field(default_factory=LoraSettings)
    """Adapter of the encoder; none leaves it as the base model is."""
    decoder_lora: LoraSettings | None = field(default_factory=LoraSettings)
    """Adapter of the decoder; none leaves it as the base model is."""
    prompt_vectors: int = 0
    """Learned input embeddings before the first document of a prompt (prompt tuning)."""
    converter_width: int = 2048
    """Hidden width of the converter."""
    residual: str = "salient"
    """Embedding path beside the converter: `none`, `mean` or `salient`."""
    residual_sharpness: float = 0.7
    """How far the salience starts towards rare words: 0 weighs all alike, 1 by inverse frequency."""
    window_tokens: int = 512
    """Most tokens of an encoder window."""
    prompt: PromptSettings = field(default_factory=PromptSettings)
    """Texts around the latents."""

    steps: int = 20_000
    """Steps of the whole training; schedules follow them."""
    tokens_per_step: int = 1000
    """Context tokens of a step: rows are added until it has so many."""
    tokens_per_pass: int = field(default=0, metadata=_FREE)
    """Most context tokens of one forward and backward pass: a step of more goes through in several, for less memory,
    whose gradients add up to its own but for rounding and the draws of dropout. 0 takes each step in one."""
    max_context_tokens: int = 1300
    """Most context tokens of a row: longer plain texts are cut up, longer records with questions are left out."""
    exclude_sources: tuple[str, ...] = ()
    """Records whose source starts with one of these are left out."""
    multi_document: float = 0.1
    """Share of rows made of 2 to 4 records of one document each."""
    long_documents: float = 0.0
    """Share of rows whose text is several records' joined to one document of many windows."""
    long_document_tokens: int = 3000
    """Most context tokens of such a row, beside the blank lines between its texts; each length is drawn log-uniformly
    from `max_context_tokens` on."""
    related_documents: float = 0.0
    """Share of the long documents, if there are any, that are made of texts about like things, as the parts of a real
    document are; the others are made of any."""
    questions: int = 5
    """Most questions of a row; of a document of many windows, as many for each."""
    continue_tokens: int = 0
    """Next-token prediction, where `questions` is 0: texts are cut into passages of `max_context_tokens` with so many
    tokens behind each (at most a fifth of both) to be predicted from its latents; what is left of a text makes a
    shorter one. 0 for none."""
    quotes: int = 2
    """Passages of its text that a row is asked to continue, where `quote_schedule` says nothing else; of a document of
    many windows, as many for each."""
    quote_tokens: int = 40
    """Tokens of such a passage."""
    quote_schedule: tuple[QuotePhase, ...] = ()
    """Number of quotes by fraction of the steps, written `0:3,0.5:1`."""
    ratio_schedule: tuple[RatioPhase, ...] = ()
    """Weights of the candidates by fraction of the steps, written `0:1/1/1/0/0,0.5:1/1/1/1/1`; alike if empty."""

    learning_rate: float = 1e-3
    """Peak learning rate of the adapters, and of prompt vectors."""
    other_learning_rate: float = 1e-3
    """Peak learning rate of everything else that is trained."""
    warmup_steps: int = 30
    """Steps over which the learning rate rises from 0."""
    schedule: str = "linear"
    """`linear` (down to 10% at the last step) or `constant`, by steps."""
    beta2: float = 0.98
    """AdamW's decay of the squared gradients."""
    weight_decay: float = 0.0
    """AdamW's weight decay, of matrices only."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    distill: float = 0.0
    """Share of the loss at answers, summaries and continuations that is distillation: KL divergence from what a reader
    of the full text predicts there. 0 for none, 1 for nothing else."""
    teacher: str = ""
    """That reader: a press by name, folder or hub id that hands on text as it is (recipe `reader`); the base model as
    it is if empty."""
    teacher_cache: str = field(default="", metadata=_FREE)
    """Folder that keeps what the reader has predicted, for several trainings; the out folder's own if empty."""
    imitate: str = ""
    """A press, by name, folder or hub id, whose latents are learned in place of any target; empty for none. What it has
    beside its compressor, the decoder's adapter and the residual, is taken over and stays as it is."""
    ratio_loss: float = 1.0
    """Weight lambda of the squared error of the predicted log2 ratio."""
    clamp_labels: bool = False
    """Brings density labels of a file that the candidates cannot reach to the end of their range; otherwise they are
    refused."""

    log_every: int = field(default=20, metadata=_FREE)
    """Steps between two lines of the log."""
    eval_every: int = field(default=500, metadata=_FREE)
    """Steps between two evaluations on the dev records."""
    save_every: int = field(default=100, metadata=_FREE)
    """Steps between two checkpoints."""
    dev_records: int = 200
    """Records held back for evaluation where no dev set is given (a tenth of the data at most)."""
    dev_rows: int = field(default=48, metadata=_FREE)
    """Dev records whose loss is taken each time."""
    dev_ratios: tuple[int, ...] = field(default=(4, 8, 16), metadata=_FREE)
    """Ratios, or numbers of latents, at which it is taken, those that the policy has; all candidates if it has none."""
    f1_questions: int = field(default=64, metadata=_FREE)
    """Dev questions answered by greedy generation each time; 0 for none."""
    f1_ratio: int = field(default=4, metadata=_FREE)
    """Ratio, or number of latents, at which they are answered; `make_recipe` sees to it that the policy has it."""

    def __post_init__(self) -> None:
        options: dict[str, tuple[str, ...]] = {
            "dtype": ("auto", "bfloat16", "float32"),
            "schedule": ("linear", "constant"),
            "rounding": ("linear", "log"),
            "selection": SELECTIONS,
        }
        for name, valid in options.items():
            if getattr(self, name) not in valid:
                raise InputError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(valid)}")
        if "{question}" not in self.prompt.question:
            raise InputError(
                f"prompt.question={self.prompt.question!r} has no place for the question; write {{question}}"
            )
        self._check_names()
        self._check_numbers()
        check_starts("ratio_schedule", self.ratio_schedule)
        check_starts("quote_schedule", self.quote_schedule)
        if any(phase.quotes < 0 for phase in self.quote_schedule):
            raise InputError("quote_schedule has a phase with fewer than 0 quotes; give 0 or more")
        for phase in self.ratio_schedule:
            usable = all(math.isfinite(weight) and weight >= 0 for weight in phase.weights)
            if len(phase.weights) != len(self.candidates) or not usable or not any(phase.weights):
                shown = "/".join(f"{weight:g}" for weight in phase.weights)
                raise InputError(
                    f"ratio_schedule gives the weights {shown}; give one a candidate "
                    f"({', '.join(map(str, self.candidates))}), none below 0 and not all 0, or set "
                    "ratio_schedule= for equal weights"
                )

    def _check_names(self) -> None:
        """What would otherwise be found out after the data has been read."""
        tables: dict[str, tuple[str, ...]] = {
            "compressor": (*COMPRESSORS,),
            "policy": (*POLICIES,),
            "residual": EmbeddingResidual.KINDS,
        }
        for name, valid in tables.items():
            if getattr(self, name) not in valid:
                raise InputError(f"{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(valid)}")
        try:
            self.ratio_policy()
            config = self.press_config(BaseReference(id="", fingerprint="", width=0), {})
            with torch.device("meta"):  # no weights, and no random numbers drawn for them
                make_compressor(config, Shape(width=8, layers=_LAYERS, out=8))
        except (RatioError, PressError) as error:
            raise InputError(f"recipe {self.recipe!r}: {error}") from error

    def _check_numbers(self) -> None:
        least = (
            dict.fromkeys(_AT_LEAST_0.split(), 0) | {"clip": 0, "ratio_loss": 0} | dict.fromkeys(_AT_LEAST_1.split(), 1)
        )
        # A shorter text or quote would have no token behind the cue to train on.
        least |= {"max_context_tokens": QUOTE_CUE + 1, "quote_tokens": QUOTE_CUE + 1}
        for name, limit in least.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= limit):
                raise InputError(f"{name}={value:g} must be {limit} or more")
        for name, most in (
            ("multi_document", 1.0),
            ("long_documents", 1.0),
            ("related_documents", 1.0),
            ("beta2", 0.999999),
            ("distill", 1.0),
            ("seed", 2**32 - 1),
        ):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise InputError(f"{name}={value:g} must be between 0 and {most:.10g}")
        if self.long_documents and self.long_document_tokens < self.max_context_tokens:
            raise InputError(
                f"long_document_tokens={self.long_document_tokens} must be max_context_tokens="
                f"{self.max_context_tokens} or more"
            )
        if not self.distill and (self.teacher or self.teacher_cache):
            name, given = ("teacher", self.teacher) if self.teacher else ("teacher_cache", self.teacher_cache)
            raise InputError(f"{name}={given!r} teaches nothing at distill=0; give a share of the loss, or no {name}")
        if self.imitate and self.distill:
            raise InputError(
                f"distill={self.distill:g} has no targets beside imitate={self.imitate!r}, which learns latents alone; "
                "leave one of them out"
            )
        if self.imitate and POLICIES[self.policy].predicts:
            raise InputError(
                f"policy={self.policy!r} would not be trained beside imitate={self.imitate!r}, which learns latents "
                "alone; choose policy=fixed or policy=fixed-length"
            )
        if not math.isfinite(self.residual_sharpness):
            raise InputError(f"residual_sharpness={self.residual_sharpness:g} must be a number, for example 1")

    def quotes_at(self, step: int) -> int:
        """Quotes of a row at a step."""
        started = [phase.quotes for phase in self.quote_schedule if phase.start * self.steps <= step]
        return started[-1] if started else self.quotes

    def ratio_policy(self) -> RatioPolicy:
        """The ratio policy of the press, which draws the sizes of the steps too.

        Raises:
            RatioError: settings that cannot be.
        """
        return POLICIES[self.policy].make(
            self.candidates,
            rounding=self.rounding,
            selection=self.selection,
            length_exponent=self.length_exponent,
        )

    def ratio_weights_at(self, step: int) -> tuple[float, ...]:
        """Weight of each candidate in the draw at a step."""
        started = [phase.weights for phase in self.ratio_schedule if phase.start * self.steps <= step]
        return started[-1] if started else (1.0,) * len(self.candidates)

    def learning_rate_factor(self, step: int) -> float:
        """Share of the peak learning rate at a step, counted from 0."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warm if self.schedule == "constant" else warm * max(0.1, 1.0 - 0.9 * step / self.steps)

    def identity(self) -> dict[str, Any]:
        """Plain data of every setting that a weight depends on."""
        kept = {f.name for f in dataclasses.fields(self) if not f.metadata.get("free")}
        unusual = unusual_settings(self.compressor, self.compressor_settings)
        plain = dataclasses.asdict(self) | {"compressor_settings": unusual}
        return {name: value for name, value in plain.items() if name in kept}

    def press_config(self, base: BaseReference, trained: dict[str, Any]) -> PressConfig:
        """Settings of the press that this recipe trains."""
        return PressConfig(
            name=self.press,
            base=base,
            encoder_layers=self.encoder_layers,
            encoder_lora=self.encoder_lora,
            decoder_lora=self.decoder_lora,
            prompt_vectors=self.prompt_vectors,
            compressor=self.compressor,
            compressor_settings=self.compressor_settings,
            policy=self.policy,
            candidates=self.candidates,
            rounding=self.rounding,
            selection=self.selection,
            length_exponent=self.length_exponent,
            converter_width=self.converter_width,
            residual=self.residual,
            window_tokens=self.window_tokens,
            prompt=self.prompt,
            trained=trained,
        )
