"""Who may speak to whom: what the network policies allow is what the settings need, no more."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from cryptography import x509
from gatehouse.domain.v1 import domain_pb2 as domain_pb2
from gatehouse.oplog.v1 import oplog_pb2 as oplog_pb2
from google.protobuf import descriptor_pool
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service_pb2

from services.runtime.peers import Peers
from tests.deploy.manifests import NAME, SETTINGS, Manifests, Workload, rendered
from tests.deploy.promql import HANDBOOK

Arrow = tuple[str, str, int]
Secrets = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Pod:
    """One end of an arrow: a pod's labels, and the labels of its namespace."""

    name: str
    labels: dict[str, str]
    namespace: dict[str, str]
    ports: tuple[int, ...]

    @property
    def is_ours(self) -> bool:
        return self.namespace["kubernetes.io/metadata.name"] == "gatehouse"


def pod_of(workload: Workload) -> Pod:
    ours = {"kubernetes.io/metadata.name": "gatehouse"}
    return Pod(workload.name, workload.labels, ours, tuple(workload.ports.values()))


def elsewhere(name: str, labels: dict[str, str], *ports: int, **namespace: str) -> Pod:
    """A pod in a namespace of someone else."""
    return Pod(name, labels, {"kubernetes.io/metadata.name": "other", **namespace}, ports)


