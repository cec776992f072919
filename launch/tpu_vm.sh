#!/usr/bin/env bash
# Trains on a Cloud TPU VM, or on all hosts of a slice. Needs gcloud, logged in; for several hosts its
# key has to be known to the agent: ssh-add ~/.ssh/google_compute_engine.
#
#     launch/tpu_vm.sh [OPTIONS] train --config configs/cub.py --workdir=gs://BUCKET/runs/cub
#
# Actions:
#     train ...   makes the TPU or takes the one that is there, copies the last commit, installs,
#                 starts the program with the rest of the line on every host, follows its log;
#                 where it is running already, it only follows; where it was interrupted, it goes on;
#                 ends as the program on the first host does
#     log         follows the log of the first host
#     stop        asks the program to save and end
#     delete      gives the TPU back; what lies on its disks is lost
#
# Options:
#     --dry-run           prints the commands instead of running them
#     --name=NAME         name of the TPU (apinet)
#     --zone=ZONE         its zone (gcloud's default)
#     --project=PROJECT   its project (gcloud's default)
#     --type=TYPE         accelerator type (v5litepod-8); v6e-8, v5litepod-256, ...
#     --image=VERSION     software version (v2-alpha-tpuv5-lite; for v6e: v2-alpha-tpuv6e)
#     --queued            waits in the queue until there is one
#     --spot              one that may be taken away: cheaper
#
# A slice of several hosts, which is one of more than 8 chips or cores, needs a --workdir that all of
# them see: gs://BUCKET/..., or a disk that all have mounted. So does a run that is to outlive the
# TPU, --spot for instance. The TPU's service account has to be allowed to get the bucket and to read,
# write and delete its objects. Photos, archives and weights may lie in a bucket too.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

dry_run=false name=apinet zone='' project='' type=v5litepod-8 image=v2-alpha-tpuv5-lite
queued=false spot=false
readonly FOLDER=apinet_jax # on the hosts, below the home folder
readonly POLL=30           # seconds between two looks at the queue
readonly ONE_HOST=8        # chips or cores, as the type counts them, that a single host has at most

say() {
    printf '%s\n' "$*" >&2
}

fail() {
    say "error: $*"
    exit 2
}

# perform COMMAND ...: runs it, or prints it.
perform() {
    if "$dry_run"; then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

# tpus GROUP VERB ...: a command of gcloud, in the zone and the project.
tpus() {
    perform gcloud compute tpus "$@" ${zone:+--zone="$zone"} ${project:+--project="$project"}
}

# on WORKER COMMAND: a shell command on a host, or on all.
on() {
    tpus tpu-vm ssh "$name" --worker="$1" --command="$2"
}

# workdir_in ARGUMENT ...: the folder of the run that a command line names last; nothing if none.
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

# check_workdir FOLDER: refuses a folder that each host would have for itself.
check_workdir() {
    local size=${type##*-}
    case $size in
    '' | *[!0-9]*) return ;; # a type that does not end in a number says nothing of hosts
    esac
    [ "$size" -gt "$ONE_HOST" ] || return 0
    case $1 in
    gs://*) ;;
    /*) say "$type has several hosts: $1 has to be a disk that all of them have mounted." ;;
    *) fail "$type has several hosts, and all have to see the run: name a bucket, as in" \
        "--workdir=gs://BUCKET/runs/x, or a folder /... of a disk that all have mounted" ;;
    esac
}

# state_of GROUP FIELD: what gcloud says of the TPU or its place in the queue; nothing if not there.
state_of() {
    if "$dry_run"; then return; fi
    tpus "$1" describe "$name" --format="value($2)" 2>/dev/null || true
}

create() {
    local options=(--accelerator-type="$type")
    if "$spot"; then options+=(--spot); fi
    case $(state_of tpu-vm state) in
    READY)
        say "The TPU $name is there."
        return
        ;;
    STOPPED)
        tpus tpu-vm start "$name"
        return
        ;;
    PREEMPTED | TERMINATED) delete ;; # what is left of it only holds the name
    '') ;;
    *)
        "$queued" || fail "the TPU $name is neither there nor gone: gcloud compute tpus tpu-vm" \
            "describe $name; the same command goes on once it is READY"
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
            fail "the queue gave $name up; $0 with the same options and delete frees the name"
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
        say "What is not committed does not go along."
    fi
    perform git archive --format=tar.gz --output="$archive" HEAD
    tpus tpu-vm scp "$archive" "$name:$FOLDER.tar.gz" --worker=all
    # The images have an older Python.
    on all "command -v python3.11 >/dev/null ||
        { sudo add-apt-repository -y ppa:deadsnakes/ppa &&
            sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq python3.11 python3.11-venv; }"
    on all "mkdir -p $FOLDER && tar -xzf $FOLDER.tar.gz -C $FOLDER && cd $FOLDER &&
        bash -ec 'source launch/environment.sh; prepare_environment requirements-gcs.txt' &&
        .venv/bin/pip install --quiet 'jax[tpu]==$jax'"
}

# The number that is left of a program may be another's by now.
readonly OURS='-F run.pid -f apinet_jax.main'

# idle: whether the program runs on no host.
idle() {
    local hosts
    if "$dry_run"; then return; fi
    hosts=$(on all "cd $FOLDER 2>/dev/null && pkill -0 $OURS 2>/dev/null && echo running ||
        echo idle") || fail "the hosts of $name could not be asked whether the program runs there"
    case $hosts in
    *running*) return 1 ;;
    esac
}

# start ARGUMENT ...: the program on every host.
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
    -*) fail "there is no option '$1'; see $0 --help" ;;
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
        say "The program is running there."
    fi
    follow
    ;;
log) follow ;;
stop) on all "cd $FOLDER && pkill -TERM $OURS" ;;
delete) delete ;;
*) fail "'$action' is none of: train, log, stop, delete; see $0 --help" ;;
esac
