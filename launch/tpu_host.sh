#!/usr/bin/env bash
# The part of tpu_pod.sh that runs on each host of a TPU slice. On a TPU VM of one host, call it
# yourself.
#
#   launch/tpu_host.sh                  installs .venv with requirements.txt, jax[tpu] and gcsfs
#   launch/tpu_host.sh start VERB ...   starts a run in the background, once the last one has ended
#   launch/tpu_host.sh running          prints whether it runs, "yes" or "no"
#   launch/tpu_host.sh follow           shows its log to its end, then prints the exit code or "gone"
#   launch/tpu_host.sh last             prints its exit code and the last lines of its log
#
# The log is run/log; those of the 20 starts before it are in run/logs. The system of TPU VMs
# (Ubuntu 22.04) has Python 3.10, which JAX no longer supports: if there is no newer one, uv is
# installed for the user and downloads one.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

# After a restart of the host another process may have its number.
alive() { grep -qs tpu_host.sh "/proc/$(cat run/pid 2>/dev/null)/cmdline"; }

install() {
  export PATH="$PATH:$HOME/.local/bin" # Where pip --user puts uv.
  if ! [ -e "$venv/bin/python" ] && ! find_python >/dev/null && ! command -v uv >/dev/null; then
    python3 -m pip install --quiet --user uv ||
      die 'neither Python 3.11 or newer nor uv, which downloads one, could be installed: see above.'
  fi
  ensure_venv "$root/requirements.txt"
  "$venv/bin/python" -m pip install --quiet 'jax[tpu]' 'gcsfs>=2025.3' ||
    die 'pip could not install jax[tpu] and gcsfs: see above.'
}

# prune ARCHIVE: removes files that came from the last archive and are not in this one.
prune() {
  mkdir -p run
  tar -tzf "$1" | sort >run/files.new
  [ ! -e run/files ] || comm -23 run/files run/files.new | xargs -rd '\n' rm -f --
  mv run/files.new run/files
}

# Waits for a process of the last run that is still saving and holds the chips.
wait_for_last() {
  ! alive || timeout 300 tail --pid="$(cat run/pid)" -f /dev/null || kill -KILL -- "-$(cat run/pid)"
}

start() {
  wait_for_last
  mkdir -p run/logs
  [ ! -e run/log ] || mv run/log "run/logs/$(date -r run/log +%Y-%m-%d_%H-%M-%S)"
  find run/logs -type f | sort | head -n -20 | xargs -rd '\n' rm
  rm -f run/code
  eval "$(bash launch/xla_flags.sh tpu "$@")"
  PYTHONUNBUFFERED=1 setsid nohup bash launch/tpu_host.sh run "$@" >/dev/null 2>&1 </dev/null &
}

run() {
  local code=0
  echo $$ >run/pid
  "$venv/bin/python" -m "vmae_jax.$1" --distributed "${@:2}" >run/log 2>&1 || code=$?
  echo "$code" >run/code
}

follow() {
  while [ ! -e run/log ]; do sleep 1; done
  tail -n +1 --pid="$(cat run/pid)" -f run/log >&2
  cat run/code 2>/dev/null || echo gone
}

last() {
  for _ in $(seq 60); do
    if [ -e run/code ] || ! alive; then break; fi
    sleep 1
  done
  printf '== %s: exit code %s\n' "$(uname -n)" "$(cat run/code 2>/dev/null || echo none)"
  tail -n 5 run/log
}

case "${1:-}" in
  --help | -h) usage ;;
  '') install ;;
  running) if [ ! -e run/code ] && alive; then echo yes; else echo no; fi ;;
  prune | wait_for_last | start | run | follow | last) "$@" ;;
  *) die "$1 is not known. See launch/tpu_host.sh --help." ;;
esac
