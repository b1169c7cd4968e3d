#!/usr/bin/env python3
"""Packs what a machine without network needs for a plan of scripts/train_gpu.py, in parts of a few MiB.

    python scripts/pack_for_gpu.py --data-dir data --part-mib 24

Into the parcel go the files of data that the plan names, the base model (the default as its 4-bit package, a folder as
it is), and wheels of the packages that may be missing there. The checkout itself travels as it is. On the other side
train_gpu.py puts the parts together, in whatever order and however many commands they come; it checks each by its sum.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=ROOT / "configs" / "train-gpu.toml", help="TOML file")
    parser.add_argument("--parcel", type=Path, default=Path("runs/gpu-parcel"), help="folder for the parts")
    parser.add_argument("--data-dir", type=Path, default=Path(), help="folder of the data that the plan names")
    parser.add_argument("--part-mib", type=float, default=24, help="most MiB of a part")
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--present", action="append", default=[], help="package that is there, with what it needs")
    parser.add_argument("--no-wheels", action="store_true", help="all packages are there")
    parser.add_argument("--no-base", action="store_true", help="the base model is there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit code."""
    given = options(argv)
    from latentpress.errors import LatentpressError

    try:
        _pack(given)
    except LatentpressError as error:
        print(f"pack_for_gpu: error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def _pack(given: argparse.Namespace) -> None:
    from latentpress.base_model import DEFAULT_BASE, DEFAULT_REQUIREMENT, base_folder
    from scripts.gpu_recipe.packages import PRESENT, download, needed
    from scripts.gpu_recipe.parcels import MIB, pack
    from scripts.gpu_recipe.plan import base_folder_name, find_file, read_plan

    plan = read_plan(given.plan)
    files = {f"data/{name}": find_file(name, [given.data_dir]) for name in plan.files()}
    wanted = []
    if not given.no_wheels:
        wanted += needed(ROOT / "pyproject.toml", present=[*PRESENT, *given.present], python=given.python)
    if not given.no_base and plan.base == DEFAULT_BASE:
        wanted.append(DEFAULT_REQUIREMENT)
    elif not given.no_base:
        folder = base_folder(plan.base)
        place = f"base/{base_folder_name(plan.base)}"
        files |= {f"{place}/{path.name}": path for path in sorted(folder.iterdir()) if path.is_file()}
    with tempfile.TemporaryDirectory(prefix="latentpress-wheels-") as downloads:
        if wanted:
            wheels = download(wanted, Path(downloads), python=given.python)
            files |= {f"wheels/{path.name}": path for path in wheels}
        manifest = pack(files, given.parcel, int(given.part_mib * MIB))
    for item in manifest.files:
        print(f"{item.bytes / MIB:8.2f} MiB  {item.name}")
    print(f"{manifest.bytes / MIB:8.2f} MiB in {len(manifest.parts)} parts: {given.parcel}")


if __name__ == "__main__":
    sys.exit(main())
