#!/usr/bin/env bash
# Pre-training (or another verb) on a TPU slice: makes it, installs, starts on all hosts, shows the
# log, and starts again after preemption until the run is done.
#
#   launch/tpu_pod.sh --name=vmae --zone=us-west4-a --type=v5litepod-256 \
#     [--version=v2-alpha-tpuv5-lite] [--project=ID] [--spot] [--delete] [--dry-run] -- \
#     pretrain --config=configs/videomae.py:b,k400 --workdir=/mnt/runs/b_k400 \
#     --config.data.train=/mnt/data/k400_train.txt
#
#   --name=NAME      of the TPU VM; one that exists is used, else a queued resource asks for it
#   --type=TYPE      such as v5litepod-256, v5p-512, v6e-256, v4-512
#   --version=NAME   its system; by default what Google's pages name for the type
#   --spot           cheaper, can be taken away at any time
#   --setup=COMMAND  run on every host before each start: mounts disks or buckets, logs in, such as
#                    --setup='mountpoint -q /mnt || sudo mount 10.0.0.2:/share /mnt'
#   --delete         deletes the slice once the run is done
#   --wait=SECONDS   between questions about a slice that is being made (default: 30)
#   --dry-run        prints the commands
#
# Needs gcloud, logged in. --workdir and data must be seen by all hosts under the same path: a
# Filestore share or a bucket mounted with gcsfuse (see --setup). The run lives on the hosts, not
# in this terminal: after Ctrl-C the same command shows its log again.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

name='' zone='' type='' version='' project='' setup=':' spot='' delete='' dry_run=''
run=()         # Verb and flags.
wait_seconds=30

parse_arguments() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --help | -h) usage && exit 0 ;;
      --name=?*) name="${1#*=}" ;;
      --zone=?*) zone="${1#*=}" ;;
      --type=?*) type="${1#*=}" ;;
      --version=?*) version="${1#*=}" ;;
      --project=?*) project="${1#*=}" ;;
      --setup=?*) setup="${1#*=}" ;;
      --wait=?*) wait_seconds="${1#*=}" ;;
      --spot) spot=yes ;;
      --delete) delete=yes ;;
      --dry-run) dry_run=yes ;;
      --) shift && run=("$@") && break ;;
      *) die "$1 is not known; write values as in --name=vmae. See launch/tpu_pod.sh --help." ;;
    esac
    shift
  done
  [ "${name:+1}${zone:+1}${type:+1}" = 111 ] ||
    die 'give --name, --zone and --type. See launch/tpu_pod.sh --help.'
  [ ${#run[@]} -gt 0 ] || die 'give a verb and its flags after --, such as -- pretrain --config=...'
  if [ -z "$version" ]; then
    case "$type" in
      v4-*) version=tpu-ubuntu2204-base ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) die "--type=$type: no system is known for it; give --version." ;;
    esac
  fi
  [ -n "$dry_run" ] || command -v gcloud >/dev/null || die 'gcloud is not on the path: install the Google Cloud CLI.'
}

# tpus GROUP VERB ARGUMENTS...: gcloud for TPUs in the zone.
tpus() {
  local command=(gcloud compute tpus "$@" --zone="$zone" ${project:+--project="$project"})
  if [ -n "$dry_run" ]; then
    printf '%q ' "${command[@]}" && printf '\n'
  else
    "${command[@]}"
  fi
}

# state: that of the slice, or NONE.
state() { tpus tpu-vm describe "$name" --format='value(state)' 2>/dev/null || printf 'NONE\n'; }

on_all() { tpus tpu-vm ssh "$name" --worker=all --batch-size=all --command="$1"; }

on_first() { tpus tpu-vm ssh "$name" --worker=0 --command="$1"; }

make_slice() {
  say "== asking for $name, $type"
  tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$version" ${spot:+--spot}
  wait_for_slice
}

wait_for_slice() {
  [ -z "$dry_run" ] || return 0
  local now
  until now="$(state)" && [ "$now" = READY ]; do
    case "$(tpus queued-resources describe "$name" --format='value(state.state)' 2>/dev/null)" in
      FAILED | SUSPENDED)
        die "the queued resource $name failed: see gcloud compute tpus queued-resources describe $name."
        ;;
    esac
    say "$name is not there yet ($now)"
    sleep "$wait_seconds"
  done
}

