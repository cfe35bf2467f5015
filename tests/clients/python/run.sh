#!/usr/bin/env bash
# Tests a fanout binary with a Python client over real connections.
#
#   tests/clients/python/run.sh PATH_TO_FANOUT_BINARY [UNITTEST_ARGUMENT...]
#
# The packages are pinned and kept in a virtual environment in $FANOUT_TOOLS; they come from PyPI when it is not there
# yet. Where it cannot be had the tests are skipped, loudly; with CI=true that is a failure.
set -euo pipefail

client=python
source "$(dirname "${BASH_SOURCE[0]}")/../begin.sh"
shift

cd "$(dirname "${BASH_SOURCE[0]}")"
example=../../../examples/python-executor

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || skip "there is no python3 from 3.11 on"
# The interpreter is part of the name: an environment does not outlive it.
hash=$({ python3 -VV && cat "$example/requirements.txt" requirements.txt; } |
    python3 -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
home=$tools/python-$hash

# An environment knows its own path, so it is made where it stays, and is whole once it is marked.
if [[ ! -e $home/installed ]]; then
    mkdir -p "$tools"
    rm -rf "$home"
    python3 -m venv "$home" >&2 || skip "python3 could not make a virtual environment (on Debian: python3-venv)"
    "$home/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --requirement requirements.txt >&2 ||
        skip "pip could not install requirements.txt"
    touch "$home/installed"
fi

PYTHON=$home/bin/python "$example/generate.sh"
if (($# == 0)); then set -- test_*.py; fi
PYTHONPATH=$example/generated PYTHONDONTWRITEBYTECODE=1 exec "$home/bin/python" -m unittest "$@"
