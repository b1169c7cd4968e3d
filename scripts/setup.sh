#!/usr/bin/env bash
# Makes .venv in the checkout and fetches the base model. Takes a moment when both are there; does again what was interrupted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=.venv
readonly python=$venv/bin/python
readonly stamp=$venv/.latentpress-ready           # what the environment was made from; written last
readonly unfinished=$venv/.latentpress-unfinished # there from the first moment of a new environment until its last step

say() { printf 'setup: %s\n' "$*"; }

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local candidates=(python3 python3.13 python3.12 python3.11)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  local candidate
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "needs Python 3.11 or newer, and ${candidates[0]} is $("${candidates[0]}" --version 2>&1 | head -n 1 || true);" \
    "install one, or name one: make setup PYTHON=/path/to/python3.11"
}

pip_install() { "$python" -m pip --disable-pip-version-check --no-input install "$@"; }

make_environment() {
  local torch_pin interpreter
  torch_pin=$(grep -E '^torch==' requirements.lock) || fail "requirements.lock pins no torch"
  if [ -e "$unfinished" ]; then
    say "the last set-up was interrupted; starting over"
    # The marker goes last, so that an interruption here is noticed too.
    find "$venv" -mindepth 1 -maxdepth 1 ! -name "${unfinished##*/}" -exec rm -rf {} +
  fi
  if [ ! -x "$python" ]; then
    interpreter=$(find_python)
    say "making $venv with $("$interpreter" --version 2>&1)"
    mkdir -p "$venv"
    touch "$unfinished"
    "$interpreter" -m venv "$venv"
  fi
  rm -f "$stamp"
  # torch goes first and by itself: pip then takes the build that its configuration offers (a CPU one, say) and keeps it, where
  # resolved together with the rest it may prefer the one that brings gigabytes of CUDA libraries.
  say "installing $torch_pin"
  pip_install --constraint requirements.lock "$torch_pin"
  say "installing the other requirements"
  pip_install --quiet --requirement requirements.lock
  say "installing latentpress"
  pip_install --quiet --no-deps --no-build-isolation --editable .
  rm -f "$unfinished"
  printf '%s\n' "$wanted" >"$stamp.new"
  mv "$stamp.new" "$stamp"
}

fetch_base_model() {
  "$python" - <<'PYTHON'
import sys

from latentpress.base_model import fetch_default
from latentpress.errors import BaseModelError

try:
    fetch_default(lambda line: print(f"setup: {line}", flush=True))
except BaseModelError as error:
    sys.exit(f"setup: {error}")
PYTHON
}

# Two set-ups of one checkout take turns where the system has flock.
if command -v flock >/dev/null 2>&1; then
  exec 9<scripts/setup.sh
  flock 9 || true
fi

wanted="$(cat requirements.lock pyproject.toml scripts/setup.sh | cksum) $PWD"
if [ -x "$python" ] && [ ! -e "$unfinished" ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
  :
else
  make_environment
fi
fetch_base_model
