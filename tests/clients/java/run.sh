#!/usr/bin/env bash
# Tests a fanout binary with a Java client over real connections, and examples/java-executor with it.
#
#   tests/clients/java/run.sh PATH_TO_FANOUT_BINARY [MAVEN_ARGUMENT...]
#
# Libraries, plugins and protoc are pinned by the pom.xml files and kept in $FANOUT_TOOLS; they come from Maven Central
# when they are not there yet. Where they cannot be had the tests are skipped, loudly; with CI=true that is a failure.
set -euo pipefail

java_version=17

client=java
source "$(dirname "${BASH_SOURCE[0]}")/../begin.sh"
shift

cd "$(dirname "${BASH_SOURCE[0]}")"
command -v mvn >/dev/null || skip "there is no mvn"
# The one that Maven takes.
javac=${JAVA_HOME:+$JAVA_HOME/bin/}javac
found=$("$javac" -version 2>&1) || skip "there is no javac"
[[ $found =~ ^javac\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= java_version)) ||
    skip "a JDK from $java_version on is needed, not $found"

mkdir -p "$tools"
repository=$(realpath "$tools")/maven
# Quiet but for what the tests say.
maven=(
    mvn --batch-mode --no-transfer-progress
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn
    -Dorg.slf4j.simpleLogger.log.org.apache.maven.plugin.surefire=info
    -Dsurefire.failIfNoSpecifiedTests=false
    -Dmaven.repo.local="$repository"
)

# The stamp says that the repository has all that these pom.xml name, for this machine.
hash=$({ uname -sm && cat ../../../examples/java-executor/pom.xml pom.xml client/pom.xml; } | cksum | tr ' ' -)
stamp=$repository/complete-$hash
if [[ ! -e $stamp ]]; then
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if ! "${maven[@]}" verify -DskipTests >"$log" 2>&1; then
        cat "$log" >&2
        # What Maven says when it cannot download. Anything else is an error in the sources.
        grep -Eq 'Could not (transfer|find) artifact|could not be resolved|Could not resolve|Cannot access' "$log" &&
            skip "maven could not download what the pom.xml files name"
        exit 1
    fi
    touch "$stamp"
fi

"${maven[@]}" --offline verify "$@"
