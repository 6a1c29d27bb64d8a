"""The checks of the manifests, each seen to fail on a manifest that is broken in one place.

A check that nothing can fail says nothing. Every case takes the overlay `local` as it is, for which
all checks hold, and breaks one field of it.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes_validate import ValidationError

from tests.deploy import test_deploy_manifests as shape
from tests.deploy import test_deploy_network as network
from tests.deploy import test_deploy_settings as told
from tests.deploy.manifests import NAME, WITH_CLINIC, Manifests, Workload, rendered

Break = Callable[[Manifests], object]
Check = Callable[[Manifests], object]
CAUGHT = (AssertionError, ValueError, ValidationError)


def usage(manifests: Manifests) -> Workload:
    return manifests.workload("usage")


def variable(manifests: Manifests, name: str) -> dict[str, Any]:
    (found,) = [v for v in usage(manifests).container["env"] if v["name"] == name]
    return found  # type: ignore[no-any-return]


def add_variable(name: str, value: str) -> Break:
    return lambda m: usage(m).container["env"].append({"name": name, "value": value})


def without_variable(name: str) -> Break:
    return lambda m: usage(m).container["env"].remove(variable(m, name))


def in_pod(**fields: Any) -> Break:
    return lambda m: usage(m).pod.update(fields)


def in_pod_context(**fields: Any) -> Break:
    return lambda m: usage(m).pod["securityContext"].update(fields)


def in_container(**fields: Any) -> Break:
    return lambda m: usage(m).container.update(fields)


def in_container_context(**fields: Any) -> Break:
    return lambda m: usage(m).container["securityContext"].update(fields)


def in_spec(kind: str, name: str, **fields: Any) -> Break:
    return lambda m: m.named(kind, name)["spec"].update(fields)


def without(kind: str, name: str) -> Break:
    return lambda m: m.documents.remove(m.named(kind, name))


def policy(name: str, **spec: Any) -> Break:
    made = {
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "gatehouse"},
        "spec": {"policyTypes": ["Ingress", "Egress"], **spec},
    }
    return lambda m: m.documents.append(made)


def pod_named(name: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {NAME: name}}}


def probe_asks(index: int, word: str) -> Break:
    def broken(manifests: Manifests) -> None:
        usage(manifests).container["startupProbe"]["exec"]["command"][index] = word

    return broken


def both_ways(source: str, target: str) -> Break:
    """Opens an arrow that the picture does not have, at both of its ends."""
    port = [{"protocol": "TCP", "port": 8443}]
    leave = policy("one", **pod_named(source), egress=[{"to": [pod_named(target)], "ports": port}])
    enter = policy(
        "other", **pod_named(target), ingress=[{"from": [pod_named(source)], "ports": port}]
    )
    return lambda m: (leave(m), enter(m))


def of_usage(check: Callable[[told.Placed], object]) -> Check:
    return lambda m: check((m, usage(m), WITH_CLINIC["usage"]))


def known_to_kubernetes(manifests: Manifests) -> None:
    """Of the one document that is broken: all of them take seconds."""
    one = Manifests(manifests.overlay, [usage(manifests).document])
    shape.test_every_manifest_is_one_that_kubernetes_knows(one, shape.NEWEST[-1])


GRACE = "terminationGracePeriodSeconds"
RIGHTS = shape.test_no_pod_has_a_right_that_it_does_not_need
TELLS = shape.test_every_pod_says_what_it_takes
IMAGES = shape.test_an_image_says_which_one_it_is
BUDGETS = shape.test_every_service_keeps_a_replica_when_machines_are_emptied
SCALERS = shape.test_every_service_grows_with_its_load
CLUSTER = shape.test_no_pod_can_speak_to_the_cluster
NAMESPACES = shape.test_everything_is_in_the_namespace_that_forbids_privileges
PICTURE = network.test_the_services_are_joined_as_the_picture_shows
SECRETS = told.test_no_secret_is_in_the_manifests
VOLUMES = shape.test_volumes_are_of_the_kinds_that_restricted_pods_may_have
FINISH = shape.test_a_replica_has_the_time_to_finish_what_it_began
LEADS = shape.test_a_service_leads_to_ports_that_its_pods_have
VARIABLES = of_usage(told.test_every_variable_is_a_setting_of_its_service)
PROBES = of_usage(told.test_a_probe_asks_for_what_the_service_serves)

BROKEN: dict[str, tuple[Break, Check]] = {
    "a field is misspelt": (in_pod(teminationGracePeriodSeconds=1), known_to_kubernetes),
    "a value is of the wrong type": (in_container(image=7), known_to_kubernetes),
    "a selector picks other pods": (
        lambda m: usage(m).document["spec"]["selector"].update(matchLabels={NAME: "other"}),
        shape.test_a_workload_selects_its_own_pods_and_no_others,
    ),
    "a Service selects other pods": (in_spec("Service", "usage", selector={NAME: "x"}), LEADS),
    "a Service leads to another port": (
        in_spec("Service", "usage", ports=[{"port": 8444, "targetPort": "grpc"}]),
        LEADS,
    ),
    "a Service stands before its pods": (
        in_spec("Service", "usage", clusterIP="10.0.0.1"),
        shape.test_callers_see_every_replica_and_choose_among_them,
    ),
    "a pod may be root": (in_pod_context(runAsNonRoot=False), RIGHTS),
    "a pod is root": (in_pod_context(runAsUser=0), RIGHTS),
    "a pod's system calls are free": (
        in_pod_context(seccompProfile={"type": "Unconfined"}),
        RIGHTS,
    ),
    "a pod is on the machine's network": (in_pod(hostNetwork=True), RIGHTS),
    "a pod sees the machine's processes": (in_pod(hostPID=True), RIGHTS),
    "a pod takes a port of the machine": (
        in_container(ports=[{"name": "grpc", "containerPort": 8443, "hostPort": 8443}]),
        RIGHTS,
    ),
    "a container has a capability": (
        in_container_context(capabilities={"drop": ["ALL"], "add": ["NET_RAW"]}),
        RIGHTS,
    ),
    "a container keeps its capabilities": (in_container_context(capabilities={}), RIGHTS),
    "a container may gain rights": (in_container_context(allowPrivilegeEscalation=True), RIGHTS),
    "a container is privileged": (in_container_context(privileged=True), RIGHTS),
    "a container writes anywhere": (in_container_context(readOnlyRootFilesystem=False), RIGHTS),
    "a container has its own user": (in_container_context(runAsUser=0), RIGHTS),
    "a pod mounts the machine's files": (
        lambda m: usage(m).pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        VOLUMES,
    ),
    "a pod has a token of the cluster": (in_pod(automountServiceAccountToken=True), CLUSTER),
    "a pod has another's account": (in_pod(serviceAccountName="gateway"), CLUSTER),
    "the latest image is run": (in_container(image="gatehouse:latest"), IMAGES),
    "any image is run": (in_container(image="registry.example:5000/gatehouse"), IMAGES),
    "a container has no limits": (in_container(resources={"requests": {}}), TELLS),
    "a budget lets all replicas go": (
        in_spec("PodDisruptionBudget", "usage", maxUnavailable="100%"),
        BUDGETS,
    ),
    "a budget is of other pods": (
        in_spec("PodDisruptionBudget", "usage", selector={"matchLabels": {NAME: "x"}}),
        BUDGETS,
    ),
    "a scaler scales something else": (
        in_spec("HorizontalPodAutoscaler", "usage", scaleTargetRef={"kind": "Deployment"}),
        SCALERS,
    ),
    "a number of replicas is fixed": (in_spec("StatefulSet", "usage", replicas=2), SCALERS),
    "replicas may share a machine": (
        in_pod(topologySpreadConstraints=[]),
        shape.test_replicas_are_spread,
    ),
    "a pod is killed while it drains": (in_pod(**{GRACE: 30}), FINISH),
    "outcomes are lost with the pod": (
        in_spec("StatefulSet", "usage", volumeClaimTemplates=[]),
        shape.test_what_waits_for_the_log_outlives_the_pod,
    ),
    "the namespace allows privileges": (
        lambda m: m.named("Namespace", "gatehouse")["metadata"].update(
            labels={"pod-security.kubernetes.io/enforce": "privileged"}
        ),
        NAMESPACES,
    ),
    "something is elsewhere": (
        lambda m: m.named("Service", "usage")["metadata"].update(namespace="default"),
        NAMESPACES,
    ),
    "a schema is forgotten": (
        lambda m: m.workload("migrations").container["command"].remove("usage"),
        shape.test_a_migration_lays_out_what_the_services_wait_for,
    ),
    "a ConfigMap is not by its contents": (
        lambda m: m.of("ConfigMap")[0]["metadata"].update(name="settings"),
        shape.test_settings_that_change_are_a_rollout,
    ),
    "a variable is misspelt": (add_variable("GATEHOUSE_USAGE_GRACE_SECOND", "1"), VARIABLES),
    "a variable is another service's": (add_variable("GATEHOUSE_OPLOG_LISTEN", "x"), VARIABLES),
    "a setting that is needed is not given": (
        without_variable("GATEHOUSE_USAGE_JWT_ISSUER"),
        of_usage(told.test_every_setting_that_is_needed_is_given),
    ),
    "a peer is forgotten": (
        without_variable("GATEHOUSE_USAGE_OPLOG_TARGET"),
        of_usage(told.test_every_peer_that_a_service_may_have_is_named),
    ),
    "a password stands in an address": (add_variable("X", "postgresql://u:pass@host/db"), SECRETS),
    "a secret stands in a variable": (add_variable("ADMIN_PASSWORD", "x"), SECRETS),
    "a Secret is among the manifests": (
        lambda m: m.documents.append({"kind": "Secret", "metadata": {"name": "x"}}),
        SECRETS,
    ),
    "a probe asks for what is not served": (probe_asks(4, "gatehouse.x.v1.UsageService"), PROBES),
    "a probe asks at another port": (probe_asks(3, "usage:8444"), PROBES),
    "a probe asks another service": (probe_asks(3, "gateway:8443"), PROBES),
    "what no policy names is open": (
        without("NetworkPolicy", "nobody"),
        network.test_what_no_policy_names_is_closed,
    ),
    "an arrow is missing": (without("NetworkPolicy", "usage"), PICTURE),
    "an arrow is too many": (both_ways("router", "usage"), PICTURE),
    "another service reaches the internet": (
        policy(
            "x",
            **pod_named("gateway"),
            egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": []}],
        ),
        network.test_only_the_router_reaches_the_internet,
    ),
    "anybody calls": (
        policy(
            "x",
            **pod_named("usage"),
            ingress=[{"from": [{"namespaceSelector": {}}], "ports": [{"port": 8443}]}],
        ),
        network.test_only_namespaces_that_say_so_call_and_only_the_gateway,
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_check_holds_and_fails_once_something_is_broken(what: str) -> None:
    change, check = BROKEN[what]
    whole = rendered("local")
    check(whole)
    broken = Manifests(whole.overlay, copy.deepcopy(whole.documents))
    change(broken)
    with pytest.raises(CAUGHT):
        check(broken)
