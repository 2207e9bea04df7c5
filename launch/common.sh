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

# Prints the first Python on the path that is new enough; fails if there is none. The command is run
# and not only looked for, since version managers leave commands on the path that don't work.
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

# Makes .venv; where no Python is new enough with uv, if that is there, which brings one.
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
    say "Making $venv with uv, as no Python of the path is new enough."
    uv venv --quiet --seed --python 3.12 "$venv" >&2 || {
      rm -rf "$venv"
      die 'uv could not bring Python 3.12: see above.'
    }
  else
    die 'Python 3.11 or newer is needed, and none is on the path: install it (macOS: brew install' \
      'python@3.13; newer Debian and Ubuntu: apt install python3 python3-venv), or uv (pip install' \
      'uv), which brings one, and start again.'
  fi
}

# ensure_venv REQUIREMENTS...
#
# Makes .venv if there is none and installs the files of requirements, once: a stamp with the
# check sum of requirements.txt and of these files says that it is done, hence nothing is
# asked of the network after that. Whatever else is in .venv stays.
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
  say "Installing ${files[*]#"$root/"} into .venv: some minutes, the first time only."
  [ -t 2 ] || pip_options+=(--quiet) # A log needs no progress bars.
  for file in "${files[@]}"; do
    "$venv/bin/python" -m pip install "${pip_options[@]}" -r "$file" >&2 ||
      die "pip could not install $file: see above. What is done so far is kept; start again."
  done
  touch "$stamp"
}
