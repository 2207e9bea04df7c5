#!/usr/bin/env bash
# The demo on this machine, from nothing: makes .venv, then data, checks, pre-training,
# evaluation and a report.
#
#   launch/local.sh [--videos=FOLDER] [--workdir=DIR] [--steps=N] [--config.KEY=VALUE ...]
#
#   --videos=FOLDER     train on these videos in place of the synthetic set
#   --workdir=DIR       where everything goes (default: runs/demo); start with the same DIR to
#                       go on with a run that was stopped
#   --steps=N           length of pre-training
#   --config.KEY=VALUE  any other value of the config
#
# Needs Python 3.11 or newer, and the network on the first start only.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

videos='' workdir='runs/demo' overrides=()

parse_arguments() {
  local argument
  for argument in "$@"; do
    case "$argument" in
      --help | -h) usage && exit 0 ;;
      --videos=?*) videos="${argument#*=}" ;;
      --workdir=?*) workdir="${argument#*=}" ;;
      --steps=?*) overrides+=("--config.steps=${argument#*=}") ;;
      --config.*=*) overrides+=("$argument") ;;
      *) die "$argument is not known; write values as in --workdir=DIR. See launch/local.sh --help." ;;
    esac
  done
  if [ -n "$videos" ] && [ ! -d "$videos" ]; then die "--videos=$videos: there is no such folder."; fi
}

# verb NAME ARGUMENTS...: says what is run, and runs it.
verb() {
  local name="$1"
  shift
  printf '\n== python -m vmae_jax.%s %s\n' "$name" "$*" >&2
  PYTHONPATH="$root" "$venv/bin/python" -m "vmae_jax.$name" "$@"
}

# Paths of the user's are relative to where the script was started, the repository's own to
# $root. Older versions of bash (macOS has 3.2) take an empty array for an unset one, hence
# ${overrides[@]+"${overrides[@]}"}.
run_demo() {
  verb pretrain --config="$root/configs/videomae.py:demo" --workdir="$workdir" \
    ${overrides[@]+"${overrides[@]}"}
}

parse_arguments "$@"
ensure_venv "$root/requirements.txt"
run_demo
