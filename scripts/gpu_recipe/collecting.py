"""What comes back from the machine: presses, logs and scores, as a parcel."""

from __future__ import annotations

from pathlib import Path

from latentpress.errors import InputError
from scripts.gpu_recipe.parcels import MIB, Manifest, pack
from scripts.gpu_recipe.plan import Plan

_ALONGSIDE = ("state.json", "results.json", "judge/metrics.json", "judge/report.md")


def collected(plan: Plan, out: Path) -> dict[str, Path]:
    """The files that are brought back, by name: what there is by now.

    Args:
        plan: says which presses.
        out: folder of the runs.
    """
    found = [out / name for name in _ALONGSIDE]
    for stage in plan.stages:
        run = out / stage.name
        found += sorted(path for path in run.rglob("log.jsonl"))
        if stage.collect:
            found += sorted(path for path in (run / "press").rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path for path in found if path.is_file()}


def collect(plan: Plan, out: Path, to: Path, *, part_mib: float, most_files: int, most_mib: float) -> Manifest:
    """Packs what is brought back.

    Args:
        plan: says which presses.
        out: folder of the runs.
        to: folder of the parcel.
        part_mib: most MiB of a part.
        most_files: most files of the parcel, its manifest included.
        most_mib: most MiB of all of them.

    Raises:
        InputError: there is nothing yet, or more than the limits let through.
    """
    files = collected(plan, out)
    size = sum(path.stat().st_size for path in files.values())
    room = min(most_mib, part_mib * (most_files - 1))
    if size > room * MIB:
        raise InputError(
            f"what is to be brought back has {size / MIB:.1f} MiB, and {room:g} MiB are let through; give "
            "collect = false to stages of the plan whose press is not wanted, or raise --part-mib"
        )
    return pack(files, to, int(part_mib * MIB))
