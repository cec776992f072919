#!/usr/bin/env bash
# The demo: draws a data set of birds, trains API-Net on it, and writes runs/demo/report.html, whose
# address is printed at the end. Options are passed to the program, for instance
# launch/demo.sh --config.seed=1 --workdir=runs/demo1
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment requirements.txt
exec "$PYTHON_IN_VENV" -m apinet_jax.main --config configs/demo.py --report "$@"
