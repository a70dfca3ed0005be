#!/usr/bin/env bash
# A comparison as a SLURM job array: each task is a shard, and all share one folder.
#
#   sbatch --array=1-8 scripts/slurm_compare.sh configs/polymnist.py:paper_b,configs/polymnist.py:mopoe 0,1,2
#
# A task that is lost is queued again and resumes from its runs' newest checkpoints; the others take
# over what it had not begun. WORKDIR must be on a file system with locks that all nodes see.
#SBATCH --job-name=mmebm-compare
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%A_%a.log
set -euo pipefail
configs=${1:?"give config files, divided by commas"}
seeds=${2:-0}
workdir=${WORKDIR:-runs/compare}
exec srun .venv/bin/python -m experiments.compare \
  --shard="${SLURM_ARRAY_TASK_ID:?"start me with sbatch --array=1-N"}/${SLURM_ARRAY_TASK_COUNT}" \
  --configs="$configs" --seeds="$seeds" --workdir="$workdir" --compilation_cache="$workdir/.compiled"
