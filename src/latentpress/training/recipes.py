"""Recipes: functions by name that return everything a training depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from latentpress.lora import LoraSettings
from latentpress.training.recipe import Recipe, unusual_settings
from latentpress.training.schedules import QuotePhase, RatioPhase

__all__ = ["PIPELINES", "RECIPES", "Recipe", "unusual_settings"]


def semidynamic() -> Recipe:
    """The shipped press: the paper's method with an embedding residual, quotes as dense targets, a shallow encoder.

    Few steps of few tokens, as a CPU gives; low ratios first, until the latents are read. In one run what the press was
    trained with in four parts (docs/experiments.md).
    """
    lora = LoraSettings(rank=16, alpha=32.0, rank_stabilised=False)
    return Recipe(
        recipe="semidynamic",
        press="semidynamic-smollm2-135m",
        encoder_lora=lora,
        decoder_lora=lora,
        residual_sharpness=1.0,
        steps=5700,
        tokens_per_step=600,
        max_context_tokens=512,
        long_documents=0.05,
        long_document_tokens=4200,
        related_documents=0.7,
        quote_schedule=(
            QuotePhase(start=0.0, quotes=2),
            QuotePhase(start=0.1, quotes=1),
            QuotePhase(start=0.85, quotes=0),
        ),
        ratio_schedule=(
            RatioPhase(start=0.0, weights=(3.0, 5.0, 2.0, 0.0, 0.0)),
            RatioPhase(start=0.05, weights=(8.0, 30.0, 30.0, 24.0, 8.0)),
        ),
        learning_rate=5e-4,
        other_learning_rate=5e-4,
        log_every=20,
        eval_every=570,
        save_every=100,
        dev_records=100,
        dev_rows=16,
        dev_ratios=(4, 16),
        f1_questions=32,
    )


def semidynamic_kv() -> Recipe:
    """The selector over pooled cache entries: one adapter reads the text, makes its latents, and answers from them.

    At ratio 1, which is trained too, it is a reader of the text, window by window.
    """
    return Recipe(
        recipe="semidynamic-kv",
        press="semidynamic-kv-smollm2-135m",
        encoder_layers=None,
        encoder_lora=None,
        decoder_lora=LoraSettings(rank=12, alpha=24.0, rank_stabilised=False),
        compressor="kv-pooling",
        compressor_settings={"windows": "salient"},
        candidates=(1, 2, 4, 8, 16, 32),
        residual="none",
        steps=2000,
        tokens_per_step=700,
        max_context_tokens=512,
        multi_document=0.05,
        long_documents=0.03,
        long_document_tokens=2000,
        related_documents=0.7,
        quote_schedule=(QuotePhase(start=0.0, quotes=1), QuotePhase(start=0.6, quotes=0)),
        ratio_schedule=(
            RatioPhase(start=0.0, weights=(6.0, 6.0, 6.0, 2.0, 0.0, 0.0)),
            RatioPhase(start=0.05, weights=(8.0, 16.0, 28.0, 24.0, 16.0, 8.0)),
        ),
        learning_rate=1.5e-3,
        other_learning_rate=1e-3,
        ratio_loss=0.1,  # a head that jumps about takes the whole of a clipped step
        warmup_steps=30,
        log_every=20,
        eval_every=250,
        save_every=100,
        dev_records=100,
        dev_rows=32,
        dev_ratios=(4, 16),
        f1_questions=48,
    )


def last_tokens() -> Recipe:
    """The paper's second way of extraction: states of the last tokens. All else as in `semidynamic residual=none`.

    An embedding residual has no place beside it: no token's embedding stands for what a latent has read.
    """
    return dataclasses.replace(
        semidynamic(),
        recipe="last-tokens",
        press="last-tokens-smollm2-135m",
        compressor="last-tokens",
        residual="none",
    )


def compression_tokens() -> Recipe:
    """The paper's third way of extraction: states of learned tokens. All else as in `semidynamic residual=none`.

    `compressor_settings.embeddings=shared` has one embedding for all tokens in place of one for each.
    """
    return dataclasses.replace(
        last_tokens(),
        recipe="compression-tokens",
        press="compression-tokens-smollm2-135m",
        compressor="compression-tokens",
    )


def semidynamic_paper() -> Recipe:
    """The paper's settings (arXiv 2603.25926, authors' code): answers and summaries, no residual, all layers."""
    return Recipe(
        recipe="semidynamic-paper",
        press="semidynamic-paper-smollm2-135m",
        encoder_layers=None,
        encoder_lora=LoraSettings(rank=16, alpha=32.0, rank_stabilised=True, dropout=0.1),
        decoder_lora=LoraSettings(rank=16, alpha=16.0, rank_stabilised=True, dropout=0.1),
        converter_width=4096,
        residual="none",
        steps=100_000,
        tokens_per_step=80 * 291,  # the mean context has 291 tokens
        tokens_per_pass=4000,
        quotes=0,
        learning_rate=4e-5,
        other_learning_rate=4e-5,
        warmup_steps=100,
        schedule="constant",
        beta2=0.999,
        weight_decay=0.01,
    )


def reader() -> Recipe:
    """The bound: the same decoder and data, reading the first tokens verbatim, the whole text at ratio 1."""
    lora = LoraSettings(rank=16, alpha=32.0, rank_stabilised=False)
    return Recipe(
        recipe="reader",
        press="reader-smollm2-135m",
        compressor="first-tokens",
        policy="fixed",
        candidates=(1, 4, 8, 16),
        residual="none",
        decoder_lora=lora,
        steps=600,
        tokens_per_step=1000,
        max_context_tokens=512,
        multi_document=0.0,
        quotes=0,
        learning_rate=5e-4,
        other_learning_rate=5e-4,
        dev_rows=24,
        dev_ratios=(1, 4),
    )


def prompt_tuning() -> Recipe:
    """The bound of ComprExIT's paper: the full text read by the frozen base model with 32 learned vectors before it."""
    return dataclasses.replace(
        reader(),
        recipe="prompt-tuning",
        press="prompt-tuning-smollm2-135m",
        candidates=(1,),
        decoder_lora=None,
        prompt_vectors=32,
        learning_rate=1e-2,
        other_learning_rate=1e-2,
        dev_ratios=(1,),
        f1_ratio=1,
    )


