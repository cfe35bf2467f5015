#!/usr/bin/env bash
# Tests a fanout binary with a Go client over real connections.
#
#   tests/clients/go/run.sh PATH_TO_FANOUT_BINARY [GO_TEST_ARGUMENT...]
#
# Modules and plugins are pinned by go.mod and go.sum, buf below; all of them, and what is built, are kept in
# $FANOUT_TOOLS. They come from the Go module proxy and from npm when they are not there yet. Where they cannot be had
# the tests are skipped, loudly; with CI=true that is a failure.
set -euo pipefail

buf_version=1.75.0
go_minor=26

client=go
source "$(dirname "${BASH_SOURCE[0]}")/../begin.sh"
shift

cd "$(dirname "${BASH_SOURCE[0]}")"
example=../../../examples/go-executor
mkdir -p "$tools"
tools=$(realpath "$tools")

command -v go >/dev/null || skip "there is no go"
# The go that is here, never one that it would fetch.
export GOTOOLCHAIN=local GOWORK=off
found=$(cd / && go env GOVERSION)
[[ $found =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= go_minor)) || skip "go 1.$go_minor or later is needed, not $found"
# The modules are writable, so that the folder can be deleted like any other.
export GOMODCACHE=$tools/go-modules GOCACHE=$tools/go-build GOFLAGS="-modcacherw -buildvcs=false"

home=$tools/buf-$buf_version
BUF=$home/node_modules/.bin/buf
export BUF
if [[ ! -x $BUF ]]; then
    command -v npm >/dev/null || skip "buf $buf_version is not in $tools, and there is no npm to install it with"
    new=$(mktemp -d "$tools/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    npm install --prefix "$new" --ignore-scripts --no-audit --no-fund --loglevel=error "@bufbuild/buf@$buf_version" >&2 ||
        skip "npm could not install @bufbuild/buf@$buf_version"
    [[ -d $home ]] || mv "$new" "$home"
fi

for module in "$example" .; do
    (cd "$module" && go mod download) >&2 || skip "go could not download the modules of $module"
done

"$example/generate.sh"
(cd "$example" && go vet ./...)
go vet ./...
# Never from the cache: the server is not among the inputs that go knows.
go test -count=1 -timeout=5m "$@" ./...
