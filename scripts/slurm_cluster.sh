#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine alone, for tests and trials: real daemons, emulated nodes of four cores and
# four pretended GPUs each. It needs root and Linux, and Slurm from Debian:
#
#   apt-get install --no-install-recommends munge slurmctld slurmd slurm-client slurm-wlm-basic-plugins
#
# usage: scripts/slurm_cluster.sh run FOLDER COMMAND…   start, run the command in it, stop; the exit code is the command's
#        scripts/slurm_cluster.sh up FOLDER             start and leave it running; then `export SLURM_CONF=FOLDER/etc/slurm.conf`
#        scripts/slurm_cluster.sh down FOLDER           stop it
#        scripts/slurm_cluster.sh check                 whether it can be had here; says why not
#
# `run` puts everything into network and process namespaces of its own: nothing of it can be reached from outside, several
# clusters may run beside each other, and whatever is left at the end is killed.
set -euo pipefail

need() {
    [ "$(id -u)" = 0 ] || { echo "it needs root"; return 1; }
    local tool
    for tool in munged slurmctld slurmd sbatch squeue scancel unshare ip; do
        command -v "$tool" >/dev/null || { echo "there is no \`$tool\`"; return 1; }
    done
    unshare --net --pid --fork --mount-proc true 2>/dev/null || { echo "namespaces cannot be made here"; return 1; }
}

configure() {
    local host; host=$(hostname -s)
    mkdir -p "$D"/{etc,run,log,state,spool}; chmod 755 "$D" "$D"/{etc,run,log,state,spool}
    (umask 077; [ -s "$D/etc/munge.key" ] || head -c 128 /dev/urandom > "$D/etc/munge.key")
    # Device files, since Slurm counts no GPU whose file is an ordinary one.
    local gpu; for gpu in 0 1 2 3; do [ -e "$D/run/gpu$gpu" ] || mknod "$D/run/gpu$gpu" c 1 3; done
    printf 'AutoDetect=off\nName=gpu Type=h100 File=%s\n' "$D/run/gpu[0-3]" > "$D/etc/gres.conf"
    cat > "$D/etc/slurm.conf" <<CONF
ClusterName=dagtest
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
MailProg=/bin/true
CommunicationParameters=NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$D/run/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd.%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$D/log/jobcomp.txt
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,defer_batch,bf_interval=5
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=15
KillWait=5
OverTimeLimit=0
JobRequeue=1
MinJobAge=3600
MaxArraySize=10001
MaxJobCount=20000
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:h100:4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

# Starts a daemon that stays in the foreground, and notes its process.
daemon() {
    local name=$1; shift
    "$@" > "$D/log/$name.out" 2>&1 &
    echo $! > "$D/run/process.$name"
}

up() {
    configure
    daemon munged munged --force --foreground --num-threads=2 --socket="$D/run/munge.sock" \
        --key-file="$D/etc/munge.key" --pid-file="$D/run/munged.pid" --log-file="$D/log/munged.log" --seed-file="$D/run/munged.seed"
    local try; for try in $(seq 200); do [ -S "$D/run/munge.sock" ] && break; sleep 0.05; done
    daemon slurmctld slurmctld -D -c
    daemon slurmd.n1 slurmd -D -N n1
    daemon slurmd.n2 slurmd -D -N n2
    for try in $(seq 200); do
        kill -0 "$(cat "$D/run/process.slurmctld")" 2>/dev/null || { tail -n 3 "$D/log/slurmctld.out" >&2; return 1; }
        [ "$(timeout 5 sinfo --noheader --Node --states=idle --format=%N 2>/dev/null | wc -l)" = 2 ] && return 0
        sleep 0.1
    done
    echo "the nodes do not come up; see $D/log" >&2
    return 1
}

down() {
    timeout 10 scancel --user=root 2>/dev/null || true
    local name process try
    for name in slurmd.n1 slurmd.n2 slurmctld munged; do
        [ -f "$D/run/process.$name" ] || continue
        process=$(cat "$D/run/process.$name")
        kill "$process" 2>/dev/null || true
        for try in $(seq 60); do kill -0 "$process" 2>/dev/null || break; sleep 0.05; done
        kill -9 "$process" 2>/dev/null || true
        rm -f "$D/run/process.$name"
    done
}

case "${1:-}" in
check) need ;;
run | inside | up | down)
    D=$(realpath -m "${2:?a folder}")
    # Munge refuses a socket whose path is long.
    [ ${#D} -le 80 ] || { echo "the path of the folder is too long: $D" >&2; exit 2; }
    export SLURM_CONF=$D/etc/slurm.conf
    case $1 in
    up) up ;;
    down) down ;;
    run)
        need >&2 || exit 3
        exec unshare --net --pid --fork --mount-proc --kill-child "$0" inside "$D" "${@:3}"
        ;;
    inside)
        # slurmctld looks for an address that is not the loopback's; this one leads nowhere.
        ip link set lo up
        ip link add v0 type veth peer name v1
        ip addr add 10.99.0.1/24 dev v0
        ip link set v0 up; ip link set v1 up
        # 3 means that there is no cluster, whatever the reason; the command has codes of its own.
        up >&2 || { down; exit 3; }
        code=0; "${@:3}" || code=$?
        down
        exit $code
        ;;
    esac
    ;;
*) sed -n '2,14p' "$0" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
