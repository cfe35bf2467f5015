"""Checks what promtool does not know of deploy/prometheus, deploy/grafana and deploy/keda: that queries name metrics, labels and
values which docs/operations.md has, and that every rule and every query of a scaler is tried. Used by scripts/manifests."""

import json
import re
import sys
from pathlib import Path

import yaml

root = Path(__file__).parent.parent
problems = []


def check(fact, problem):
    if not fact:
        problems.append(problem)


def load(path):
    return yaml.safe_load((root / path).read_text())


def texts(value):
    """Every text in a document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


# The table of metrics: labels by name, and what is said in backquotes, which has their values.
_, document = (root / "docs/operations.md").read_text().split("## Metrics and probes", 1)
labels, values = {}, {}
for name, label_cell, meaning in re.findall(r"^\| `(fanout_\w+)` \|[^|]*\|([^|]*)\|(.*)\|$", document, re.MULTILINE):
    labels[name] = set(re.findall(r"`(\w+)`", label_cell))
    values[name] = set(re.findall(r"`(\w+)`", meaning))
check(len(labels) > 15, "no table of metrics found in docs/operations.md")
# A target's labels come from Prometheus, a bucket's from its histogram.
GIVEN = {"job", "instance", "le"}
CODES = """OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED
    FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED""".split()


def check_names(where, query):
    for name, selector in re.findall(r"\b(fanout_\w+)(?:\{([^}]*)\})?", query):
        metric = re.sub(r"(?<=_seconds)_(bucket|count|sum)$", "", name)
        if metric not in labels:
            check(False, f"{where}: {name} is not a metric")
            continue
        for label, value in re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', selector):
            check(label in labels[metric] | GIVEN, f"{where}: {name} has no label {label}")
            known = set(CODES) if label == "code" else values[metric]
            if label in {"code", "state", "disposition", "reason", "kind"}:
                check(set(value.split("|")) <= known, f'{where}: {name} is never of {label} "{value}"')


rules = [rule for group in load("deploy/prometheus/alerts.yaml")["groups"] for rule in group["rules"]]
tests = load("deploy/prometheus/alerts.test.yaml")["tests"]
for rule in rules:
    check_names(f"alerts.yaml: {rule['alert']}", rule["expr"])
for test in tests:
    for series in test["input_series"]:
        check_names(f"alerts.test.yaml: {test['name']}", series["series"])
for text in texts(json.loads((root / "deploy/grafana/fanout.json").read_text())):
    check_names("fanout.json", text)

# Every rule fires in one case and is quiet in another.
cases = [case for test in tests for case in test.get("alert_rule_test", [])]
for name in (rule["alert"] for rule in rules):
    expected = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == name]
    check(True in expected, f"alerts.test.yaml: {name} never fires")
    check(False in expected, f"alerts.test.yaml: {name} is never quiet")
check({case["alertname"] for case in cases} == {rule["alert"] for rule in rules}, "alerts.test.yaml: other alerts than there are")

# What KEDA asks is tried word for word.
tried = {case["expr"].strip() for test in tests for case in test.get("promql_expr_test", [])}
scaled = load("deploy/keda/executors.yaml")
(trigger,) = scaled["spec"]["triggers"]
queries = {
    "executors.yaml": trigger["metadata"]["query"],
    "keda.yaml": load("deploy/helm/examples/keda.yaml")["autoscaling"]["query"],
}
for where, query in queries.items():
    check_names(where, query)
    check(query.strip() in tried, f"alerts.test.yaml: does not try the query of {where}")
check(scaled["spec"]["scaleTargetRef"]["name"] != "fanout", "executors.yaml: scales the coordinator")
check(all(isinstance(text, str) for text in trigger["metadata"].values()), "executors.yaml: metadata that is no text")

for problem in problems:
    print(f"alerts: {problem}", file=sys.stderr)
sys.exit(bool(problems))
