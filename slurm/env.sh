# shellcheck shell=bash
# What Kantor needs on your cluster: edit it once, and source it on the login node before snakemake or sbatch, which hand
# the environment to the jobs. As it stands it uses the .venv of this clone, which `make .venv/installed` makes.
kantor_clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# module load python/3.12 cuda/12.8        # a Python of your site; for its MPI see slurm/README.md
export PATH="$kantor_clone/.venv/bin:$PATH"

# The network between the nodes for Ray, gloo and NCCL (`ip -brief address` names the interfaces); without it the one
# that leads to the other nodes by their names.
# export KANTOR_INTERFACE=ib0
# export NCCL_DEBUG=WARN

# Short, and on each node's own disk; Ray keeps its sockets and logs there.
# export TMPDIR=/scratch/local

unset kantor_clone
