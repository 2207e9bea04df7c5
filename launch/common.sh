# Sourced by the other scripts: the virtual environment that they share.
# shellcheck shell=bash

# The repository's root.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 2
}

# Prints the first Python on the path that is new enough. The command is run and not only
# looked for, since version managers leave commands on the path that don't work.
find_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  die 'Python 3.11 or newer is needed, and none is on the path: install it (Debian and Ubuntu:' \
    'apt install python3 python3-venv; macOS: brew install python@3.13) and start again.'
}

# ensure_venv REQUIREMENTS...
#
# Makes .venv if there is none and installs the files of requirements, once: a stamp with the
# check sum of requirements.txt and of these files says that it is done, hence nothing is
# asked of the network after that. Whatever else is in .venv stays.
ensure_venv() {
  local files=("$@") file python stamp
  local pip_options=(--disable-pip-version-check)
  if ! "$venv/bin/python" -c '' >/dev/null 2>&1; then
    [ ! -e "$venv" ] || die "$venv is there, but its Python does not run: remove it and start again."
    python="$(find_python)"
    say "Making $venv with $("$python" --version)."
    "$python" -m venv "$venv" || {
      rm -rf "$venv"
      die "$python can't make virtual environments: install its venv module (Debian and Ubuntu:" \
        'apt install python3-venv) and start again.'
    }
  fi
  stamp="$venv/.installed-$(cat "$root/requirements.txt" "${files[@]}" | cksum | tr ' ' '-')"
  if [ -e "$stamp" ]; then return; fi
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
    die "$venv has no pip (was its making interrupted?): remove it and start again."
  say "Installing ${files[*]#"$root/"} into .venv: some minutes, the first time only."
  [ -t 2 ] || pip_options+=(--quiet) # A log needs no progress bars.
  for file in "${files[@]}"; do
    "$venv/bin/python" -m pip install "${pip_options[@]}" -r "$file" >&2 ||
      die "pip could not install $file: see above. What is done so far is kept; start again."
  done
  touch "$stamp"
}
