#!/usr/bin/env bash
# Runs the commands of docs/tutorial.md from top to bottom in a new folder, with the `python` of the
# active environment. The packages are those that the page installs.
#
#     launch/tutorial.sh [FOLDER]     # ./tutorial by default
#
# PORT=... replaces the page's port 8000.
set -euo pipefail
unset CDPATH
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-tutorial}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

[ ! -e "$folder" ] || fail "$folder exists already; name a new folder"
python -c "import jax, starlette" 2>/dev/null ||
    fail "python lacks packages; install them as docs/tutorial.md says, and activate the environment"

mkdir -p -- "$folder"
# A Python block becomes the input of `python`. Whatever happens, no server is left running.
awk '
    BEGIN { print "trap '\''kill $(jobs -p) 2>/dev/null || true'\'' EXIT" }
    /^```bash$/ { inside = 1; end = ""; next }
    /^```python$/ { inside = 1; end = "END"; print "python - <<\"END\""; next }
    /^```/ { if (inside && end) print end; inside = 0; next }
    inside
' "$root/docs/tutorial.md" | sed "s/8000/${PORT:-8000}/g" >"$folder/tutorial.sh"

cd -- "$folder"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec bash -euo pipefail -v tutorial.sh
