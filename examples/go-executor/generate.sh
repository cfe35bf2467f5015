#!/bin/sh
# Generates the gRPC stubs of proto/ into generated/, next to this script. BUF names the buf program; without it npm's
# npx fetches the version below.
set -eu

cd "$(dirname "$0")"
if [ -n "${BUF:-}" ]; then
    exec "$BUF" generate
fi
exec npx --yes @bufbuild/buf@1.75.0 generate
