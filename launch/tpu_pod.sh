#!/usr/bin/env bash
# Pre-training (or another verb) on TPU slices: makes the slices, installs, starts on all hosts,
# shows the log, and starts again until the run is done.
#
#   launch/tpu_pod.sh --name=vmae --zone=us-west4-a --type=v5e:16x16 [OPTIONS] -- \
#     pretrain --config=configs/videomae.py:b,k400 --workdir=/mnt/runs/b_k400 \
#     --config.data.train=/mnt/data/k400_train.txt
#
#   --name=NAME      of the queued resource, which is made if it does not exist
#   --type=TYPE      a shape as for estimate, v5e:16x16 or v5p:4x4x8, or Google's name, such as
#                    v5litepod-256 (or v5e-256), v5p-256, v6e-256, v4-256
#   --slices=N       number of slices that train as one (default: 1); or --type='2*v5e:16x16'
#   --version=NAME   their system; by default the one that Google recommends for the type
#   --spot           cheaper slices, which can be taken away at any time
#   --project=ID
#   --create=FLAG    for gcloud's queued-resources create, such as --create=--reserved,
#                    --create=--internal-ips, --create=--service-account=NAME; may be repeated
#   --ssh=FLAG       for gcloud's queued-resources ssh and scp, such as --ssh=--internal-ip or
#                    --ssh=--tunnel-through-iap; may be repeated
#   --setup=COMMAND  runs on every host before each start, to mount disks or buckets or log in:
#                    --setup='mountpoint -q /mnt || sudo mount 10.0.0.2:/share /mnt'
#   --delete         deletes the slices once the run is done
#   --restarts=N     at most N restarts after failures (default: 20, or MAX_RESTARTS)
#   --wait=SECONDS   between checks of slices that are being made (default: 30)
#   --dry-run        checks the flags, prints the commands
#
# Needs gcloud, logged in. All hosts must see --workdir and the data under the same path: a gs://
# bucket that the slices' service account may write to, or a Filestore share (see --setup). The run
# does not depend on this terminal: after Ctrl-C the same command shows its log again.
#
# It is started again after preemption and exit code 75 (stopped and saved) without limit, after
# other failures at most --restarts times, and never if a host ended with 2 (a mistake in flags,
# config or data) or 130. Then the last lines of each host are shown, and the slices stay.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name='' zone='' type='' slices=1 version='' project='' setup=':' spot='' delete='' dry_run=''
restarts="${MAX_RESTARTS:-20}" wait_seconds=30
create_flags=() ssh_flags=() run=() # Verb and flags.

parse_arguments() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --help | -h) usage && exit 0 ;;
      --name=?*) name="${1#*=}" ;;
      --zone=?*) zone="${1#*=}" ;;
      --type=?*) type="${1#*=}" ;;
      --slices=?*) slices="${1#*=}" ;;
      --version=?*) version="${1#*=}" ;;
      --project=?*) project="${1#*=}" ;;
      --create=?*) create_flags+=("${1#*=}") ;;
      --ssh=?*) ssh_flags+=("${1#*=}") ;;
      --setup=?*) setup="${1#*=}" ;;
      --restarts=?*) restarts="${1#*=}" ;;
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
  parse_type
  for number in "$slices" "$restarts" "$wait_seconds"; do
    case "$number" in *[!0-9]*) die "$number is not a number." ;; esac
  done
  check_command "${run[@]}"
  [ -n "$dry_run" ] || command -v gcloud >/dev/null || die 'gcloud is not on the path: install the Google Cloud CLI.'
}

# Sets type to Google's name, and version and slices where these are not given.
parse_type() {
  local given="$type" side chips=1 shape='^(v4|v5e|v5p|v6e):[1-9][0-9]*(x[1-9][0-9]*)+$'
  case "$type" in [1-9]*'*'*) slices="${type%%\**}" type="${type#*\*}" ;; esac
  if [[ "$type" =~ $shape ]]; then
    for side in $(printf '%s' "${type#*:}" | tr x ' '); do chips=$((chips * side)); done
    case "$type" in v4* | v5p*) chips=$((chips * 2)) ;; esac # These names count cores, two a chip.
    type="${type%%:*}-$chips"
    say "--type=$given: $slices of Google's $type, in its default shape."
  fi
  case "$type" in v5e-*) type="v5litepod-${type#*-}" ;; esac
  [ -z "$version" ] || return 0
  case "$type" in
    v4-[1-9]*) version=tpu-ubuntu2204-base ;;
    v5litepod-[1-9]*) version=v2-alpha-tpuv5-lite ;;
    v5p-[1-9]*) version=v2-alpha-tpuv5 ;;
    v6e-[1-9]*) version=v2-alpha-tpuv6e ;;
    *) die "--type=$given: its system is not known; give --version." ;;
  esac
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

# describe GROUP NAME FIELD: prints it, or NONE; fails if gcloud cannot tell (network, login).
describe() {
  local errors="$temporary/errors"
  tpus "$1" describe "$2" --format="value($3)" 2>"$errors" && return
  if grep -q NOT_FOUND "$errors"; then echo NONE; else cat "$errors" >&2 && return 1; fi
}

# Prints READY if all slices are; otherwise Google's state of the queued resource or of a slice,
# LOST if a slice is missing, or NONE if there is no queued resource.
state() {
  local now node slice
  now="$(describe queued-resources "$name" state.state)" || return
  if [ "$now" = ACTIVE ]; then
    now=READY
    for ((node = 0; node < slices; node++)); do
      slice="$name"
      if [ "$slices" -gt 1 ]; then slice="$name-$node"; fi
      slice="$(describe tpu-vm "$slice" state)" || return
      case "$slice" in READY) ;; NONE) now=LOST ;; *) now="$slice" ;; esac
    done
  fi
  echo "$now"
}