drop_slice() {
  say "== deleting $name"
  tpus queued-resources delete "$name" --force --quiet ||
    tpus tpu-vm delete "$name" --quiet # One that no queued resource asked for.
}

# Copies the code as it is now (what git does not ignore), so that it is the same on all hosts.
install() {
  local archive status=0
  archive="$(mktemp -d)/vmae_jax.tgz"
  say '== installing on all hosts'
  { [ -n "$dry_run" ] || pack "$archive"; } &&
    tpus tpu-vm scp "$archive" "$name:vmae_jax.tgz" --worker=all --batch-size=all &&
    on_all "mkdir -p vmae_jax && tar -xzf vmae_jax.tgz -C vmae_jax && cd vmae_jax && \
bash launch/tpu_host.sh && bash -c $(printf '%q' "$setup")" || status=$?
  rm -r "$(dirname "$archive")"
  return "$status"
}

pack() {
  git -C "$root" ls-files -co --exclude-standard -z |
    tar -C "$root" --null --ignore-failed-read -czf "$1" -T -
}

# On a host: whether the run that was started last is still there. Its number may since have gone to
# another process, if the host was started anew.
# shellcheck disable=SC2016 # Expanded there.
alive='grep -qs vmae_jax "/proc/$(cat run.pid 2>/dev/null)/cmdline"'

# Starts the run on all hosts, outside of the ssh sessions, which may break. A process of the run
# before that is still saving, and holds the chips, is waited for.
start() {
  local command ended
  command="$(printf '%q ' .venv/bin/python -m "vmae_jax.${run[0]}" --distributed "${run[@]:1}")"
  say "== starting: $command"
  command="echo \$\$ >run.pid; $command >run.log 2>&1; echo \$? >run.code"
  # shellcheck disable=SC2016
  ended="! $alive"' || timeout 300 tail --pid="$(cat run.pid)" -f /dev/null || kill -KILL -- "-$(cat run.pid)"'
  on_all "cd vmae_jax && { $ended; } && rm -f run.code run.log && \
eval \"\$(bash launch/xla_flags.sh tpu)\" && \
{ PYTHONUNBUFFERED=1 setsid nohup bash -c $(printf '%q' "$command") >/dev/null 2>&1 </dev/null & }"
}

# Shows the first host's log until its process has ended; prints its exit code.
follow() {
  # shellcheck disable=SC2016
  on_first 'cd vmae_jax && while [ ! -e run.log ]; do sleep 1; done && \
tail -n +1 --pid="$(cat run.pid)" -f run.log >&2; cat run.code'
}

running() { on_first "cd vmae_jax && [ ! -e run.code ] && $alive" >/dev/null 2>&1; }

main() {
  local code now failures=0
  if [ -n "$dry_run" ]; then
    make_slice && install && start && follow
    if [ -n "$delete" ]; then drop_slice; fi
    return
  fi
  while true; do
    now="$(state)"
    case "$now" in
      READY) ;;
      NONE) make_slice ;;
      PREEMPTED | TERMINATED | STOPPED) drop_slice && make_slice ;;
      *) wait_for_slice ;;
    esac
    code=''
    if running || { install && start; }; then
      failures=0
      code="$(follow | tail -n 1)" || code=''
    elif [ "$(state)" = READY ]; then
      failures=$((failures + 1))
      [ "$failures" -lt 3 ] ||
        die "$name could not be set up, three times in a row: see above. Once that is mended, the" \
          'same command goes on with it.'
    fi
    case "$code" in
      0) break ;;
      75) say '== saved and stopped; starting again' ;;
      '' | *[!0-9]*)
        say '== the connection is lost; looking whether the slice is still there'
        sleep "$wait_seconds"
        ;;
      *)
        die "the run ended with exit code $code, see its log above; once that is mended, the same" \
          'command goes on with it.'
        ;;
    esac
  done
  say '== done'
  if [ -n "$delete" ]; then drop_slice; fi
}

parse_arguments "$@"
main
