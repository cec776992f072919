#!/usr/bin/env bash
# Trains on a Cloud TPU VM, or on all hosts of a slice. Needs gcloud, logged in. For several hosts, add
# its key to the agent: ssh-add ~/.ssh/google_compute_engine.
#
#     launch/tpu_vm.sh [OPTIONS] train --config configs/cub.py --workdir=gs://BUCKET/runs/cub
#
# Actions:
#     train ...   creates the TPU or uses the existing one, copies the last commit, installs it,
#                 starts the program with the other arguments on every host, and follows its log.
#                 If the program is running already, only follows the log; an interrupted run is
#                 resumed. Exits with the code of the program on the first host
#     log         follows the log of the first host
#     stop        asks the program to save its state and exit
#     delete      deletes the TPU; the contents of its disks are lost
#
# Options:
#     --dry-run           prints the commands instead of running them
#     --name=NAME         name of the TPU (apinet)
#     --zone=ZONE         its zone (gcloud's default)
#     --project=PROJECT   its project (gcloud's default)
#     --type=TYPE         accelerator type (v5litepod-8); v6e-8, v5litepod-256, ...
#     --image=VERSION     software version (v2-alpha-tpuv5-lite; for v6e: v2-alpha-tpuv6e)
#     --queued            waits in the queue until a TPU is available
#     --spot              a cheaper TPU that may be preempted
#
# A slice with more than 8 chips or cores has several hosts. It needs a --workdir that all of them can
# access: gs://BUCKET/..., or a disk that all have mounted. So does a run that should outlive the TPU,
# for instance with --spot. The TPU's service account needs permission to get the bucket and to read,
# write and delete its objects. Photos, archives and weights may be in a bucket too.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

dry_run=false name=apinet zone='' project='' type=v5litepod-8 image=v2-alpha-tpuv5-lite
queued=false spot=false
readonly FOLDER=apinet_jax # on the hosts, below the home folder
readonly POLL=30           # seconds between two queries of the queue
readonly ONE_HOST=8        # the most chips or cores (as the type counts them) of a single host

say() {
    printf '%s\n' "$*" >&2
}

fail() {
    say "error: $*"
    exit 2
}

