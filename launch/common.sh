# Sourced by the other scripts: messages, the virtual environment, and the meaning of exit codes.
#
# The scripts also run on macOS, whose bash is 3.2: an empty array counts as unset there, hence
# ${array[@]+"${array[@]}"}.
# shellcheck shell=bash

# The repository's root.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

# Prints the comment at the top of the script that runs.
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$root/launch/${0##*/}"; }

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 2
}

# What follows a run's exit code, the same in tpu_pod.sh, slurm.sbatch and gke.yaml: 0 is done; 2, a
# mistake of the user, and 130, Ctrl-C, end it; after 75, stopped and saved, it is started again
# without limit; after any other (74 unavailable, 1 a bug, 134 and 137 a host that failed) at most
# MAX_RESTARTS times.
ends_for_good() { [ "$1" -eq 2 ] || [ "$1" -eq 130 ]; }

# check_command VERB FLAGS...: ends with 2 if the verb would refuse them; uses no device.
check_command() {
  local verb="$1" argument output
  shift
  [ -e "$root/vmae_jax/$verb.py" ] || die "there is no verb $verb: see vmae_jax/*.py, such as pretrain."
  if "$venv/bin/python" -c 'import ml_collections' >/dev/null 2>&1; then
    output="$(cd "$root" && JAX_PLATFORMS=cpu "$venv/bin/python" -m "vmae_jax.$verb" --distributed \
      --only_check_args "$@" 2>&1)" || die "${output#error: }"
    return
  fi
  say "(Flags are not checked, as $venv is not installed; only the config file is looked for.)"
  for argument in "$@"; do
    case "$argument" in
      --config=?*)
        argument="${argument#*=}"
        (cd "$root" && [ -e "${argument%%:*}" ]) || die "there is no config file ${argument%%:*}."
        ;;
    esac
  done
}

# Prints the first Python on the path that is new enough; fails if there is none. Each is run, not
# only looked for, since version managers leave commands on the path that do not work.
find_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# Makes .venv; if no Python is new enough, with uv (if installed), which downloads one.
make_venv() {
  local python
  if python="$(find_python)"; then
    say "Making $venv with $("$python" --version)."
    "$python" -m venv "$venv" || {
      rm -rf "$venv"
      die "$python can't make virtual environments: install its venv module (Debian and Ubuntu:" \
        'apt install python3-venv) and start again.'
    }
  elif command -v uv >/dev/null; then
    say "Making $venv with uv, as no Python on the path is new enough."
    uv venv --quiet --seed --python 3.12 "$venv" >&2 || {
      rm -rf "$venv"
      die 'uv could not install Python 3.12: see above.'
    }
  else
    die 'Python 3.11 or newer is needed, and none is on the path: install it (macOS: brew install' \
      'python@3.13; newer Debian and Ubuntu: apt install python3 python3-venv), or uv (pip install' \
      'uv), which downloads one, and start again.'
  fi
}

# ensure_venv REQUIREMENTS...
#
# Makes .venv if there is none, and installs the requirements files once: a stamp with the checksum
# of requirements.txt and these files says that this is done, so later starts need no network. Other
# packages in .venv stay.
ensure_venv() {
  local files=("$@") file stamp
  local pip_options=(--disable-pip-version-check)
  if ! "$venv/bin/python" -c '' >/dev/null 2>&1; then
    [ ! -e "$venv" ] || die "$venv is there, but its Python does not run: remove it and start again."
    make_venv
  fi
  stamp="$venv/.installed-$(cat "$root/requirements.txt" "${files[@]}" | cksum | tr ' ' '-')"
  if [ -e "$stamp" ]; then return; fi
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
    die "$venv has no pip (was its making interrupted?): remove it and start again."
  say "Installing ${files[*]#"$root/"} into .venv: takes some minutes, the first time only."
  [ -t 2 ] || pip_options+=(--quiet) # A log needs no progress bars.
  for file in "${files[@]}"; do
    "$venv/bin/python" -m pip install "${pip_options[@]}" -r "$file" >&2 ||
      die "pip could not install $file: see above. What was installed is kept; start again."
  done
  touch "$stamp"
}
