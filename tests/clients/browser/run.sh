#!/usr/bin/env bash
# Tests a fanout binary with examples/browser-watch, a page that watches a plan over gRPC-Web, in a real browser.
#
#   tests/clients/browser/run.sh PATH_TO_FANOUT_BINARY [NODE_TEST_OPTION...]
#
# The browser is Chromium: $CHROMIUM, chromium, chromium-browser or google-chrome; where there is none, and this is root
# on a Debian, Debian's is installed. The packages are those of the two package-lock.json, kept in $FANOUT_TOOLS; they
# come from npm when they are not there yet. Everything is built there, too: the source tree is left as it is. Where the
# browser or the packages cannot be had the tests are skipped, loudly; with CI=true that is a failure.
set -euo pipefail

client=browser
source "$(dirname "${BASH_SOURCE[0]}")/../begin.sh"
shift

cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
example=examples/browser-watch
tests=tests/clients/browser

node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || skip "there is no node from 20 on"
command -v npm >/dev/null || skip "there is no npm"

# Prints where Chromium is, if it is anywhere.
find_chromium() {
    local name
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" && return
    done
    return 1
}
if [[ -n ${CHROMIUM:-} ]]; then
    chromium=$(command -v "$CHROMIUM") || skip "CHROMIUM=$CHROMIUM is not a program"
elif ! chromium=$(find_chromium); then
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        skip "there is no Chromium: set CHROMIUM, or install chromium, chromium-browser or google-chrome"
    fi
    echo "installing chromium with apt-get" >&2
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null ||
        skip "apt-get could not install chromium"
    chromium=$(find_chromium) || skip "apt-get installed no chromium"
fi
export CHROMIUM=$chromium

# Some packages are programs for this machine.
hash=$(node -e '
    const hash = require("node:crypto").createHash("sha256").update(`${process.platform} ${process.arch}`);
    for (const file of process.argv.slice(1)) hash.update(require("node:fs").readFileSync(file));
    console.log(hash.digest("hex").slice(0, 16));
' {"$example","$tests"}/{package.json,package-lock.json})
home=$tools/browser-$hash

new=""
trap 'rm -rf "$new"' EXIT
if [[ ! -d $home ]]; then
    mkdir -p "$tools"
    new=$(mktemp -d "$tools/new.XXXXXX")
    for folder in "$example" "$tests"; do
        mkdir -p "$new/$folder"
        cp "$folder"/{package.json,package-lock.json} "$new/$folder"
        npm ci --prefix "$new/$folder" --ignore-scripts --no-audit --no-fund --loglevel=error >&2 ||
            skip "npm could not install the packages of $folder"
    done
    [[ -d $home ]] || mv "$new" "$home"
    rm -rf "$new"
fi

# A copy of the same shape as the source tree, with the packages where node, tsc and esbuild look for them.
new=$(mktemp -d "$home/run.XXXXXX")
mkdir -p "$new/$example" "$new/$tests"
cp -R proto "$new/proto"
cp "$example"/{package.json,tsconfig.json,buf.gen.yaml,index.html,page.ts} "$new/$example"
cp "$tests"/{package.json,tsconfig.json} "$tests"/*.ts "$new/$tests"
ln -s "$home/$example/node_modules" "$new/$example/node_modules"
ln -s "$home/$tests/node_modules" "$new/$tests/node_modules"

(cd "$new/$example" && npm run --silent build)
(cd "$new/$tests" && "$home/$example/node_modules/.bin/tsc")
export FANOUT_PAGE=$new/$example
node --enable-source-maps --test --test-reporter=spec "$@" "$new/$tests/build"/*.test.js
