#!/usr/bin/env bash
# Checks format and lint, and runs the fast tests; with --slow as the first option, runs the slow
# tests instead. Other options are passed to pytest, for instance launch/test.sh -k parity
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment requirements-test.txt
if [ "${1:-}" = --slow ]; then
    shift
    set -- -m slow "$@"
else
    "$PYTHON_IN_VENV" -m ruff format --check .
    "$PYTHON_IN_VENV" -m ruff check .
fi
# One process runs all tests of a file, because they share compiled steps and runs. The files that
# take longest come first (tests/conftest.py).
exec "$PYTHON_IN_VENV" -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
    --no-loadscope-reorder "$@"
