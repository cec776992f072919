# shellcheck shell=bash
# Sourced by the other scripts in this folder. Changes to the repository's root and defines
#
#     prepare_environment FILE    creates .venv if it is missing or broken, and installs the pinned
#                                 requirements of FILE unless a stamp says that they are installed
#
# $PYTHON_IN_VENV is the interpreter of .venv. PYTHON=... names the interpreter that creates .venv.

unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit

readonly VENV=.venv
readonly PYTHON_IN_VENV="$VENV/bin/python"
readonly STAMP="$VENV/installed-requirements"
readonly OLDEST="(3, 11)"
readonly CANDIDATES="python3.12 python3.13 python3.11 python3 python3.14" # the tested ones first

say() {
    printf '%s\n' "$*" >&2
}

# suits PYTHON [MODULE ...]: whether an interpreter is recent enough and has these modules.
suits() {
    local interpreter=$1 module imports="import sys"
    shift
    for module in "$@"; do imports="$imports, $module"; done
    "$interpreter" -c "$imports; sys.exit(sys.version_info < $OLDEST)" \
        >/dev/null 2>&1 </dev/null
}

# first_that_suits [MODULE ...]: prints the first suitable interpreter with these modules, if any.
first_that_suits() {
    local interpreter
    for interpreter in ${PYTHON:-$CANDIDATES}; do
        if suits "$interpreter" "$@"; then
            printf '%s\n' "$interpreter"
            return
        fi
    done
}

find_python() {
    local interpreter
    interpreter=$(first_that_suits venv ensurepip)
    if [ -z "$interpreter" ] && [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] &&
        command -v apt-get >/dev/null; then
        say "Installing python3-venv ..."
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >&2
        interpreter=$(first_that_suits venv ensurepip)
    fi
    if [ -z "$interpreter" ]; then
        interpreter=$(first_that_suits)
        if [ -n "$interpreter" ]; then
            say "error: $interpreter cannot create a virtual environment: its venv module is missing." \
                "On Debian or Ubuntu: apt-get install python3-venv"
        else
            say "error: no Python 3.11 or newer was found (looked for: ${PYTHON:-$CANDIDATES})." \
                "Install one from your system's packages or python.org, or name one:" \
                "PYTHON=/path/to/python3.12 $0"
        fi
        exit 2
    fi
    printf '%s\n' "$interpreter"
}

# The stamp of an installation: the requested level, and a checksum of all pins.
stamp_of() {
    printf '%s %s %s\n' "$1" "$("$PYTHON_IN_VENV" -V)" "$(cat requirements*.txt | cksum)"
}

prepare_environment() {
    local wanted=$1 interpreter installed
    if suits "$PYTHON_IN_VENV"; then
        installed=$(cat "$STAMP" 2>/dev/null || true)
        # The requirements of the tests include those of the program.
        if [ "$installed" = "$(stamp_of "$wanted")" ] ||
            [ "$installed" = "$(stamp_of requirements-test.txt)" ]; then
            return
        fi
    fi
    if ! suits "$PYTHON_IN_VENV" pip; then
        interpreter=$(find_python)
        say "Creating $VENV with $("$interpreter" -V) ..."
        rm -rf "$VENV"
        "$interpreter" -m venv "$VENV"
    fi
    say "Installing $wanted into $VENV (once; about 1.4 GB) ..."
    rm -f "$STAMP"
    "$PYTHON_IN_VENV" -m pip install --disable-pip-version-check --no-input --quiet -r "$wanted"
    if [ "$wanted" = requirements-test.txt ]; then # see that file for --no-deps
        "$PYTHON_IN_VENV" -m pip install --disable-pip-version-check --no-input --quiet --no-deps \
            -r requirements-onnx.txt
    fi
    stamp_of "$wanted" >"$STAMP"
}
