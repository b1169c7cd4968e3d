"""The stages of a plan, one after the other, in as many commands as it takes.

OUT/
  NAME/                 the run of a stage; see `latentpress.training.checkpoint`
  judge/                the comparison; see `latentpress.evaluation.runner`
  state.json            what of each stage is done, with which settings, and how fast
  results.json          the scores, once all is done
"""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from latentpress.checkpoints.io import sha256
from latentpress.errors import TrainingError
from latentpress.files import write_whole
from latentpress.loading import press_folder
from latentpress.training.checkpoint import PRESS, alone_in, checkpoints
from latentpress.training.pipeline import Phase
from latentpress.training.pipeline import plan as phases_of
from latentpress.training.recipes import PIPELINES
from latentpress.training.run import train
from scripts.gpu_recipe import fitting, judging
from scripts.gpu_recipe.plan import Plan, Stage, find_file
from scripts.gpu_recipe.speed import Meter

STATE = "state.json"
RESULTS = "results.json"
_SHORT = 60.0  # seconds: with less left nothing is begun but what a command begins with, for all has to be loaded first
_ANY_PRESS = "semidynamic-smollm2-135m"  # stands for a press that is not there yet, while settings are checked


@dataclass(kw_only=True, slots=True)
class Work:
    """A plan at work."""

    plan: Plan
    """What is done."""
    out: Path
    """Folder of the runs."""
    places: Sequence[Path]
    """Folders in which files of data are looked for."""
    base: str
    """Base model: the default's name, or a folder."""
    deadline: float | None
    """`time.monotonic()` at which all stops; None for no limit."""
    peak: float | None
    """Of the chip, TFLOP/s; None if not known."""
    say: Callable[[str], None] = print
    """Told one line at a time."""
    state: dict[str, Any] = field(default_factory=dict)
    """By stage: `spec`, `steps` that were chosen, `step` reached, `done`, `pieces`."""
    begun: bool = False
    """Whether this command has worked on something."""

    def run(self) -> bool:
        """Goes on with the plan until it is done or time is up; returns whether it is done.

        Raises:
            LatentpressError: what cannot be done, and what to do.
        """
        with alone_in(self.out):
            path = self.out / STATE
            self.state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            for stage in self.plan.stages:
                self._check(stage)
            return all(self._trained(stage) for stage in self.plan.stages) and self._judged()

    # Stages

    def _press(self, name: str) -> Path:
        return self.out / name / PRESS

    def _phases(self, stage: Stage, *, checking: bool = False) -> tuple[Phase, ...]:
        """What `latentpress train` makes of a stage."""
        settings, start = self._settings(stage, checking=checking)
        return phases_of(
            stage.recipe,
            data=[str(file) for file in self._files(stage.data)],
            dev=None if stage.dev is None else str(self._file(stage.dev)),
            out=self.out / stage.name,
            overrides=settings,
            from_press=start,
        )

    def _settings(self, stage: Stage, *, checking: bool = False) -> tuple[list[str], str | None]:
        places = {one.name: _ANY_PRESS if checking else str(self._press(one.name)) for one in self.plan.stages}
        settings, start = stage.resolved({**places, "out": str(self.out)})
        if stage.minutes is not None and (chosen := self.state.get(stage.name, {}).get("steps")):
            settings.append(f"steps={chosen}")
        return settings, None if start is None else str(press_folder(start))

    def _file(self, name: str) -> Path:
        return find_file(name, self.places)

    def _files(self, names: Sequence[str]) -> list[Path]:
        return [self._file(name) for name in names]

    def _check(self, stage: Stage) -> None:
        """Finds what can be wrong in a later stage before the first one runs, and whether a finished one is the same.

        Raises:
            LatentpressError: a setting, file or recipe that there is not, or a stage that was done otherwise.
        """
        self._phases(stage, checking=True)
        if stage.minutes is not None and stage.recipe in PIPELINES:
            raise TrainingError(
                f"stage {stage.name} is the pipeline {stage.recipe!r}, and minutes are of one recipe; give "
                f"{', '.join(PIPELINES[stage.recipe])} a stage each, or steps among the settings"
            )
        record = self.state.get(stage.name, {})
        if record.get("done") and record["spec"] != (now := self._spec(stage)):
            differing = [name for name in now if record["spec"].get(name) != now[name]]
            raise TrainingError(
                f"stage {stage.name} is done in {self.out} with other {' and '.join(differing)}; restore the plan, or "
                "give another --out"
            )

    def _spec(self, stage: Stage) -> dict[str, Any]:
        """What the press of a stage depends on, as plain data."""
        files = [*stage.data, *(file for file in (stage.dev, stage.hold_out) if file)]
        spec = {
            "base": self.plan.base,
            "recipe": [phase.recipe.identity() for phase in self._phases(stage)],
            "data": {file: sha256(self._file(file)) for file in files},
            "from_press": stage.from_press,
        }
        return dict(json.loads(json.dumps(spec)))

    def _trained(self, stage: Stage) -> bool:
        """Trains a stage to its end or until time is up; returns whether it is done."""
        if self.state.get(stage.name, {}).get("done"):
            self.say(f"{stage.name}: done, step {self.state[stage.name]['step']:,}")
            return True
        if not self._may_begin():
            self.say(f"{stage.name}: waits for the next command")
            return False
        if stage.minutes is not None and "steps" not in self.state.get(stage.name, {}):
            self._choose_steps(stage)
            if not self._may_begin():
                return False
        phases = self._phases(stage)
        settings, start = self._settings(stage)
        meter = Meter([bool(one.recipe.imitate) for one in phases if _reached(one) < one.recipe.steps])
        before, begun = sum(map(_reached, phases)), time.monotonic()
        train(
            stage.recipe,
            data=[str(file) for file in self._files(stage.data)],
            out=self.out / stage.name,
            minutes=self._minutes_left(),
            dev=None if stage.dev is None else str(self._file(stage.dev)),
            base=self.base,
            overrides=settings,
            from_press=start,
            hold_out=None if stage.hold_out is None else str(self._file(stage.hold_out)),
            callbacks=[meter],
        )
        record = self.state.setdefault(stage.name, {})
        steps, wanted = sum(map(_reached, phases)), sum(phase.recipe.steps for phase in phases)
        pace = meter.pace()
        piece = {"from": before, "to": steps, "seconds": time.monotonic() - begun, "pace": pace and asdict(pace)}
        record["pieces"] = [*record.get("pieces", []), piece]
        record |= {"spec": self._spec(stage), "step": steps, "done": steps >= wanted}
        self._save()
        speed = f", {pace.line(self.peak)}" if pace else ""
        self.say(f"{stage.name}: step {steps:,} of {wanted:,}{speed}")
        _free()
        return bool(record["done"])

    def _choose_steps(self, stage: Stage) -> None:
        """Measures what a step takes, and chooses as many as the minutes of a stage are enough for."""
        assert stage.minutes is not None
        settings, start = self._settings(stage)
        (phase,) = self._phases(stage)
        cost = fitting.measure(
            stage.recipe,
            settings,
            data=self._files(stage.data),
            folder=self.out / "probe",
            base=self.base,
            from_press=start,
            imitates=bool(phase.recipe.imitate),
        )
        steps = cost.steps(stage.minutes)
        self.state.setdefault(stage.name, {}).update(steps=steps, cost=asdict(cost))
        self._save()
        self.say(
            f"{stage.name}: {steps:,} steps for {stage.minutes:g} minutes, at {cost.first:.3g} s a step in the first "
            f"pass over the data ({cost.epoch:,} steps) and {cost.later:.3g} s later"
        )
        _free()

    # Judging

    def _judged(self) -> bool:
        """Judges the presses, or goes on with that; returns whether it is done."""
        wanted = self.plan.judge
        if wanted is None:
            write_whole(self.out / RESULTS, self._results({}))
            return True
        presses = {stage.name: self._press(stage.name) for stage in self.plan.stages}
        asked = repr((wanted, [sha256(press / "config.json") for press in presses.values()]))
        key = hashlib.sha256(asked.encode()).hexdigest()[:16]
        record = self.state.get("judge", {})
        if record.get("key") == key:
            self.say("judge: done")
            return True
        if not self._may_begin():
            self.say("judge: waits for the next command")
            return False
        found = judging.judge(
            wanted,
            presses=presses,
            find=self._file,
            base=self.base,
            out=self.out / "judge",
            deadline=self.deadline,
        )
        if found is None:
            self.say("judge: time is up, answers are kept")
            return False
        write_whole(self.out / RESULTS, self._results(found))
        self.state["judge"] = {"key": key}
        self._save()
        for line in judging.lines(found):
            self.say(f"judge: {line}")
        return True

    def _results(self, scores: dict[str, Any]) -> str:
        stages = {stage.name: self.state[stage.name] for stage in self.plan.stages}
        data = {"device": device_name(), "peak_tflops": self.peak, "stages": stages, "scores": scores}
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    # Time

    def _may_begin(self) -> bool:
        """Whether there is time for another thing; the first of a command is begun in any case."""
        may = not self.begun or self.deadline is None or self.deadline - time.monotonic() > _SHORT
        self.begun = True
        return may

    def _minutes_left(self) -> float | None:
        return None if self.deadline is None else max(1e-9, (self.deadline - time.monotonic()) / 60)

    def _save(self) -> None:
        write_whole(self.out / STATE, json.dumps(self.state, indent=1, ensure_ascii=False) + "\n")


def _reached(phase: Phase) -> int:
    """Step of the newest checkpoint of a phase, 0 without one."""
    found = checkpoints(phase.out)
    return found[-1][0] if found else 0


def _free() -> None:
    """Gives memory of what is done back: a trainer and its model hold each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def device_name() -> str:
    """What trainings run on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
