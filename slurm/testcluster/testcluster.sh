#!/usr/bin/env bash
# A real SLURM cluster on one machine, as root: every node has its own network, hostname, processes, /tmp and /dev/shm.
set -euo pipefail

usage() {
  cat <<'TEXT'
testcluster.sh up [N]             start a cluster of N nodes (default: 2), or what of it is not running; installs SLURM once
testcluster.sh down               stop it; nothing is left but the Debian packages
testcluster.sh status             what runs; exit status 3 if there is no cluster
testcluster.sh env                shell commands for using it: eval "$(testcluster.sh env)"
testcluster.sh on NODE COMMAND    run a command on a node, past SLURM
testcluster.sh kill NODE          a power cut: every process of the node dies at once; `up` starts it again

Environment:
TESTCLUSTER       its name, of at most 9 letters and digits: several clusters can run at once (default: kantor)
TESTCLUSTER_DIR   where its files live (default: /var/tmp/testcluster-NAME)
TESTCLUSTER_CPUS  CPUs of a node (default: those of this machine, at least 2)
TESTCLUSTER_MB    memory of a node in MiB (default: 8000)
TESTCLUSTER_GPUS  fake GPUs of a node: devices that SLURM hands out and nothing can compute on (default: 2)

Exit status 77: this machine does not allow it, and why.
TEXT
}

NAME=${TESTCLUSTER:-kantor}
DIR=${TESTCLUSTER_DIR:-/var/tmp/testcluster-$NAME}
CPUS=${TESTCLUSTER_CPUS:-$(($(nproc) > 2 ? $(nproc) : 2))}
MB=${TESTCLUSTER_MB:-8000}
GPUS=${TESTCLUSTER_GPUS:-2}
CLONE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export SLURM_CONF=$DIR/etc/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

main() {
  [[ $NAME =~ ^[a-z][a-z0-9]{0,8}$ ]] || die 2 "TESTCLUSTER='$NAME': a letter, then at most 8 letters and digits"
  case ${1:-} in
    up) up "${2:-}" ;;
    down) down ;;
    status) status ;;
    env) printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" ;;
    on) on "${@:2}" ;;
    kill) power_cut "${2:?which node?}" ;;
    node) node "$2" ;; # what runs inside a node's namespaces
    *) usage >&2 && exit 2 ;;
  esac
}

die() { # EXIT_STATUS MESSAGE...
  echo "testcluster: ${*:2}" >&2
  exit "$1"
}

up() { # [NODES]
  possible
  one_at_a_time install
  local nodes=${1:-2}
  if running; then
    local has
    has=$(nodes | wc -l)
    [ "$has" = "${1:-$has}" ] || die 2 "a cluster of $has nodes runs already (cure: down first)"
    nodes=$has
  else
    down
    mkdir -p "$DIR"/{etc,log,run,spool,state,tmp,gpu}
    one_at_a_time add_network
    configure "$nodes"
    start_controller
  fi
  for i in $(seq "$nodes"); do
    alive "$(pid_of "node-$i")" || start_node "$i"
  done
  wait_for_nodes "$nodes"
  status
}

# Try what the nodes need, so that a refusal can be told from a mistake.
possible() {
  [ "$(id -u)" = 0 ] || die 77 "needs root, for namespaces and a network bridge (tried: id -u)"
  for tool in unshare nsenter setsid flock; do
    command -v $tool >/dev/null || die 77 "needs $tool, of util-linux"
  done
  local said
  said=$(unshare --net --uts --mount --pid --ipc --fork --mount-proc hostname testcluster 2>&1) ||
    die 77 "new namespaces are not allowed here (tried: unshare --net --uts --mount --pid --ipc: $said)"
}

