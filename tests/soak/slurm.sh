#!/usr/bin/env bash
# A Slurm of one host, made of Debian's packages (slurmctld slurmd slurm-client munge), and SlurmLauncher against it.
# Needs root. Everything lives in a directory of its own and on ports of its own, and is ended and removed at the end.
#
#   tests/soak/slurm.sh [--cancel | --walltime] [--run 'srun --kill-on-bad-exit=1 --mpi=pmi2']
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
for program in munged slurmctld slurmd sbatch; do
    command -v "$program" > /dev/null || { echo "$program is missing: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 77; }

made=$(mktemp -d -t streamrecon-slurm-XXXXXX)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2> /dev/null; done
    rm -rf "$made"
}
trap finish EXIT
wait_for() { # what, command
    for _ in $(seq 100); do "${@:2}" > /dev/null 2>&1 && return 0; sleep 0.2; done
    echo "$1 did not come up:" >&2
    tail -n 20 "$made"/*.log >&2
    exit 1
}

chmod 755 "$made"
mkdir -p "$made"/{state,spool,munge}
dd if=/dev/urandom of="$made/munge/key" bs=64 count=1 status=none
chmod 700 "$made/munge"
chmod 600 "$made/munge/key"
munged --foreground --force --key-file="$made/munge/key" --socket="$made/munge/socket" --pid-file="$made/munge/pid" \
    --log-file="$made/munge/log" --seed-file="$made/munge/seed" > "$made/munged.log" 2>&1 &
pids+=($!)
wait_for munged test -S "$made/munge/socket"

host=$(hostname -s)
cat > "$made/slurm.conf" <<CONF
ClusterName=streamrecon
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$made/munge/socket
CredType=cred/munge
StateSaveLocation=$made/state
SlurmdSpoolDir=$made/spool
SlurmctldPidFile=$made/slurmctld.pid
SlurmdPidFile=$made/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=pmi2
ReturnToService=2
FirstJobId=$((RANDOM + 1000))
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
cat > "$made/cgroup.conf" <<CONF
CgroupPlugin=cgroup/v1
CgroupAutomount=no
CONF
export SLURM_CONF=$made/slurm.conf
slurmctld -D -f "$SLURM_CONF" > "$made/slurmctld.log" 2>&1 &
pids+=($!)
slurmd -D -N "$host" -f "$SLURM_CONF" > "$made/slurmd.log" 2>&1 &
pids+=($!)
wait_for Slurm sh -c 'sinfo --noheader --format=%T | grep -q idle'
sinfo >&2
"$python" "$here/slurm_run.py" --directory "$made/run" "$@"
code=$?
[ $code = 0 ] || tail -n 30 "$made"/*.log "$made"/run/*/*.log >&2
exit $code
