#!/usr/bin/env bash
# Prints the environment for a backend as lines of shell; the other scripts use it.
#
#   eval "$(launch/xla_flags.sh gpu [FLAGS OF THE VERB])"     gpu, tpu or cpu
#
# Variables that are set already stay. There is only what the makers recommend for all training:
# measure flags for one model on one machine yourself.
#
# JAX_COMPILATION_CACHE_DIR  Where compiled programs are kept, so that a second start of the same
#   command does not compile: DIR/.compiled where --workdir=DIR is among the verb's flags, else
#   ~/.cache/vmae_jax. JAX writes it in process 0 only, hence all hosts must see the folder.
#   https://docs.jax.dev/en/latest/persistent_compilation_cache.html
# gpu:
#   JAX_PLATFORMS=cuda,cpu  Computes on GPUs. A missing driver or jax[cuda13] is an error. (If there
#     is no /dev/nvidia*, JAX silently ignores cuda; --distributed checks that.)
#   --xla_gpu_enable_latency_hiding_scheduler=true  Starts sums over GPUs early and computes
#     meanwhile. In NVIDIA's JAX images: https://docs.nvidia.com/jax-toolbox/environment-variables
#     (Compiled for 8 H200 by jax 0.10.2 a step is the same program without it.)
#   XLA_PYTHON_CLIENT_MEM_FRACTION=0.9  JAX takes 90 % of a GPU's memory (its default is 75 %).
#     https://docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance
# tpu:
#   JAX_PLATFORMS=tpu,cpu  Computes on TPUs. Missing chips or a missing libtpu are an error.
# cpu:
#   TF_CPP_MIN_LOG_LEVEL=3  Hides XLA's alarm after two minutes of compiling, which asks for a bug
#     report. It is logged as an error and has no own flag; real failures raise exceptions.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

# set_default NAME VALUE: a line that sets NAME unless it is set.
set_default() {
  [ -n "${!1:-}" ] || printf 'export %s=%q\n' "$1" "$2"
}

# add_flag FLAG: a line that adds FLAG=VALUE to XLA_FLAGS unless the flag is there, however set.
add_flag() {
  case " ${XLA_FLAGS:-} " in
    *" ${1%%=*}="*) ;;
    *) printf 'export XLA_FLAGS=%q\n' "${XLA_FLAGS:+$XLA_FLAGS }$1" ;;
  esac
}

backend="${1:-}" cache="${HOME:-/tmp}/.cache/vmae_jax"
for argument in "$@"; do
  case "$argument" in
    --workdir='~/'*) cache=~/"${argument#*/}/.compiled" ;; # As the verb takes it.
    --workdir=?*) cache="${argument#*=}/.compiled" ;;
  esac
done
case "$backend" in
  --help | -h) usage && exit 0 ;;
  gpu)
    set_default JAX_PLATFORMS cuda,cpu
    add_flag --xla_gpu_enable_latency_hiding_scheduler=true
    set_default XLA_PYTHON_CLIENT_MEM_FRACTION 0.9
    ;;
  tpu) set_default JAX_PLATFORMS tpu,cpu ;;
  cpu) set_default TF_CPP_MIN_LOG_LEVEL 3 ;;
  *)
    printf 'error: give a backend: gpu, tpu or cpu. See launch/xla_flags.sh --help.\n' >&2
    exit 2
    ;;
esac
set_default JAX_COMPILATION_CACHE_DIR "$cache"
