"""Checks what is rendered of a folder of deploy/kubernetes, or of the chart, for what no schema knows. Used by scripts/manifests."""

import json
import re
import sys
from pathlib import Path

import yaml

# What a process may need beyond its own drain grace: to be told, to end, to be noticed.
SPARE_SECONDS = 10

folder, rendered = sys.argv[1], Path(sys.argv[2])
problems = []


def check(fact, problem):
    if not fact:
        problems.append(problem)


def seconds(text):
    number, unit = re.fullmatch(r"([0-9.]+)(ms|s|m|h|d|)", text).groups()
    return float(number) * {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


def size(text):
    number, unit = re.fullmatch(r"([0-9]+)(M|G)i?B?", text).groups()
    return int(number) << {"M": 20, "G": 30}[unit]


root = Path(__file__).parent.parent
resources = [resource for resource in yaml.safe_load_all(rendered.read_text()) if resource]
by_name = {(resource["kind"], resource["metadata"]["name"]): resource for resource in resources}
check(len(by_name) == len(resources), "two resources of one kind and name")
user = re.search(r"^USER (\d+):(\d+)$", (root / "Dockerfile").read_text(), re.MULTILINE)


class Program:
    """What there is of one program: fanout or nats. Everything of it has its name, or begins with it."""

    def __init__(self, name, kind):
        self.name = name
        self.set = by_name[kind, name]["spec"]
        self.pod = self.set["template"]["spec"]
        (self.container,) = self.pod["containers"]
        # A variable wins over the file of settings, whose values are JSON's, too.
        settings = by_name.get(("ConfigMap", name), {"data": {}})["data"].get("fanout.toml", "")
        pairs = [line.split(" = ", 1) for line in settings.splitlines()]
        self.values = {f"FANOUT_{key.upper()}": str(json.loads(value)) for key, value in pairs}
        self.values |= {entry["name"]: entry.get("value") for entry in self.container["env"]}
        self.policy = by_name["NetworkPolicy", name]["spec"]
        self.budget = by_name["PodDisruptionBudget", name]["spec"]
        self.service = by_name["Service", name]["spec"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}

    def check(self, fact, problem):
        check(fact, f"{folder}: {self.name}: {problem}")

    def check_selectors(self):
        """An empty selector selects everything, so each one is spelled out."""
        labels = self.set["template"]["metadata"]["labels"]
        for name, selector in {
            "the pod's owner": self.set["selector"]["matchLabels"],
            "Service": self.service["selector"],
            "PodDisruptionBudget": self.budget["selector"].get("matchLabels"),
            "NetworkPolicy": self.policy["podSelector"].get("matchLabels"),
        }.items():
            self.check(selector, f"{name}: selects everything")
            self.check(
                all(labels.get(key) == value for key, value in (selector or {}).items()),
                f"{name}: does not select the pod",
            )

    def check_ports(self):
        self.check(self.service["clusterIP"] == "None", "Service: not headless")
        for entry in self.service["ports"]:
            self.check(
                self.ports.get(entry["targetPort"]) == entry["port"], "Service: another port than the pod's"
            )
        for rule in self.policy["ingress"]:
            check(rule.get("from"), "NetworkPolicy: lets everybody in")
            for entry in rule["ports"]:
                self.check(entry["port"] in self.ports, "NetworkPolicy: another port than the pod's")
        self.check(self.policy["policyTypes"] == ["Ingress", "Egress"], "NetworkPolicy: everything may go out")
        self.check(self.pod["enableServiceLinks"] is False, "service links could be taken for settings")

    def check_rights(self):
        account = by_name["ServiceAccount", self.name]
        self.check(account["automountServiceAccountToken"] is False, "ServiceAccount: gives out its token")
        self.check(self.pod["automountServiceAccountToken"] is False, "the pod takes a token")
        self.check(self.pod["serviceAccountName"] == self.name, "the pod has another account")
        identity = int(user.group(1)), int(user.group(2))
        context = {
            "runAsNonRoot": True,
            "runAsUser": identity[0],
            "runAsGroup": identity[1],
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        if "volumeClaimTemplates" in self.set:
            context |= {"fsGroup": identity[1], "fsGroupChangePolicy": "OnRootMismatch"}
        self.check(self.pod["securityContext"] == context, "securityContext of the pod: not as it has to be")
        self.check(
            self.container["securityContext"]
            == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "securityContext of the container: not as it has to be",
        )
        for name in ("hostNetwork", "hostPID", "hostIPC"):
            self.check(name not in self.pod, f"{name}: is not needed")
        claims = {claim["metadata"]["name"] for claim in self.set.get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in self.pod.get("volumes", [])}
        for volume in self.pod.get("volumes", []):
            kinds = ({"name", "configMap"}, {"name", "secret"})
            self.check(set(volume) in kinds, f"volume {volume['name']}: is not needed")
        mounts = {mount["name"]: mount["mountPath"] for mount in self.container.get("volumeMounts", [])}
        self.check(set(mounts) == claims | volumes, "volumes that are not mounted, or mounts without one")
        self.check(not claims or mounts.get("data") == "/data", "the volume is mounted elsewhere")

    def check_volume(self):
        (claim,) = self.set["volumeClaimTemplates"]
        self.check(claim["spec"]["accessModes"] == ["ReadWriteOncePod"], "two pods may have one volume")
        self.check(self.set["serviceName"] == self.name, "serviceName: another Service")
        return size(claim["spec"]["resources"]["requests"]["storage"])


def check_fanout(fanout):
    container, values = fanout.container, fanout.values
    port = fanout.ports["grpc"]
    fanout.check(values.get("FANOUT_LISTEN", "").endswith(f":{port}"), "FANOUT_LISTEN: another port than the pod's")
    ingress, *others = fanout.policy["ingress"]
    fanout.check(
        ingress["from"] == [{"podSelector": {"matchLabels": {"fanout-client": "true"}}}],
        "NetworkPolicy: other clients than said",
    )
    fanout.check([entry["port"] for entry in ingress["ports"]] == ["grpc"], "NetworkPolicy: clients reach more")
    fanout.check([entry["name"] for entry in fanout.service["ports"]] == ["grpc"], "Service: more than the clients' port")
    if folder == "chart-closed":
        check_no_metrics(fanout, others)
    else:
        check_metrics(fanout, others)

    # Probes ask for names that the server knows.
    health = (root / "src/service/health.rs").read_text()
    readiness = re.search(r'const READINESS: &str = "([^"]+)"', health).group(1)
    liveness = re.search(r'const LIVENESS: &str = "([^"]+)"', health).group(1)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        wanted = liveness if name == "livenessProbe" else readiness
        if "FANOUT_TLS_CERT" in values:
            # Kubernetes' own gRPC probes speak no TLS.
            command = container[name]["exec"]["command"]
            fanout.check(command == ["/fanout", "health", "--service", wanted], f"{name}: does not ask for {wanted}")
            fanout.check(container[name]["timeoutSeconds"] > 10, f"{name}: does not wait for the answer")
            continue
        probe = container[name]["grpc"]
        fanout.check(probe["port"] == port, f"{name}: another port than the pod's")
        fanout.check(probe.get("service") == wanted, f"{name}: does not ask for {wanted}")
    if "FANOUT_TLS_CERT" in values:
        fanout.check(values.get("FANOUT_SERVER") == f"https://127.0.0.1:{port}", "FANOUT_SERVER: not the pod itself")

    # What the settings name is mounted, and everything is locked unless it is said to be open.
    mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    for name, value in values.items():
        if str(value).startswith("/"):
            fanout.check(any(Path(value).is_relative_to(mount) for mount in mounts), f"{name}: is not mounted")
    if values.get("FANOUT_INSECURE") != "true":
        asks = {"FANOUT_TOKENS", "FANOUT_JWKS", "FANOUT_TLS_CLIENT_CA"} & set(values)
        fanout.check("FANOUT_TLS_CERT" in values and asks, "neither locked nor said to be open")

    # Settings that exist.
    sources = "".join(path.read_text() for path in (root / "src").glob("c*/**/*.rs"))
    sources += (root / "src/config.rs").read_text()
    settings = set(re.findall(r'env = "(FANOUT_[A-Z_]+)"', sources))
    fanout.check(len(settings) > 10, "no settings found in the sources")
    for name in values:
        known = name in settings or name == "FANOUT_LOG" or not name.startswith("FANOUT_")
        fanout.check(known, f"{name}: no such setting")

    # Times add up.
    delay, grace = values.get("FANOUT_DRAIN_DELAY", "0s"), values.get("FANOUT_DRAIN_GRACE", "30s")
    needed = seconds(delay) + seconds(grace) + SPARE_SECONDS
    given = fanout.pod["terminationGracePeriodSeconds"]
    fanout.check(
        given >= needed,
        f"terminationGracePeriodSeconds: {given} is less than {needed:g}: FANOUT_DRAIN_DELAY {delay} + "
        f"FANOUT_DRAIN_GRACE {grace} + {SPARE_SECONDS} to spare",
    )

    # One plan fits the memory.
    plan_bytes = int(values.get("FANOUT_TASK_REQUEST_BYTES_MAX", 512 << 20)) + int(
        values.get("FANOUT_PLAN_DOCUMENT_BYTES_MAX", 8 << 30)
    )
    memory = size(container["resources"]["limits"]["memory"])
    fanout.check(plan_bytes <= memory / 2, "one plan may take over half of the memory")


def check_metrics(fanout, ingress):
    """The port for metrics asks nobody who they are: it has a Service of its own, and only Prometheus is let in to it."""
    fanout.check(set(fanout.ports) == {"grpc", "metrics"}, "other ports than for clients and metrics")
    port = fanout.ports["metrics"]
    fanout.check(fanout.values.get("FANOUT_METRICS_LISTEN") == f"0.0.0.0:{port}", "FANOUT_METRICS_LISTEN: another port than the pod's")
    prometheus = {
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
    }
    allowed = [{"from": [prometheus], "ports": [{"protocol": "TCP", "port": "metrics"}]}]
    fanout.check(ingress == allowed, "NetworkPolicy: lets others in to metrics than said")
    service = by_name["Service", "fanout-metrics"]["spec"]
    fanout.check(
        service
        == {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": fanout.service["selector"],
            "ports": [{"name": "metrics", "port": port, "targetPort": "metrics"}],
        },
        "Service for metrics: not as it has to be",
    )
    if folder in ("base", "disk", "nats"):
        # What Prometheus is told beside the manifests.
        (scraped,) = yaml.safe_load((root / "deploy/prometheus/prometheus.yaml").read_text())["scrape_configs"]
        (names,) = scraped["dns_sd_configs"]
        fanout.check(names["names"] == ["fanout-metrics.fanout.svc"], "prometheus.yaml: another Service")
        fanout.check(names["port"] == port, "prometheus.yaml: another port")


def check_no_metrics(fanout, ingress):
    fanout.check(set(fanout.ports) == {"grpc"} and ingress == [], "a port for metrics, which was switched off")
    fanout.check("FANOUT_METRICS_LISTEN" not in fanout.values, "FANOUT_METRICS_LISTEN: was switched off")
    services = {name for kind, name in by_name if kind == "Service"}
    fanout.check(services == {"fanout"}, "a Service for metrics, which were switched off")


def check_kept_in_memory(fanout):
    fanout.check(
        fanout.set["replicas"] == 1 and fanout.set["strategy"]["type"] == "Recreate", "more than one pod at a time"
    )
    fanout.check(fanout.budget.get("maxUnavailable") == 0, "PodDisruptionBudget: allows evictions")
    fanout.check(fanout.policy["egress"] == [], "NetworkPolicy: something may go out")
    fanout.check("FANOUT_DATA_DIR" not in fanout.values and "FANOUT_NATS" not in fanout.values, "not in memory")


def check_kept_on_disk(fanout):
    fanout.check(fanout.set["replicas"] == 1, "more than one pod")
    fanout.check(fanout.values.get("FANOUT_DATA_DIR") == "/data", "FANOUT_DATA_DIR: not on the volume")
    fanout.check("FANOUT_DURABILITY" not in fanout.values, "FANOUT_DURABILITY: a crash of the node loses records")
    fanout.check(fanout.policy["egress"] == [], "NetworkPolicy: something may go out")
    fanout.check(fanout.budget.get("maxUnavailable") == 1, "PodDisruptionBudget: an eviction loses nothing")
    fanout.check_volume()


def check_kept_on_nats(fanout, nats):
    settings = (root / "deploy/kubernetes/nats/nats.conf").read_text()
    names = [f"{nats.name}-{nth}.{nats.name}" for nth in range(nats.set["replicas"])]
    client, cluster, monitor = (nats.ports[name] for name in ("client", "cluster", "monitor"))

    # Who finds whom.
    servers = fanout.values["FANOUT_NATS"].split(",")
    wanted = [f"nats://fanout:$(NATS_PASSWORD)@{name}:{client}" for name in names]
    fanout.check(servers == wanted, "FANOUT_NATS: other servers than there are")
    order = list(fanout.values)
    fanout.check(order.index("NATS_PASSWORD") < order.index("FANOUT_NATS"), "FANOUT_NATS: before what it names")
    routes = re.findall(r'"nats://([^":]+):(\d+)"', settings)
    nats.check(routes == [(name, str(cluster)) for name in names], "nats.conf: other routes than there are servers")
    for port in (f'"0.0.0.0:{client}"', f'"0.0.0.0:{cluster}"', f'"0.0.0.0:{monitor}"'):
        nats.check(port in settings, f"nats.conf: does not listen on {port}")
    mapped = by_name["ConfigMap", next(v["configMap"]["name"] for v in nats.pod["volumes"])]
    nats.check(mapped["data"] == {"nats.conf": settings}, "ConfigMap: not nats.conf")
    nats.check(nats.service["publishNotReadyAddresses"] is True, "Service: hides servers that wait for each other")

    # What is acknowledged is on the disks of most.
    nats.check("sync_interval: always" in settings, "nats.conf: acknowledges before a disk has it")
    nats.check(nats.set["replicas"] == 3 and fanout.values["FANOUT_NATS_REPLICAS"] == "3", "not three copies")
    nats.check(nats.budget.get("maxUnavailable") == 1, "PodDisruptionBudget: two of three may go")
    nats.check(nats.set["podManagementPolicy"] == "Parallel", "the first waits for the second for ever")
    spread = nats.pod["topologySpreadConstraints"][0]["whenUnsatisfiable"]
    nats.check(spread == "DoNotSchedule", "three copies may be on one node")
    store = size(re.search(r"max_file_store: (\S+)", settings).group(1))
    nats.check(store < nats.check_volume(), "nats.conf: the stream may take the whole volume")
    unquoted = re.findall(r"^\s*\w+: (?!sync|max)[0-9]+(?:ms|s|m|h|d)\b", settings, re.MULTILINE)
    nats.check(not unquoted, f"nats.conf: times that are not quoted: {unquoted}")
    limit = size(nats.container["resources"]["limits"]["memory"])
    nats.check(size(nats.values["GOMEMLIMIT"]) < limit, "GOMEMLIMIT: no less than the memory")

    # Passwords come from the secret, and only from there.
    for program in (fanout, nats):
        entry = next(entry for entry in program.container["env"] if entry["name"] == "NATS_PASSWORD")
        secret = entry["valueFrom"]["secretKeyRef"]
        program.check(secret == {"name": "fanout-nats", "key": "password"}, "NATS_PASSWORD: another secret")
    nats.check(re.findall(r"password: (\S+)", settings) == ["$QUOTED_PASSWORD"], "nats.conf: has a password")

    # Replicas come and go one by one.
    fanout.check(fanout.set["replicas"] == 3, "not three replicas")
    rolling = {"maxUnavailable": 0, "maxSurge": 1}
    fanout.check(fanout.set["strategy"]["rollingUpdate"] == rolling, "an update takes a replica away first")
    fanout.check(fanout.budget.get("maxUnavailable") == 1, "PodDisruptionBudget: more than one may go")
    fanout.check(seconds(fanout.values["FANOUT_DRAIN_DELAY"]) > 0, "FANOUT_DRAIN_DELAY: clients learn of the end too late")
    for program, port in ((fanout, "client"), (nats, "cluster")):
        labels = {"app.kubernetes.io/name": "nats"}
        goes_out = [rule for rule in program.policy["egress"] if {"podSelector": {"matchLabels": labels}} in rule["to"]]
        ports = [entry["port"] for rule in goes_out for entry in rule["ports"]]
        program.check(ports == [port], "NetworkPolicy: does not let it out to NATS")
        program.check(len(program.policy["egress"]) == 2, "NetworkPolicy: more than NATS and DNS")


def check_shared(fanout):
    """The chart's replicas, over NATS servers that are not its own."""
    servers = [f"tls://fanout:$(NATS_PASSWORD)@nats-{nth}.nats.messaging:4222" for nth in range(3)]
    fanout.check(fanout.values["FANOUT_NATS"].split(",") == servers, "FANOUT_NATS: other servers than said")
    order = list(fanout.values)
    fanout.check(order.index("NATS_PASSWORD") < order.index("FANOUT_NATS"), "FANOUT_NATS: before what it names")
    rolling = {"maxUnavailable": 0, "maxSurge": 1}
    fanout.check(fanout.set["strategy"]["rollingUpdate"] == rolling, "an update takes a replica away first")
    fanout.check(fanout.budget.get("maxUnavailable") == 1, "PodDisruptionBudget: more than one may go")
    fanout.check(seconds(fanout.values["FANOUT_DRAIN_DELAY"]) > 0, "FANOUT_DRAIN_DELAY: clients learn of the end too late")
    to_nats, to_names = fanout.policy["egress"]
    fanout.check([entry["port"] for entry in to_nats["ports"]] == [4222], "NetworkPolicy: does not let it out to NATS")
    (peer,) = to_nats["to"]
    fanout.check(set(peer) == {"podSelector", "namespaceSelector"}, "NetworkPolicy: lets it out to others")
    fanout.check({entry["port"] for entry in to_names["ports"]} == {53}, "NetworkPolicy: more than NATS and DNS")
    scaler = by_name["HorizontalPodAutoscaler", "fanout"]["spec"]
    fanout.check("replicas" not in fanout.set, "replicas: would undo what the autoscaler does")
    fanout.check(scaler["scaleTargetRef"]["name"] == "fanout", "HorizontalPodAutoscaler: scales something else")
    fanout.check("cpu" in fanout.container["resources"]["requests"], "HorizontalPodAutoscaler: a share of nothing")


if folder == "chart-custom":
    check(set(by_name) == {("ScaledObject", "fanout"), ("PodMonitor", "fanout")}, "custom: others than said")
    scaled = by_name["ScaledObject", "fanout"]["spec"]
    (trigger,) = scaled["triggers"]
    check(scaled["scaleTargetRef"] == {"name": "fanout"}, "keda: scales something else")
    texts = trigger["metadata"].values()
    check(trigger["type"] == "prometheus" and all(isinstance(text, str) for text in texts), "keda: not as it takes it")
    monitor = by_name["PodMonitor", "fanout"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    check(endpoint == {"port": "metrics", "path": "/metrics", "interval": "30s"}, "PodMonitor: looks elsewhere")
    check(monitor["metadata"]["labels"]["release"] == "prometheus", "PodMonitor: without the label that was said")
    selected = {"app.kubernetes.io/name": "fanout", "app.kubernetes.io/instance": "fanout"}
    check(monitor["spec"]["selector"] == {"matchLabels": selected}, "PodMonitor: selects other pods")
    sys.exit("\n".join(problems) or 0)

fanout = Program("fanout", "StatefulSet" if folder.endswith("disk") else "Deployment")
programs = [fanout]
check_fanout(fanout)
if folder in ("base", "chart-memory", "chart-closed"):
    check_kept_in_memory(fanout)
elif folder.endswith("disk"):
    check_kept_on_disk(fanout)
elif folder == "chart-nats":
    check_shared(fanout)
else:
    programs.append(Program("nats", "StatefulSet"))
    check_kept_on_nats(*programs)
for program in programs:
    program.check_selectors()
    program.check_ports()
    program.check_rights()

for problem in problems:
    print(f"manifests: {problem}", file=sys.stderr)
sys.exit(bool(problems))
