#!/usr/bin/env bash
# Tests a fanout binary with a client in TypeScript over real connections, and examples/node-executor with it.
#
#   tests/clients/node/run.sh PATH_TO_FANOUT_BINARY [NODE_TEST_OPTION...]
#
# The packages are those of the example's package-lock.json and kept in $FANOUT_TOOLS; they come from npm when they are
# not there yet. Everything is built there, too: the source tree is left as it is. Where the packages cannot be had the
# tests are skipped, loudly; with CI=true that is a failure.
set -euo pipefail

client=node
source "$(dirname "${BASH_SOURCE[0]}")/../begin.sh"
shift

cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
example=examples/node-executor
tests=tests/clients/node

node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || skip "there is no node from 20 on"
command -v npm >/dev/null || skip "there is no npm"
# Some packages are programs for this machine.
hash=$(node -e '
    const hash = require("node:crypto").createHash("sha256").update(`${process.platform} ${process.arch}`);
    for (const file of process.argv.slice(1)) hash.update(require("node:fs").readFileSync(file));
    console.log(hash.digest("hex").slice(0, 16));
' "$example/package.json" "$example/package-lock.json")
home=$tools/node-$hash

new=""
trap 'rm -rf "$new"' EXIT
if [[ ! -d $home ]]; then
    mkdir -p "$tools"
    new=$(mktemp -d "$tools/new.XXXXXX")
    cp "$example/package.json" "$example/package-lock.json" "$new"
    npm ci --prefix "$new" --ignore-scripts --no-audit --no-fund --loglevel=error >&2 ||
        skip "npm could not install the packages of $example"
    rm "$new/package.json" "$new/package-lock.json"
    [[ -d $home ]] || mv "$new" "$home"
    rm -rf "$new"
fi

# A copy below the packages, of the same shape as the source tree: there node and tsc find them.
new=$(mktemp -d "$home/run.XXXXXX")
mkdir -p "$new/$example" "$new/$tests"
cp -R proto "$new/proto"
cp "$example"/{package.json,tsconfig.json,buf.gen.yaml,executor.ts,patience.ts} "$new/$example"
cp "$tests"/{package.json,tsconfig.json} "$tests"/*.ts "$new/$tests"

(cd "$new/$example" && npm run --silent build)
(cd "$new/$tests" && "$home/node_modules/.bin/tsc")
export FANOUT_EXECUTOR=$new/$example/dist/executor.js
node --enable-source-maps --test --test-concurrency=2 --test-reporter=spec "$@" "$new/$tests/build/$tests"/*.test.js
