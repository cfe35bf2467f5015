# What every client's run.sh begins with; `client` is its language, the first argument the program to test.
#
# Sets and exports FANOUT_BINARY, sets `tools` to the folder where pinned tools are kept, and defines `skip`.

if (($# == 0)); then
    echo "usage: $0 PATH_TO_FANOUT_BINARY [TEST_ARGUMENT...]" >&2
    exit 2
fi
FANOUT_BINARY=$(realpath "$1")
export FANOUT_BINARY
if [[ ! -x $FANOUT_BINARY ]]; then
    echo "$FANOUT_BINARY is not a program" >&2
    exit 2
fi

tools=${FANOUT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/fanout-tools}

# Says why the tests are not run, and ends; with CI=true that is a failure.
skip() {
    echo "SKIPPED $client client: $1" >&2
    if [[ ${CI:-} == true ]]; then exit 1; fi
    exit 0
}
