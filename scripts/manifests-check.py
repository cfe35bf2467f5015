"""Checks rendered Kubernetes manifests for what no schema knows. Used by scripts/manifests."""

import re
import sys
from pathlib import Path

import yaml

# What the process may need beyond its own drain grace: to be told, to end, to be noticed.
SPARE_SECONDS = 10

problems = []


def check(fact, problem):
    if not fact:
        problems.append(problem)


def seconds(text):
    number, unit = re.fullmatch(r"([0-9.]+)(ms|s|m|h|d|)", text).groups()
    return float(number) * {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


def size(text):
    number, unit = re.fullmatch(r"([0-9]+)(Mi|Gi)", text).groups()
    return int(number) << {"Mi": 20, "Gi": 30}[unit]


root = Path(__file__).parent.parent
resources = [resource for resource in yaml.safe_load_all(Path(sys.argv[1]).read_text()) if resource]
by_kind = {resource["kind"]: resource for resource in resources}
check(len(by_kind) == len(resources), "two resources of one kind")

deployment = by_kind["Deployment"]["spec"]
pod = deployment["template"]["spec"]
labels = deployment["template"]["metadata"]["labels"]
(container,) = pod["containers"]
environment = {variable["name"]: variable["value"] for variable in container["env"]}
(port,) = container["ports"]
listen = environment.get("FANOUT_LISTEN", "127.0.0.1:7117")
drain_grace = environment.get("FANOUT_DRAIN_GRACE", "30s")
plan_bytes = int(environment.get("FANOUT_TASK_REQUEST_BYTES_MAX", 512 << 20)) + int(
    environment.get("FANOUT_PLAN_DOCUMENT_BYTES_MAX", 8 << 30)
)

# Who selects whom. An empty selector selects everything, so each one is spelled out.
policy = by_kind["NetworkPolicy"]["spec"]
for name, selector in {
    "Deployment": deployment["selector"]["matchLabels"],
    "Service": by_kind["Service"]["spec"]["selector"],
    "PodDisruptionBudget": by_kind["PodDisruptionBudget"]["spec"]["selector"].get("matchLabels"),
    "NetworkPolicy": policy["podSelector"].get("matchLabels"),
}.items():
    check(selector, f"{name}: selects everything")
    check(all(labels.get(key) == value for key, value in (selector or {}).items()), f"{name}: does not select the pod")
(ingress,) = policy["ingress"]
(clients,) = ingress["from"]
check(clients == {"podSelector": {"matchLabels": {"fanout-client": "true"}}}, "NetworkPolicy: other clients than said")
check(policy["policyTypes"] == ["Ingress", "Egress"] and policy["egress"] == [], "NetworkPolicy: something may go out")

# Ports.
service = by_kind["Service"]["spec"]
check(service["clusterIP"] == "None", "Service: not headless")
check([entry["targetPort"] for entry in service["ports"]] == [port["name"]], "Service: another port than the pod's")
check([entry["port"] for entry in ingress["ports"]] == [port["name"]], "NetworkPolicy: another port than the pod's")
check(listen.endswith(f":{port['containerPort']}"), "FANOUT_LISTEN: another port than the pod's")
check(pod["enableServiceLinks"] is False, "service links could be taken for settings")

# Probes ask for names that the server knows.
health = (root / "src/service/health.rs").read_text()
readiness = re.search(r'const READINESS: &str = "([^"]+)"', health).group(1)
liveness = re.search(r'const LIVENESS: &str = "([^"]+)"', health).group(1)
for name in ("startupProbe", "readinessProbe", "livenessProbe"):
    probe = container[name]
    check(probe["grpc"]["port"] == port["containerPort"], f"{name}: another port than the pod's")
    wanted = liveness if name == "livenessProbe" else readiness
    check(probe["grpc"].get("service") == wanted, f"{name}: does not ask for {wanted}")

# Settings that exist.
settings = set(re.findall(r'env = "(FANOUT_[A-Z_]+)"', "".join(
    (root / path).read_text() for path in ("src/config.rs", "src/cli/serve.rs"))))
check(len(settings) > 10, "no settings found in the sources")
for name in environment:
    check(name in settings | {"FANOUT_LOG"}, f"{name}: no such setting")

# Times add up.
pre_stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
needed = pre_stop + seconds(drain_grace) + SPARE_SECONDS
check(
    pod["terminationGracePeriodSeconds"] >= needed,
    f"terminationGracePeriodSeconds: {pod['terminationGracePeriodSeconds']} is less than {needed:g}: "
    f"preStop {pre_stop} + FANOUT_DRAIN_GRACE {drain_grace} + {SPARE_SECONDS} to spare",
)

# One process, because plans live in its memory; and one plan fits it.
check(deployment["replicas"] == 1 and deployment["strategy"]["type"] == "Recreate", "more than one pod at a time")
check(by_kind["PodDisruptionBudget"]["spec"].get("maxUnavailable") == 0, "PodDisruptionBudget: allows evictions")
check(plan_bytes <= size(container["resources"]["limits"]["memory"]) / 2, "one plan may take over half of the memory")

# No rights.
check(by_kind["ServiceAccount"]["automountServiceAccountToken"] is False, "ServiceAccount: gives out its token")
check(pod["automountServiceAccountToken"] is False, "the pod takes a token")
check(pod["serviceAccountName"] == by_kind["ServiceAccount"]["metadata"]["name"], "the pod has another account")
user = re.search(r"^USER (\d+):(\d+)$", (root / "Dockerfile").read_text(), re.MULTILINE)
check(
    pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user.group(1)),
        "runAsGroup": int(user.group(2)),
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "securityContext of the pod: not as it has to be",
)
check(
    container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
    "securityContext of the container: not as it has to be",
)
for name in ("hostNetwork", "hostPID", "hostIPC", "volumes"):
    check(name not in pod, f"{name}: is not needed")

for problem in problems:
    print(f"manifests: {problem}", file=sys.stderr)
sys.exit(bool(problems))
