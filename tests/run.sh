#!/usr/bin/env bash
# Makes .venv, installs what the tests need and runs them.
#
#   tests/run.sh [--full | --slow | --avx2] [pytest's arguments]
#
#   tests/run.sh         the short tests
#   tests/run.sh --full  and those that compare with PyTorch, TensorFlow and OpenCV, which it
#                        installs
#   tests/run.sh --slow  and those that take minutes: everything, compiled as for training (the
#                        others compile without most of XLA's optimizations where no numbers of
#                        other implementations are compared, see tests/conftest.py)
#   tests/run.sh --avx2  only comparisons with stored values of other implementations, with AVX2's
#                        instructions, as processors without AVX-512 run them
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch/common.sh"

requirements='requirements.txt' choice='not full and not slow'
case "${1:-}" in
  --full) requirements='requirements-full.txt' choice='not slow' && shift ;;
  --slow) requirements='requirements-full.txt' choice='' && export JAX_DISABLE_MOST_OPTIMIZATIONS=0 && shift ;;
  --avx2)
    choice='stored and not slow' && shift
    export JAX_DISABLE_MOST_OPTIMIZATIONS=0
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_cpu_max_isa=AVX2"
    ;;
  --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit ;;
esac

ensure_venv "$root/tests/$requirements"
cd "$root"
# One process more than there are cores, as many tests wait for other processes. A file's tests stay
# together, as they share what they have compiled, and files come in the order that
# tests/conftest.py gives them.
exec "$venv/bin/python" -m pytest -m "$choice" --dist=loadfile --no-loadscope-reorder \
  --numprocesses="$(($(getconf _NPROCESSORS_ONLN) + 1))" "$@"
