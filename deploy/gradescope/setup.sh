#!/usr/bin/env bash
# Gradescope runs this once, as root, when it builds the autograder's image.
set -euo pipefail
ROOT="${AUTOGRADER:-/autograder}"

find_python() {
  for python in python3.13 python3.12 python3.11 python3; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
}

if [ -z "$(find_python)" ] || ! command -v bwrap >/dev/null; then
  apt-get update
  apt-get install --yes --no-install-recommends bubblewrap python3-venv
  [ -n "$(find_python)" ] || apt-get install --yes --no-install-recommends python3.11 python3.11-venv
fi

cd "$ROOT/source/course"
"$(find_python)" -m venv .venv
# PIP_OPTIONS: see make_zip.py.
# shellcheck disable=SC1091
[ ! -f ../pip_options ] || PIP_OPTIONS="$(cat ../pip_options)"
# shellcheck disable=SC2086
.venv/bin/python -m pip install --no-cache-dir ${PIP_OPTIONS:-} --constraint constraints.txt --editable '.[teach]'
