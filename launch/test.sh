#!/usr/bin/env bash
# Checks format and lint, and runs the tests. Options are passed to pytest, for instance
# launch/test.sh -k parity
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment requirements-test.txt
"$PYTHON_IN_VENV" -m ruff format --check .
"$PYTHON_IN_VENV" -m ruff check .
# One process runs all tests of a file, because they share compiled steps and runs.
exec "$PYTHON_IN_VENV" -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile "$@"
