#!/usr/bin/env python3
"""Puts together the files of a parcel, such as what train_gpu.py --collect brought back, and checks their sums.

    python scripts/unpack_parts.py PARCEL --into runs/from-gpu

Exit codes: 0 all files are there, 4 parts are missing (those that have come are kept), 2 one is damaged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "src", ROOT):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parcel", type=Path, help="folder with the manifest and parts")
    parser.add_argument("--into", type=Path, required=True, help="folder for the files")
    given = parser.parse_args(argv)
    from latentpress.errors import LatentpressError
    from scripts.gpu_recipe.parcels import read_manifest, receive

    try:
        missing = receive(given.parcel, given.into)
    except LatentpressError as error:
        print(f"unpack_parts: error: {error}", file=sys.stderr, flush=True)
        return 2
    if missing:
        print(f"{', '.join(missing)} still to come")
        return 4
    print(f"{len(read_manifest(given.parcel).files)} files in {given.into}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