on() {
  tpus queued-resources ssh "$name" --node="$1" --worker="$1" --batch-size=all \
    ${ssh_flags[@]+"${ssh_flags[@]}"} --command="$2"
}

# host NODES COMMAND: of tpu_host.sh.
host() { on "$1" "bash vmae_jax/launch/tpu_host.sh $2"; }

# yes or no; nothing if the host cannot be asked.
running() {
  on 0 '[ -e vmae_jax/launch/tpu_host.sh ] || { echo no && exit; }; bash vmae_jax/launch/tpu_host.sh running' |
    tail -n 1
}

make_slices() {
  local nodes=(--node-id="$name")
  if [ "$slices" -gt 1 ]; then nodes=(--node-count="$slices" --node-prefix="$name"); fi
  say "== asking for $name, $slices of $type"
  tpus queued-resources create "$name" "${nodes[@]}" --accelerator-type="$type" \
    --runtime-version="$version" ${spot:+--spot} ${create_flags[@]+"${create_flags[@]}"}
}

drop_slices() {
  say "== deleting $name"
  tpus queued-resources delete "$name" --force --quiet
}

# Copies the code as it is now (all files that git does not ignore) to all hosts.
install() {
  say '== installing on all hosts'
  { [ -n "$dry_run" ] || pack "$temporary/vmae_jax.tgz"; } &&
    tpus queued-resources scp "$temporary/vmae_jax.tgz" "$name:vmae_jax.tgz" --node=all --worker=all \
      --batch-size=all ${ssh_flags[@]+"${ssh_flags[@]}"} &&
    on all "mkdir -p vmae_jax && cd vmae_jax && \
{ [ ! -e launch/tpu_host.sh ] || bash launch/tpu_host.sh wait_for_last; } && \
tar -xzf ../vmae_jax.tgz && bash launch/tpu_host.sh prune ../vmae_jax.tgz && \
bash launch/tpu_host.sh && bash -c $(printf '%q' "$setup")"
}

# Leaves out files that git lists but that are deleted. COPYFILE_DISABLE: the tar of macOS would add
# files of metadata.
pack() {
  git -C "$root" ls-files -co --exclude-standard -z |
    while IFS= read -r -d '' file; do
      [ ! -e "$root/$file" ] || printf '%s\0' "$file"
    done | COPYFILE_DISABLE=1 tar -C "$root" --null -czf "$1" -T -
}

start() {
  local command
  command="$(printf ' %q' "${run[@]}")"
  say "== starting:$command"
  host all "start$command"
}

# ended CODE: handles an exit code of the first host that is not 0; returns if it shall start again.
ended() {
  local output for_good code="$1"
  if [ "$code" = 75 ]; then
    say '== saved and stopped; starting again'
    return
  fi
  output="$(host all last)" || true
  say "$output"
  for_good="$(printf '%s\n' "$output" | grep -oE '^== .*: exit code (2|130)$' | head -n 1)" || true
  if [ -n "$for_good" ]; then give_up "${for_good##* }" "a host ended with exit code ${for_good##* }"; fi
  sleep "$((2 * wait_seconds))" # Google reports a preemption after the hosts are gone.
  if [ "$(state)" != READY ]; then return; fi
  failures=$((failures + 1))
  [ "$code" != gone ] || code=1
  if [ "$failures" -gt "$restarts" ]; then give_up "$code" "failure $failures, --restarts=$restarts"; fi
  say "== failure $failures; starting again"
}

give_up() {
  say "error: $2, see above; once that is mended, the same command goes on. $name is still there, and costs."
  exit "$1"
}

main() {
  local now before='' code made='' started='' unable=0 failures=0
  if [ -n "$dry_run" ]; then
    make_slices && install && start && host 0 follow
    if [ -n "$delete" ]; then drop_slices; fi
    return
  fi
  now="$(state)" || die 'gcloud could not be asked: see above.'
  while true; do
    case "$now" in
      READY)
        made=yes
        if [ -z "$started" ]; then
          case "$(running)" in
            yes) started=yes ;;
            no) if install && start; then started=yes; fi ;;
          esac
        fi
        if [ -n "$started" ]; then
          unable=0
          code="$(host 0 follow | tail -n 1)" || code=''
          case "$code" in
            0) break ;;
            '') say '== the connection is lost' && sleep "$wait_seconds" ;;
            *) started='' && ended "$code" ;;
          esac
        elif unable=$((unable + 1)) && [ "$unable" -ge 5 ]; then
          give_up 2 "$name could not be set up, five times in a row"
        else
          sleep "$wait_seconds"
        fi
        ;;
      NONE | LOST | SUSPENDED | PREEMPTED | TERMINATED | STOPPED)
        started=''
        if { [ "$now" = NONE ] || drop_slices; } && make_slices; then
          made=yes
        elif [ -z "$made" ]; then
          die "$name could not be made: see above."
        else
          sleep "$wait_seconds"
        fi
        ;;
      FAILED) die "the queued resource $name failed; gcloud compute tpus queued-resources describe $name says why." ;;
      *)
        [ "$now" = "$before" ] || say "$name is not there yet ($now)"
        sleep "$wait_seconds"
        ;;
    esac
    before="$now"
    now="$(state)" || now='gcloud cannot tell'
  done
  say '== done'
  if [ -n "$delete" ]; then drop_slices; fi
}

parse_arguments "$@"
temporary="$(mktemp -d)"
trap 'rm -r "$temporary"' EXIT
main