# perform COMMAND ...: runs a command, or prints it in a dry run.
perform() {
    if "$dry_run"; then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

# tpus GROUP VERB ...: runs a gcloud command in the zone and the project.
tpus() {
    perform gcloud compute tpus "$@" ${zone:+--zone="$zone"} ${project:+--project="$project"}
}

# on WORKER COMMAND: runs a shell command on one host, or on all.
on() {
    tpus tpu-vm ssh "$name" --worker="$1" --command="$2"
}

# workdir_in ARGUMENT ...: prints the last --workdir of a command line, if any.
workdir_in() {
    local folder=''
    while [ $# -gt 0 ]; do
        case $1 in
        --workdir=* | -workdir=*) folder=${1#*=} ;;
        --workdir | -workdir) folder=${2:-} ;;
        esac
        shift
    done
    printf '%s\n' "$folder"
}

# check_workdir FOLDER: refuses a folder on the local disk of each host.
check_workdir() {
    local size=${type##*-}
    case $size in
    '' | *[!0-9]*) return ;; # the number of hosts is unknown
    esac
    [ "$size" -gt "$ONE_HOST" ] || return 0
    case $1 in
    gs://*) ;;
    /*) say "$type has several hosts: $1 must be on a disk that all of them have mounted." ;;
    *) fail "$type has several hosts, and all need access to the workdir: use a bucket, as in" \
        "--workdir=gs://BUCKET/runs/x, or a folder /... on a disk that all have mounted" ;;
    esac
}

# state_of GROUP FIELD: prints the state of the TPU or of its queue entry, if it exists.
state_of() {
    if "$dry_run"; then return; fi
    tpus "$1" describe "$name" --format="value($2)" 2>/dev/null || true
}

create() {
    local options=(--accelerator-type="$type")
    if "$spot"; then options+=(--spot); fi
    case $(state_of tpu-vm state) in
    READY)
        say "The TPU $name is ready."
        return
        ;;
    STOPPED)
        tpus tpu-vm start "$name"
        return
        ;;
    PREEMPTED | TERMINATED) delete ;; # the remains block the name
    '') ;;
    *)
        "$queued" || fail "the TPU $name is neither ready nor deleted; see gcloud compute tpus tpu-vm" \
            "describe $name. Give the same command again once it is READY"
        ;;
    esac
    if ! "$queued"; then
        tpus tpu-vm create "$name" --version="$image" "${options[@]}"
        return
    fi
    if [ -z "$(state_of queued-resources state.state)" ]; then
        tpus queued-resources create "$name" --node-id="$name" --runtime-version="$image" \
            "${options[@]}"
    fi
    local state
    until "$dry_run"; do
        state=$(state_of queued-resources state.state)
        say "$(date +%H:%M) the TPU $name is ${state:-unknown}"
        case $state in
        ACTIVE) return ;;
        FAILED | SUSPENDING | SUSPENDED)
            fail "the queue request for $name failed; to free the name, run $0 with the same options and delete"
            ;;
        esac
        sleep "$POLL"
    done
}

install() {
    local archive jax
    jax=$(sed -n 's/^jax==//p' requirements.txt)
    archive=$(mktemp -d)/apinet_jax.tar.gz
    if [ -n "$(git status --porcelain)" ]; then
        say "Uncommitted changes are not copied."
    fi
    perform git archive --format=tar.gz --output="$archive" HEAD
    tpus tpu-vm scp "$archive" "$name:$FOLDER.tar.gz" --worker=all
    # The TPU images have an older Python.
    on all "command -v python3.11 >/dev/null ||
        { sudo add-apt-repository -y ppa:deadsnakes/ppa &&
            sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq python3.11 python3.11-venv; }"
    on all "mkdir -p $FOLDER && tar -xzf $FOLDER.tar.gz -C $FOLDER && cd $FOLDER &&
        bash -ec 'source launch/environment.sh; prepare_environment requirements-gcs.txt' &&
        .venv/bin/pip install --quiet 'jax[tpu]==$jax'"
}

# The process id of a program that has ended may belong to another process by now.
readonly OURS='-F run.pid -f apinet_jax.main'

# idle: whether the program runs on none of the hosts.
idle() {
    local hosts
    if "$dry_run"; then return; fi
    hosts=$(on all "cd $FOLDER 2>/dev/null && pkill -0 $OURS 2>/dev/null && echo running ||
        echo idle") || fail "could not find out whether the program is running on the hosts of $name"
    case $hosts in
    *running*) return 1 ;;
    esac
}

# start ARGUMENT ...: starts the program on every host.
start() {
    local arguments
    arguments=$(printf ' %q' "$@")
    on all "cd $FOLDER && rm -f run.pid run.rc &&
        { nohup bash -c '\"\$@\" & echo \$! >run.pid; wait \$!; echo \$? >run.rc' - \
            .venv/bin/python -m apinet_jax.main$arguments >>run.log 2>&1 </dev/null & } &&
        until [ -s run.pid ]; do sleep 0.1; done"
}

follow() {
    on 0 "cd $FOLDER && tail -n 50 --pid=\$(cat run.pid) -F run.log; sleep 1; exit \$(cat run.rc)"
}

delete() {
    if "$queued" || [ -n "$(state_of queued-resources state.state)" ]; then
        tpus queued-resources delete "$name" --force --quiet
    else
        tpus tpu-vm delete "$name" --quiet
    fi
}

while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry_run=true ;;
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --queued) queued=true ;;
    --spot) spot=true ;;
    -h | --help)
        sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    -*) fail "unknown option '$1'; see $0 --help" ;;
    *) break ;;
    esac
    shift
done
action=${1:-}
[ $# -eq 0 ] || shift
if ! "$dry_run" && [ -n "$action" ] && ! command -v gcloud >/dev/null; then
    fail "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"
fi
case $action in
train)
    [ $# -gt 0 ] || fail "train needs a configuration, as in: $0 train --config configs/cub.py"
    check_workdir "$(workdir_in "$@")"
    create
    if idle; then
        install
        start "$@"
    else
        say "The program is already running."
    fi
    follow
    ;;
log) follow ;;
stop) on all "cd $FOLDER && pkill -TERM $OURS" ;;
delete) delete ;;
*) fail "unknown action '$action': valid are train, log, stop, delete; see $0 --help" ;;
esac
