#!/usr/bin/env bash
# Measures this host's GPUs or TPUs in at most 9 minutes; a second call continues.
#
#   bash launch/measure.sh [--out=measured.json] [--minutes=9] [--smoke]
#
# Measures a step of all methods in sizes S, B and L (ms, clips/s, MFU, memory, and how fast batches
# reach the devices); the step of transformers' VideoMAE in PyTorch, plain and compiled, if that is
# installed (tests/requirements-full.txt, with a torch for CUDA); the implementations of attention;
# and how far loss and gradients differ from the CPU's. Each row is written at once; at the end all
# are printed as one JSON. --smoke does the same with tiny sizes, in seconds, anywhere.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in --help | -h) usage && exit 0 ;; esac
backend=cpu
if compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
  backend=gpu
elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
  backend=tpu
fi
[ -x "$venv/bin/python" ] || die "there is no $venv: make it with bash launch/local.sh."
eval "$("$root/launch/xla_flags.sh" "$backend")"
export PYTHONPATH="$root"
exec "$venv/bin/python" -m tests.benchmark.measure "$@"