install() {
  local wanted=()
  command -v slurmctld >/dev/null || wanted+=(slurmctld)
  command -v slurmd >/dev/null || wanted+=(slurmd)
  command -v sbatch >/dev/null || wanted+=(slurm-client)
  command -v munged >/dev/null || wanted+=(munge)
  command -v ip >/dev/null || wanted+=(iproute2)
  command -v pgrep >/dev/null || wanted+=(procps)
  [ ${#wanted[@]} = 0 ] && return
  command -v apt-get >/dev/null || die 77 "needs ${wanted[*]} and cannot install them without apt-get"
  echo "testcluster: installing ${wanted[*]}"
  local log
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "${wanted[@]}"; } &>"$log"; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die 1 "apt-get could not install ${wanted[*]}: see above"
  fi
  rm -f "$log"
}

# Clusters that start at once: apt-get would not wait for the other to read its lists, and both would find the same
# subnet free.
one_at_a_time() { # COMMAND...
  local lock
  exec {lock}</var/tmp
  flock "$lock"
  "$@" {lock}<&- # for what it starts
  exec {lock}<&-
}

add_network() {
  local subnet
  subnet=$(free_subnet)
  echo "10.77.$subnet" >"$DIR/run/network"
  ip link add "$NAME-br" type bridge
  ip addr add "10.77.$subnet.254/24" dev "$NAME-br"
  ip link set "$NAME-br" up
}

configure() { # NODES
  local network names="${NAME}[1-$1]"
  network=$(cat "$DIR/run/network")
  head -c 1024 /dev/urandom >"$DIR/etc/munge.key"
  chmod 600 "$DIR/etc/munge.key"

  echo "127.0.0.1 localhost" >"$DIR/etc/hosts"
  for i in $(seq "$1"); do echo "$network.$i $NAME$i" >>"$DIR/etc/hosts"; done

  # The limits of a job are held where cgroups of version 1 can be written; elsewhere jobs run without them.
  local track=proctrack/linuxproc task=task/none
  if enforceable; then
    track=proctrack/cgroup task=task/cgroup
    cat >"$DIR/etc/cgroup.conf" <<CONF
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainCores=$([ "$CPUS" -le "$(nproc)" ] && echo yes || echo no)
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainDevices=no
CONF
  fi

  local gres=
  if [ "$GPUS" -gt 0 ]; then
    gres="Gres=gpu:fake:$GPUS"
    for g in $(seq 0 $((GPUS - 1))); do mknod "$DIR/gpu/$g" c 1 3; done # as /dev/null
    echo "Name=gpu Type=fake File=$DIR/gpu/[0-$((GPUS - 1))]" >"$DIR/etc/gres.conf"
  fi

  cat >"$DIR/etc/slurm.conf" <<CONF
ClusterName=$NAME
SlurmctldHost=$(hostname)($network.254)
SlurmctldPort=$((16000 + ${network##*.}))
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that was put back into the queue waits until what it was started with has expired [s].
AuthInfo=socket=$DIR/run/munge.sock,cred_expire=10
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/jobs.log
JobAcctGatherType=jobacct_gather/linux
ProctrackType=$track
TaskPlugin=$task
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SlurmdParameters=config_overrides
# A job can be asked about for an hour after its end.
MinJobAge=3600
# Between the SIGTERM and the SIGKILL of a job that is ended [s].
KillWait=30
OverTimeLimit=0
# A node that stays silent this long is down, and returns by itself [s].
SlurmdTimeout=15
ReturnToService=2
JobRequeue=1
# Jobs of the partition urgent put those of main back into the queue.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$([ -z "$gres" ] || echo GresTypes=gpu)
$(for i in $(seq "$1"); do
    echo "NodeName=$NAME$i NodeAddr=$network.$i CPUs=$CPUS RealMemory=$MB $gres State=UNKNOWN"
  done)
PartitionName=main Nodes=$names Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=$names MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
  seq -f "$NAME%g" "$1" >"$DIR/run/nodes"
}

free_subnet() { # one that no interface of this machine is in
  local subnet=$(($(cksum <<<"$NAME" | cut -d' ' -f1) % 250 + 1))
  while ip -4 -o addr | grep -qF " 10.77.$subnet."; do subnet=$((subnet % 250 + 1)); done
  echo $subnet
}

enforceable() { # only version 1 has a file "tasks"
  for controller in freezer memory cpuset; do [ -w "/sys/fs/cgroup/$controller/tasks" ] || return 1; done
}

start_controller() {
  munged --force --socket="$DIR/run/munge.sock" --key-file="$DIR/etc/munge.key" --pid-file="$DIR/run/munged.pid" \
    --log-file="$DIR/log/munged.log" --seed-file="$DIR/run/munge.seed"
  slurmctld -c
}

start_node() { # NUMBER
  setsid unshare --net --uts --mount --pid --ipc --fork --kill-child --mount-proc \
    "${BASH_SOURCE[0]}" node "$1" </dev/null >"$DIR/log/node-$1.log" 2>&1 &
  echo $! >"$DIR/run/node-$1.pid"
  local init
  until init=$(init_of "$1") && [ "$(readlink "/proc/$init/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
  ip link del "$NAME-$1" 2>/dev/null || true # of the node before a power cut
  ip link add "$NAME-$1" master "$NAME-br" up type veth peer name eth0 netns "$init"
}

node() { # NUMBER: the first process of a node, in its namespaces
  hostname "$NAME$1"
  ip link set lo up
  until ip link show eth0 &>/dev/null; do sleep 0.02; done
  ip addr add "$(cat "$DIR/run/network").$1/24" dev eth0
  ip link set eth0 up
  mount --bind "$DIR/etc/hosts" /etc/hosts
  # Snakemake takes SLURM_CONF out of a job's environment.
  mount --bind "$DIR/etc" /etc/slurm
  mount -t tmpfs -o mode=1777 tmpfs /dev/shm
  local tmp=$DIR/tmp/$1
  mkdir -p "$tmp"
  chmod 1777 "$tmp"
  # A clone below /tmp stays visible.
  if [[ $CLONE == /tmp/* ]]; then
    mkdir -p "$tmp/${CLONE#/tmp/}"
    mount --bind "$CLONE" "$tmp/${CLONE#/tmp/}"
  fi
  mount --rbind "$tmp" /tmp
  mkdir -p "$DIR/spool/$NAME$1"
  slurmd -D -N "$NAME$1" &
  # The first process inherits the orphans of the node, and waiting buries them.
  while kill -0 $! 2>/dev/null; do wait $! || true; done
}

wait_for_nodes() { # NUMBER
  for _ in $(seq 300); do
    [ "$(sinfo -h -N -p main -o %T 2>/dev/null | grep -cE '^(idle|mixed|allocated)$')" = "$1" ] && listen "$1" && return
    sleep 0.1
  done
  sinfo -N >&2 || true
  tail -n 5 "$DIR"/log/*.log >&2
  down
  die 1 "the nodes did not come up in 30 s: see their logs above"
}

listen() { # NUMBER: the controller goes on calling a node idle for a while after a power cut
  local i
  for i in $(seq "$1"); do
    timeout 1 bash -c "</dev/tcp/$(cat "$DIR/run/network").$i/16818" 2>/dev/null || return
  done
}

down() {
  local file
  for file in "$DIR"/run/node-*.pid "$DIR"/run/{slurmctld,munged}.pid; do
    if [ -s "$file" ]; then end "$(cat "$file")"; fi
  done
  ip link del "$NAME-br" 2>/dev/null || true
  find /sys/fs/cgroup -depth -type d -path "*/slurm_${NAME}[0-9]*" -exec rmdir {} + 2>/dev/null || true
  rm -rf "${DIR:?}"/{etc,log,run,spool,state,tmp,gpu}
  rmdir "$DIR" 2>/dev/null || true
}

# Nothing of this cluster is kept, so nothing has to end in order; a node's processes end with its first one.
end() { # PID
  kill -KILL "$1" 2>/dev/null || true
  while alive "$1"; do sleep 0.02; done
}

status() {
  running || die 3 "no cluster '$NAME' runs (cure: $0 up)"
  echo "cluster '$NAME' in $DIR, limits of jobs $([ -e "$DIR/etc/cgroup.conf" ] && echo held by cgroups || echo not held)"
  sinfo -N -p main -o '%10N %8T %4c CPUs %6m MiB %G'
  echo "use it: $(main env)"
}

on() { # NODE COMMAND...
  local init
  init=$(init_of "${1#"$NAME"}") || die 2 "no node $1 runs"
  nsenter --target "$init" --net --uts --mount --pid --ipc -- "${@:2}"
}

power_cut() { # NODE
  local unshare
  unshare=$(pid_of "node-${1#"$NAME"}")
  alive "$unshare" || die 2 "no node $1 runs"
  end "$unshare"
}

running() { alive "$(pid_of slurmctld)"; }
nodes() { cat "$DIR/run/nodes"; }
pid_of() { cat "$DIR/run/$1.pid" 2>/dev/null || true; }
init_of() { pgrep -P "$(pid_of "node-$1")" 2>/dev/null; } # the first process of node NUMBER
alive() { [ -n "$1" ] && [ -d "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

main "$@"
