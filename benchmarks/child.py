"""A measurement in a process of its own: its memory is its own, and so are the settings of its allocator.

    python -m benchmarks.child benchmarks.length:measure '{"press": ...}'

prints what the function returns as the last line of its output.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def call(target: str, **arguments: Any) -> Any:
    """Calls `module:function` with plain arguments in a new process; returns its plain result.

    Raises:
        RuntimeError: the process failed, or was killed (for its memory, as a rule).
    """
    command = [sys.executable, "-m", "benchmarks.child", target, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{target} in a process of its own ended with {done.returncode}; its messages are above")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Command line."""
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
