"""Training steps with and without torch.compile, in one process.

    python -m benchmarks.compiled [--press NAME] [--steps 6] [--rounds 5] [--json FILE]

A step is the forward and backward pass of packed rows of other lengths from step to step, as in training. Compiled is
the feed-forward network of every layer of encoder and decoder, adapters and all; shapes are dynamic, so that new
lengths compile nothing anew. (Attention over packed rows goes through lists of sequences, which PyTorch would trace
anew for every row.) The first pass over all rows compiles and is timed apart. What is reported is the ratio of the time
of all rows to that without compiling, round by round, the seconds to compile and how many steps repay them, and how far
the losses are apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import latentpress
from benchmarks.documents import nearest_ratio
from benchmarks.training import PACKED, examples_of, step
from latentpress.compressors import Ratio
from latentpress.data.rows import Example
from latentpress.evaluation.origin import processor
from latentpress.evaluation.timing import interleave
from latentpress.files import write_whole
from latentpress.press import Press
from latentpress.training.memory import keep_freed_memory

PLAIN, COMPILED = "plain", "compiled"


def compile_networks(press: Press, backend: str = "inductor") -> int:
    """Has every feed-forward network compiled when it is first called; returns their number."""
    networks = [layer.mlp for backbone in press.model.trees().values() for layer in backbone.body.layers]
    for network in networks:
        network.compile(dynamic=True, backend=backend)
    return len(networks)


def rows_of(press: Press, count: int) -> list[list[Example]]:
    """Steps of one to three contexts with up to five questions each."""
    examples = examples_of(press, 2 * count)
    steps, at = [], 0
    for place in range(count):
        steps.append(examples[at : at + 1 + place % 3])
        at += 1 + place % 3
    return steps


def measure(name: str, *, steps: int, rounds: int, backend: str = "inductor") -> dict[str, Any]:
    """Times the same steps of two copies of a press, one of them compiled, in turn."""
    presses = {side: latentpress.load(name, device="cpu", merge=False) for side in (PLAIN, COMPILED)}
    size = Ratio(nearest_ratio(presses[PLAIN], 4))
    rows = rows_of(presses[PLAIN], steps)
    for press in presses.values():
        press.model.train()
    networks = compile_networks(presses[COMPILED], backend)
    losses: dict[str, list[float]] = {}

    def all_steps(side: str) -> None:
        losses[side] = [step(presses[side].model, PACKED, examples, size) for examples in rows]

    all_steps(PLAIN)
    begun = time.perf_counter()
    all_steps(COMPILED)
    first = time.perf_counter() - begun
    times = interleave(
        {side: lambda side=side: all_steps(side) for side in presses},  # type: ignore[misc]
        rounds=rounds,
        warm=False,
        note=lambda line: print(f"           {line}", file=sys.stderr, flush=True),
    )
    usual = {side: times.spread(side).median for side in presses}
    compiling = first - usual[COMPILED]
    gained = (usual[PLAIN] - usual[COMPILED]) / steps
    return {
        "networks": networks,
        "steps": steps,
        "seconds": times.seconds,
        "ratio": dataclasses.asdict(times.ratio(COMPILED, PLAIN)),
        "compiling": compiling,
        "repaid_after_steps": compiling / gained if gained > 0 else None,
        "loss_difference": max(abs(a - b) for a, b in zip(losses[COMPILED], losses[PLAIN], strict=True)),
        "loss": sum(losses[PLAIN]) / steps,
    }


def told(found: dict[str, Any]) -> str:
    """What `measure` found, in lines."""
    ratio, repaid = found["ratio"], found["repaid_after_steps"]
    return (
        f"{found['networks']} feed-forward networks compiled: "
        f"{ratio['median']:.2f} of the time without ({ratio['low']:.2f} to {ratio['high']:.2f} in {ratio['runs']} "
        f"rounds of {found['steps']} steps)\n"
        f"{found['compiling']:.0f} seconds to compile, repaid after "
        f"{'no number of' if repaid is None else format(repaid, ',.0f')} steps\n"
        f"losses differ by at most {found['loss_difference']:.4f}, of {found['loss']:.3f} in the mean\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--press", default="semidynamic-kv-smollm2-135m")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    if given.steps < 1 or given.rounds < 1:
        raise SystemExit(f"--steps {given.steps} and --rounds {given.rounds} must be 1 or more")
    keep_freed_memory()
    found = measure(given.press, steps=given.steps, rounds=given.rounds)
    print(told(found), end="")
    if given.json:
        about = {"press": given.press, "processor": processor(), "torch": torch.__version__, **found}
        write_whole(given.json, json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