def comprexit_ntp() -> Recipe:
    """ComprExIT's first phase: the next 128 tokens from the latents of 512, of any text; base model frozen.

    The paper (arXiv 2602.03784): a billion tokens of SlimPajama, batches of 2,048 such rows, 763 steps, learning rate
    1e-4 with a warm-up over 5% of them, clip 20. Here few steps of four rows each, as a CPU gives, at a higher rate;
    warm-up and clip are the paper's.
    """
    return Recipe(
        recipe="comprexit-ntp",
        press="comprexit-ntp-smollm2-135m",
        compressor="comprexit",
        policy="fixed",
        encoder_layers=None,
        encoder_lora=None,
        decoder_lora=None,
        residual="none",
        steps=2000,
        tokens_per_step=2000,
        max_context_tokens=512,
        multi_document=0.0,
        questions=0,
        continue_tokens=128,
        quotes=0,
        learning_rate=5e-4,
        other_learning_rate=5e-4,
        warmup_steps=100,
        clip=20.0,
        eval_every=200,
        dev_records=100,
        dev_rows=16,
        dev_ratios=(4, 16),
        f1_questions=0,
    )


def comprexit_sft() -> Recipe:
    """ComprExIT's second phase: answers, from the press of the first (`--from-press`); base model frozen.

    The paper (arXiv 2602.03784): MRQA's six training sets, batches of 512 questions, about 1,000 steps, learning rate
    1e-4. `decoder_lora.rank=16` adds an adapter to the decoder, which the paper has none of.
    """
    return dataclasses.replace(
        comprexit_ntp(),
        recipe="comprexit-sft",
        press="comprexit-smollm2-135m",
        steps=3000,
        tokens_per_step=1000,
        multi_document=0.1,
        questions=5,
        continue_tokens=0,
        warmup_steps=150,
        eval_every=300,
        f1_questions=32,
    )


def comprexit_tuned_latents() -> Recipe:
    """ComprExIT beyond the paper: its slots learn to be the latents of another press, whose decoder reads them.

    Measured in docs/experiments.md: a head that starts at random is not read for thousands of questions; one that
    starts as another's latents is read at once.
    """
    return dataclasses.replace(
        comprexit_sft(),
        recipe="comprexit-tuned-latents",
        press="comprexit-latents-smollm2-135m",
        compressor_settings={"locality": 0.5, "normalise": True},
        decoder_lora=LoraSettings(rank=16, alpha=32.0, rank_stabilised=False),
        residual="salient",
        imitate="semidynamic-smollm2-135m",
        steps=540,
        tokens_per_step=1500,
        multi_document=0.0,
        questions=1,
        quotes=0,
        other_learning_rate=2e-3,
        warmup_steps=20,
        clip=1.0,
        eval_every=270,
    )


def comprexit_tuned_sft() -> Recipe:
    """Answers and quotes, from the press of `comprexit-tuned-latents`; nearly as the shipped press was trained."""
    return dataclasses.replace(
        comprexit_tuned_latents(),
        recipe="comprexit-tuned-sft",
        press="comprexit-smollm2-135m",
        imitate="",
        steps=2100,
        tokens_per_step=600,
        multi_document=0.1,
        questions=5,
        quote_schedule=(QuotePhase(start=0.0, quotes=1), QuotePhase(start=0.7, quotes=0)),
        ratio_schedule=(RatioPhase(start=0.0, weights=(16.0, 28.0, 28.0, 20.0, 8.0)),),
        learning_rate=3e-4,
        other_learning_rate=5e-4,
        warmup_steps=40,
        eval_every=525,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "semidynamic": semidynamic,
    "semidynamic-kv": semidynamic_kv,
    "last-tokens": last_tokens,
    "compression-tokens": compression_tokens,
    "semidynamic-paper": semidynamic_paper,
    "reader": reader,
    "prompt-tuning": prompt_tuning,
    "comprexit-ntp": comprexit_ntp,
    "comprexit-sft": comprexit_sft,
    "comprexit-tuned-latents": comprexit_tuned_latents,
    "comprexit-tuned-sft": comprexit_tuned_sft,
}

PIPELINES: dict[str, tuple[str, ...]] = {
    "comprexit": ("comprexit-ntp", "comprexit-sft"),
    "comprexit-tuned": ("comprexit-tuned-latents", "comprexit-tuned-sft"),
}
"""Recipes that follow each other, each from the press of the one before; see `latentpress.training.pipeline`."""
