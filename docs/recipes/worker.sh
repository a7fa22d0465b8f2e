#!/bin/sh
# One machine's workers in a run whose workers come and go. They begin it; if this machine has begun it before, they
# join it; and if nobody is there to join, machine 0 goes on from the newest checkpoint.
#
#   RUN=/shared/runs/first NODES=2 NODE=0 HEAD=host0:29400 NPROC=8 sh worker.sh TASK --elastic 1:32 [OPTION...]
#
#   RUN    the run's folder, on a disk that all machines see
#   NODES  machines that begin the run
#   NODE   the number of this one, 0 to NODES - 1; or "join" for one that only joins
#   HEAD   machine 0, and a free port of it
#   NPROC  workers of this machine
set -u

goes_on() { grep -q '"addresses": \[\[' "$RUN/members.json" 2>/dev/null; }
has_ended() { [ -e "$RUN/summary.json" ] && ! goes_on && ! grep -q '"stopped": "interrupted"' "$RUN/summary.json"; }

# SIGTERM lets this machine's workers go: pass it on, and wait until they have. SIGINT reaches them by itself.
run() {
    asked=
    "$@" &
    child=$!
    trap 'asked=yes; kill -TERM "$child"' TERM
    trap : INT
    wait "$child"
    code=$?
    while kill -0 "$child" 2>/dev/null; do
        wait "$child"
        code=$?
    done
    [ -z "$asked" ] || has_ended || exit 143 # for whoever starts this again: the run goes on
    return "$code"
}

begun="$RUN.begun.$NODE"
if [ "$NODE" != join ] && [ ! -e "$begun" ]; then
    mkdir -p "$(dirname "$RUN")" && : >"$begun"
    run adamesh train "$@" --out "$RUN" --nproc "$NPROC" --nnodes "$NODES" --node-rank "$NODE" --rdzv-endpoint "$HEAD"
    exit
fi
has_ended && exit 0
if goes_on && run adamesh join "$RUN" --nproc "$NPROC"; then
    exit 0
fi
if [ "$NODE" = 0 ]; then
    run adamesh resume "$RUN" --nproc "$NPROC"
    exit
fi
echo "worker.sh: $RUN: nobody is there to join yet; start this again" >&2
sleep 5
exit 1
