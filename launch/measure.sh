#!/usr/bin/env bash
# Measures this host's GPUs or TPUs in at most 9 minutes, and goes on where the last call stopped.
#
#   bash launch/measure.sh [--out=measured.json] [--minutes=9] [--smoke]
#
# A step of all methods in sizes S, B and L: ms, clips/s, MFU, memory, and how fast batches reach
# the devices; beside transformers' VideoMAE in PyTorch, plain and compiled, where that is installed
# (tests/requirements-full.txt, with a torch for CUDA); attention's implementations; loss and
# gradients beside the CPU's. Each row is written as soon as it is there; at the end all of them are
# printed as one JSON. --smoke tries the same at the size of seconds, on any machine.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

case "${1:-}" in --help | -h) usage && exit 0 ;; esac
backend=cpu
if compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
  backend=gpu
elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
  backend=tpu
fi
[ -x "$venv/bin/python" ] || die "there is no $venv: bash launch/local.sh makes it."
eval "$("$root/launch/xla_flags.sh" "$backend")"
export PYTHONPATH="$root"
exec "$venv/bin/python" -m tests.benchmark.measure "$@"
