#!/usr/bin/env bash
# Starts one training job of several processes on this machine, as on several hosts:
#
#     launch/local_multihost.sh 2 --config configs/demo.py --workdir=runs/x
#
# The first argument is the number of processes. The other arguments are passed to the program.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment requirements.txt
exec "$PYTHON_IN_VENV" -m apinet_jax job "$@"
