#!/usr/bin/env bash
# Installs what a host of a TPU slice needs: .venv with requirements.txt and jax[tpu]. What
# tpu_pod.sh runs on every host; on a TPU VM of one host, call it by hand.
#
#   launch/tpu_host.sh
#
# The system of TPU VMs (Ubuntu 22.04) brings Python 3.10, which JAX no longer supports: where no
# newer one is there, uv is installed for the user and brings it.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit ;;
esac

export PATH="$PATH:$HOME/.local/bin" # Where pip --user puts uv.
if ! [ -e "$venv/bin/python" ] && ! find_python >/dev/null && ! command -v uv >/dev/null; then
  python3 -m pip install --quiet --user uv ||
    die 'neither Python 3.11 or newer nor uv, which brings one, could be had: see above.'
fi
ensure_venv "$root/requirements.txt"
"$venv/bin/python" -m pip install --quiet 'jax[tpu]' || die "pip could not install jax[tpu]: see above."
