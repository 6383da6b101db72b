#!/usr/bin/env bash
# ray_train.sh NODES CPUS kantor train ...: a training on a Ray cluster over NODES nodes of this SLURM job, with CPUS CPUs
# of each; its exit status is the training's (75: stopped with a checkpoint; the same command goes on).
set -euo pipefail
nodes=$1 cpus=$2
shift 2
# The first node ends last and looks after the others, so that SLURM need not kill them.
exec srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="$cpus" \
  --kill-on-bad-exit=0 --wait=60 kantor ray -- "$@"