def chosen(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector picks *labels*."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return dict(selector.get("matchLabels", {})).items() <= labels.items()


def is_peer(peer: dict[str, Any], pod: Pod) -> bool:
    """Whether one `to` or `from` of a policy of ours names *pod*."""
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        if not chosen(peer["namespaceSelector"], pod.namespace):
            return False
    elif not pod.is_ours:
        return False
    return chosen(peer.get("podSelector", {}), pod.labels)


def opens(port: dict[str, Any], number: int) -> bool:
    if port.get("protocol", "TCP") != "TCP":
        return False
    if "port" not in port:
        return True
    return bool(port["port"] <= number <= port.get("endPort", port["port"]))


def lets(policies: list[dict[str, Any]], direction: str, own: Pod, other: Pod, number: int) -> bool:
    """Whether *own* may be reached by (Ingress) or reach (Egress) *other* at a port."""
    if not own.is_ours:
        return True  # its policies are someone else's
    rules_name, peers_name = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    picked = [
        each["spec"]
        for each in policies
        if direction in each["spec"]["policyTypes"]
        and chosen(each["spec"]["podSelector"], own.labels)
    ]
    if not picked:
        return True
    return any(
        any(opens(port, number) for port in rule["ports"])
        and any(is_peer(peer, other) for peer in rule[peers_name])
        for spec in picked
        for rule in spec.get(rules_name, [])
    )


def opened(manifests: Manifests, pods: Iterable[Pod], direction: str) -> set[Arrow]:
    """Every arrow between *pods* that one of its ends lets through."""
    policies = manifests.of("NetworkPolicy")
    return {
        (source.name, target.name, port)
        for source, target in itertools.permutations(pods, 2)
        for port in target.ports
        for own, other in [(source, target) if direction == "Egress" else (target, source)]
        if lets(policies, direction, own, other, port)
    }


def allowed(manifests: Manifests, pods: Iterable[Pod]) -> set[Arrow]:
    """Every arrow between *pods* that both of its ends let through."""
    pods = list(pods)
    return opened(manifests, pods, "Egress") & opened(manifests, pods, "Ingress")


def exports(manifests: Manifests) -> Iterator[tuple[str, int]]:
    """Where the collector sends what it gets."""
    for each in manifests.of("ConfigMap"):
        if each["metadata"]["name"].startswith("otel-collector"):
            for exporter in yaml.safe_load(each["data"]["config.yaml"])["exporters"].values():
                if "tls" in exporter:
                    host, _, port = exporter["endpoint"].removeprefix("dns:///").partition(":")
                    yield host, int(port)


def needed(manifests: Manifests, secret: Callable[[str, str], str]) -> set[Arrow]:
    """The arrows that the settings name: peers, stores, the collector, and the domains."""
    arrows: set[Arrow] = set()
    for workload in manifests.ours:
        for name, value in manifests.variables(workload, secret).items():
            if name.endswith(("_TARGET", "_OTLP_ENDPOINT", "_DATABASE_URL", "_VALKEY_URL")):
                parts = urlsplit(
                    value.replace("dns:///", "dns://") if "://" in value else f"//{value}"
                )
                assert parts.hostname is not None
                assert parts.port is not None
                arrows.add((workload.name, parts.hostname.split(".")[0], parts.port))
    for target in exports(manifests):
        arrows.add(("otel-collector", *target))
    domains = [each for each in manifests.ours if each.labels.get("gatehouse/role") == "domain"]
    for each in domains:
        for port in each.ports.values():
            # The gateway dispatches to them; the log's settler asks what became of an operation.
            arrows |= {("gateway", each.name, port), ("oplog", each.name, port)}
    return arrows


@pytest.mark.parametrize("direction", ["Egress", "Ingress"])
def test_pods_reach_what_their_settings_name_and_nothing_else(
    local: Manifests, secrets: Secrets, direction: str
) -> None:
    """ALL-3: the arrows of the picture, and at neither of their ends more than these."""
    pods = [pod_of(each) for each in local.workloads]
    assert opened(local, pods, direction) == needed(local, lambda name, key: secrets[name][key])


def test_the_services_are_joined_as_the_picture_shows(manifests: Manifests) -> None:
    pods = [pod_of(each) for each in manifests.services]
    assert {(source, target) for source, target, _ in allowed(manifests, pods)} == {
        ("gateway", "entitlements"),
        ("gateway", "usage"),
        ("gateway", "router"),
        ("gateway", "oplog"),
        ("entitlements", "oplog"),
        ("usage", "oplog"),
        ("oplog", "entitlements"),
    }


# Whoever administers does so through a port-forward, which no policy sees.
ADMINISTRATOR = "caller"


def test_certificates_let_in_whom_the_network_lets_through(local: Manifests) -> None:
    """ALL-3: each service takes the callers that have an arrow to it, by name, and no others."""
    told = {
        each.name: value
        for each in local.ours
        for name, value in local.variables(each, lambda name, key: "").items()
        if name.endswith("_PEERS")
    }
    called = [each for each in local.ours if each.ports]
    assert told.keys() == {each.name for each in called}
    # Internal services have names of their own; the gateway tells them apart by their tokens.
    assert told.pop("gateway") == "*"
    callers = [*local.ours, local.workload("otel-collector")]
    arrows = allowed(local, [pod_of(each) for each in callers])
    assert {
        (name, service)
        for service, value in told.items()
        for name in Peers(value).names
        if name != ADMINISTRATOR
    } == {(source, target) for source, target, _ in arrows if target in told}


def test_a_peer_that_is_named_has_a_certificate_of_that_name(
    local: Manifests, secrets: Secrets
) -> None:
    """ALL-3: and no name of it is one of another service's certificate."""
    names: dict[str, set[str]] = {}
    for secret, content in secrets.items():
        if secret.endswith("-tls"):
            shown = x509.load_pem_x509_certificate(content["tls.crt"].encode())
            found = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            for name in found.get_values_for_type(x509.DNSName):
                names.setdefault(name, set()).add(secret)
    for each in local.ours:
        for variable, value in local.variables(each, lambda name, key: "").items():
            if variable.endswith("_PEERS"):
                for peer in set(Peers(value).names) - {"*"}:
                    assert names[peer] == {f"{peer}-tls"}


def test_a_method_that_a_peer_is_limited_to_exists(local: Manifests) -> None:
    """ALL-3: a limit that is misspelt would shut a peer out."""
    pool = descriptor_pool.Default()
    for each in local.ours:
        for variable, value in local.variables(each, lambda name, key: "").items():
            limits = value.split() if variable.endswith("_PEERS") else []
            for limit in (entry.partition("=")[2] for entry in limits):
                service, _, method = limit.partition("/")
                if service:
                    found = pool.FindServiceByName(service)
                    assert not method or method in found.methods_by_name


def test_only_namespaces_that_say_so_call_and_only_the_gateway(manifests: Manifests) -> None:
    caller = elsewhere("caller", {NAME: "billing"}, **{"gatehouse/calls": "gateway"})
    stranger = elsewhere("stranger", {NAME: "gateway"})
    pods = [pod_of(each) for each in manifests.workloads]
    reached = allowed(manifests, [caller, stranger, *pods])
    assert {each for each in reached if each[0] in ("caller", "stranger")} == {
        ("caller", "gateway", 8443)
    }


def test_domains_and_collectors_of_others_are_reached(manifests: Manifests) -> None:
    """DOM-1: a domain joins by its label, wherever it runs."""
    domain = elsewhere("lab", {"gatehouse/role": "domain"}, 9000)
    collector = elsewhere("theirs", {NAME: "otel-collector"}, 4317, 13133)
    stranger = elsewhere("stranger", {NAME: "billing"}, 9000, 4317, 443)
    pods = [pod_of(manifests.workload(name)) for name in SETTINGS]
    reached = allowed(manifests, [domain, collector, stranger, *pods])
    names = {each.name for each in (domain, collector, stranger)}
    outward = {each for each in reached if each[1] in names and each[0] not in names}
    assert outward == {
        ("gateway", "lab", 9000),
        ("oplog", "lab", 9000),
        *((name, "theirs", 4317) for name in SETTINGS),
    }


def test_what_no_policy_names_is_closed(manifests: Manifests) -> None:
    nobody = manifests.named("NetworkPolicy", "nobody")["spec"]
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("entitlements", {5432, 443}),
        ("usage", {5432, 6379, 443}),
        ("router", {5432, 443}),
        ("gateway", {5432, 443}),
        ("oplog", {5432, 443}),
        ("migrations", {5432}),
    ],
)
def test_what_is_outside_is_reached_by_those_who_need_it(name: str, ports: set[int]) -> None:
    """The stores, the issuer's keys, and for the router the providers, by their addresses."""
    manifests = rendered("production")
    labels = manifests.workload(name).labels
    found = {
        port["port"]
        for policy in manifests.of("NetworkPolicy")
        if chosen(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get("egress", [])
        if any("ipBlock" in peer for peer in rule["to"])
        for port in rule["ports"]
    }
    assert found == ports


def test_only_the_router_reaches_the_internet(manifests: Manifests) -> None:
    for policy in manifests.of("NetworkPolicy"):
        if "0.0.0.0/0" in str(policy):
            assert policy["spec"]["podSelector"] == {"matchLabels": {NAME: "router"}}
            (rule,) = policy["spec"]["egress"]
            v4, v6 = [each["ipBlock"] for each in rule["to"]]
            # Not the cluster's own networks, nor the address at which clouds hand out credentials.
            private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
            assert private <= set(v4["except"])
            assert {"fc00::/7", "fe80::/10"} <= set(v6["except"])


def test_exceptions_lie_within_their_block(manifests: Manifests) -> None:
    """Kind: a manifest that fits its schema and that the API server refuses.

    The server takes an IPv4-mapped address for IPv4, so `::/0` does not contain it.
    """
    blocks = [
        peer["ipBlock"]
        for policy in manifests.of("NetworkPolicy")
        for rule in [*policy["spec"].get("egress", []), *policy["spec"].get("ingress", [])]
        for peer in [*rule.get("to", []), *rule.get("from", [])]
        if "ipBlock" in peer
    ]
    assert blocks
    for block in blocks:
        check_block(block)


def check_block(block: dict[str, Any]) -> None:
    whole = ip_network(block["cidr"])
    for text in block.get("except", []):
        part = ip_network(text)
        assert getattr(part.network_address, "ipv4_mapped", None) is None, text
        assert part.version == whole.version, text
        assert part != whole, text
        assert part.subnet_of(whole), text  # type: ignore[arg-type]  of one version


def test_the_collector_accepts_its_batch_sizes(local: Manifests) -> None:
    """Kind: a configuration that the pinned collector refuses at start.

    Its exporters default to a min_size of 8192 items, and refuse one above max_size or queue_size.
    """
    queues = [
        exporter["sending_queue"]
        for config in (local.collector_config, handbook_collector_config())
        for exporter in config["exporters"].values()
        if exporter and "sending_queue" in exporter
    ]
    assert len(queues) == 2
    for queue in queues:
        smallest = queue["batch"].get("min_size", 8192)
        assert 0 <= smallest <= queue["batch"].get("max_size", smallest)
        assert smallest <= queue["queue_size"]


def handbook_collector_config() -> dict[str, Any]:
    """The collector configuration that docs/operations.md recommends."""
    (text,) = re.findall(r"```yaml\n(extensions:\n.*?)```", HANDBOOK, re.DOTALL)
    return dict(yaml.safe_load(text))


def test_everyone_may_look_up_names(manifests: Manifests) -> None:
    names = manifests.named("NetworkPolicy", "names")["spec"]
    assert names["podSelector"] == {}
    (rule,) = names["egress"]
    assert {(each["protocol"], each["port"]) for each in rule["ports"]} == {
        ("UDP", 53),
        ("TCP", 53),
    }


def test_the_collector_hands_operations_on_to_the_log_and_nothing_else(local: Manifests) -> None:
    """LOG-1, LOG-2: unsampled, until the log has them, with a token of the collector's own."""
    config = local.collector_config
    pipelines = config["service"]["pipelines"]
    for pipeline in pipelines.values():
        for kind, names in pipeline.items():
            assert set(names) <= set(config[kind]), names
    operations = pipelines["traces/operations"]
    assert operations["processors"] == ["memory_limiter", "filter/operations"]
    (condition,) = config["processors"]["filter/operations"]["traces"]["span"]
    assert set(re.findall('"([^"]+)"', condition)) == {"operation", "operation.intent"}
    (name,) = operations["exporters"]
    exporter = config["exporters"][name]
    assert exporter["retry_on_failure"]["max_elapsed_time"] == 0
    assert exporter["sending_queue"]["block_on_overflow"] is True
    token = exporter["headers"]["authorization"]
    (path,) = re.findall(r"^Bearer \$\{file:(.+)\}$", token)
    collector = local.workload("otel-collector")
    mounted = dict(local.files(collector, lambda name, key: f"{name} {key}", lambda name: []))
    assert mounted[path] == "otel-collector token"
