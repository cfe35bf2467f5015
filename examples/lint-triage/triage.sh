#!/bin/sh
# Executor for `fanout run`: reads one task request (the findings of one lint rule), prints one record.
set -eu
# Byte by byte: paths and messages may hold anything.
LC_ALL=C
export LC_ALL
: "${FANOUT_TASK_ID:?is not set; start me with fanout run}" "${FANOUT_GROUP_KEY:?is not set}"

# The request is one line of compact JSON, and a quote inside a JSON string is always written \". So the bytes
# "fixable":true, with their bare quotes, are never part of a message: patterns are enough, no parser is needed.
awk '
function fail(problem) {
    print "triage.sh: " problem | "cat 1>&2"
    exit 1
}
# The string at a key, still as JSON wrote it, so that it can be printed into JSON again.
function text(object, key) {
    if (!match(object, "\"" key "\":\"([^\"\\\\]|\\\\.)*\"")) fail("a finding has no " key)
    return substr(object, RSTART + length(key) + 4, RLENGTH - length(key) - 5)
}
# Environment text as a JSON string.
function quoted(value,    code) {
    gsub(/["\\]/, "\\\\&", value)
    for (code = 1; code < 32; code++) gsub(sprintf("%c", code), sprintf("\\u%04x", code), value)
    return "\"" value "\""
}
NR == 1 { request = $0 }
END {
    if (NR != 1 || request !~ /^[{].*"inputs":[{]"findings":\[.*[}]$/)
        fail("expected one task request, as one line of JSON")
    # Each part but the first begins with one finding; the item that follows it brings its own packet_id.
    findings = split(request, part, /"finding":[{]/) - 1
    if (findings < 1 || !index(part[1], "\"finding_count\":" findings ","))
        fail("finding_count is not the number of findings")
    for (i = 2; i <= findings + 1; i++) {
        finding = part[i]
        sub(/"packet_id":.*/, "", finding)
        if (finding ~ /"fixable":true/) fixable++
        else if (finding !~ /"fixable":false/) fail("a finding does not say whether it is fixable")
        if (text(finding, "severity") == "error") errors++
        path = text(finding, "path")
        if (!count[path]++) files++
        # On a tie, the file that got there first.
        if (count[path] > most) { most = count[path]; worst = path }
    }
    # What a tool repairs needs nobody; what is left of real mistakes goes before matters of taste.
    verdict = fixable == findings ? "autofix" : errors ? "fix-first" : "review"
    printf "{\"id\":%s,\"status\":\"completed\",\"outcome\":{", quoted(ENVIRON["FANOUT_TASK_ID"])
    printf "\"rule\":%s,\"verdict\":\"%s\",", quoted(ENVIRON["FANOUT_GROUP_KEY"]), verdict
    printf "\"findings\":%d,\"fixable\":%d,\"files\":%d,\"worst_file\":\"%s\"}}\n", findings, fixable, files, worst
}'
