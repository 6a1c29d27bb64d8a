"""What the manifests promise, and the schemas of Kubernetes do not see."""

import re
from typing import Any

import pytest
from kubernetes_validate import utils

from deploy.probe import SECONDS
from services.runtime.serving import HEALTH_SECONDS
from services.runtime.telemetry import EXPORT_SECONDS
from tests.deploy.manifests import NAME, RUNNING, Manifests, Workload

NEWEST = sorted(
    {utils.major_minor(each) for each in utils.all_versions()},
    key=lambda version: tuple(map(int, version.split("."))),
)[-3:]


@pytest.mark.parametrize("version", NEWEST)
def test_every_manifest_is_one_that_kubernetes_knows(manifests: Manifests, version: str) -> None:
    """Strictly: a field that is misspelt is a mistake."""
    for each in manifests.documents:
        utils.validate(each, version, strict=True)


def test_nothing_is_named_twice(manifests: Manifests) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests.documents]
    assert len(names) == len(set(names))


def test_everything_is_in_the_namespace_that_forbids_privileges(manifests: Manifests) -> None:
    namespace = manifests.named("Namespace", "gatehouse")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for each in manifests.documents:
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "gatehouse", each["metadata"]["name"]


def test_a_workload_selects_its_own_pods_and_no_others(manifests: Manifests) -> None:
    for each in manifests.workloads:
        assert each.labels[NAME] == each.name
        if each.kind != "Job":
            assert each.document["spec"]["selector"] == {"matchLabels": {NAME: each.name}}


def test_a_service_leads_to_ports_that_its_pods_have(manifests: Manifests) -> None:
    for service in manifests.of("Service"):
        workload = manifests.workload(service["metadata"]["name"])
        assert service["spec"]["selector"] == {NAME: workload.name}
        for port in service["spec"]["ports"]:
            # A headless name leads to the pods themselves, so nothing translates the port.
            assert workload.ports[port["targetPort"]] == port["port"]


def test_callers_see_every_replica_and_choose_among_them(manifests: Manifests) -> None:
    """ALL-1: round robin needs the addresses of the replicas, not one in front of them."""
    for each in manifests.services:
        service = manifests.named("Service", each.name)
        assert service["spec"]["clusterIP"] == "None"
        assert not service["spec"].get("publishNotReadyAddresses")


def test_a_stateful_set_stands_behind_its_own_name(manifests: Manifests) -> None:
    for each in manifests.of("StatefulSet"):
        assert each["spec"]["serviceName"] == each["metadata"]["name"]


@pytest.mark.parametrize("field", ["runAsUser", "runAsGroup", "fsGroup"])
def test_the_manifests_run_as_the_user_of_the_image(manifests: Manifests, field: str) -> None:
    for each in manifests.ours:
        assert each.pod["securityContext"][field] == 10001


def test_no_pod_has_a_right_that_it_does_not_need(manifests: Manifests) -> None:
    """Pod Security `restricted`, field by field, and a root filesystem that nobody writes."""
    for each in manifests.workloads:
        assert each.pod["securityContext"]["runAsNonRoot"] is True, each.name
        assert each.pod["securityContext"]["runAsUser"] > 0
        assert each.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for field in ("hostNetwork", "hostPID", "hostIPC", "initContainers"):
            assert field not in each.pod
        assert "hostPort" not in str(each.container.get("ports"))
        assert each.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        }


def test_volumes_are_of_the_kinds_that_restricted_pods_may_have(manifests: Manifests) -> None:
    kinds = {"secret", "configMap", "projected", "emptyDir"}
    for each in manifests.workloads:
        for volume in each.pod.get("volumes", []):
            assert set(volume) - {"name"} <= kinds


def test_every_volume_is_there_and_used(manifests: Manifests) -> None:
    for each in manifests.workloads:
        claims = each.document["spec"].get("volumeClaimTemplates", [])
        there = [volume["name"] for volume in each.pod.get("volumes", [])]
        there += [claim["metadata"]["name"] for claim in claims]
        mounts = each.container.get("volumeMounts", [])
        assert {mount["name"] for mount in mounts} == set(there), each.name
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts)


def test_no_pod_can_speak_to_the_cluster(manifests: Manifests) -> None:
    accounts = {each["metadata"]["name"]: each for each in manifests.of("ServiceAccount")}
    for each in manifests.workloads:
        assert each.pod["serviceAccountName"] == each.name
        assert each.pod["automountServiceAccountToken"] is False
        assert accounts[each.name]["automountServiceAccountToken"] is False
    assert not manifests.of("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")


def test_the_cluster_adds_no_variables_of_its_own(manifests: Manifests) -> None:
    """ALL-5: a service refuses to start with a variable of its prefix that means nothing."""
    for each in manifests.workloads:
        assert each.pod["enableServiceLinks"] is False


def test_an_image_says_which_one_it_is(manifests: Manifests) -> None:
    for each in manifests.workloads:
        tagged = re.search(r":(?P<tag>[^/:@]+)$", each.container["image"])
        digest = re.search(r"@sha256:[0-9a-f]{64}$", each.container["image"])
        assert digest or (tagged and tagged["tag"] != "latest"), each.container["image"]


def test_every_pod_says_what_it_takes(manifests: Manifests) -> None:
    for each in manifests.workloads:
        resources = each.container["resources"]
        for kind in ("requests", "limits"):
            assert set(resources[kind]) == {"cpu", "memory"}, each.name
        assert quantity(resources["requests"]["memory"]) <= quantity(resources["limits"]["memory"])
        assert quantity(resources["requests"]["cpu"]) <= quantity(resources["limits"]["cpu"])


def quantity(text: str) -> float:
    found = re.fullmatch(r"(\d+)(m|Mi|Gi)?", str(text))
    assert found is not None, text
    units = {None: 1.0, "m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30}
    return float(found[1]) * units[found[2]]


def test_every_service_keeps_a_replica_when_machines_are_emptied(manifests: Manifests) -> None:
    for each in manifests.services:
        budget = manifests.named("PodDisruptionBudget", each.name)["spec"]
        assert budget["selector"] == {"matchLabels": {NAME: each.name}}
        assert budget["maxUnavailable"] == 1
        scaler = manifests.named("HorizontalPodAutoscaler", each.name)["spec"]
        assert scaler["minReplicas"] > 1 or manifests.overlay == "local"


def test_every_service_grows_with_its_load(manifests: Manifests) -> None:
    for each in manifests.services:
        scaler = manifests.named("HorizontalPodAutoscaler", each.name)["spec"]
        assert scaler["scaleTargetRef"] == {
            "apiVersion": "apps/v1",
            "kind": each.kind,
            "name": each.name,
        }
        assert scaler["minReplicas"] <= scaler["maxReplicas"]
        # Applying the manifests again must not undo what the scaler has done.
        assert "replicas" not in each.document["spec"]


def test_replicas_are_spread(manifests: Manifests) -> None:
    for each in manifests.services:
        keys = {spread["topologyKey"] for spread in each.pod["topologySpreadConstraints"]}
        assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        for spread in each.pod["topologySpreadConstraints"]:
            selected = spread["labelSelector"]["matchLabels"]
            assert selected.items() <= each.labels.items()
            assert spread["matchLabelKeys"] == [NAME]


def test_a_replica_has_the_time_to_finish_what_it_began(manifests: Manifests) -> None:
    """ALL-1: preStop, the grace of running calls, what is reported after them, the last spans."""
    for each in manifests.services:
        variables = manifests.variables(each, lambda name, key: "")
        prefix = f"GATEHOUSE_{each.name.upper()}_"
        needed = each.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        needed += float(variables[f"{prefix}GRACE_SECONDS"])
        needed += float(variables.get(f"{prefix}REQUEST_SECONDS", 0))
        # Callers get a moment to turn away; spans and metrics are sent one after the other.
        needed += 2 + 2 * EXPORT_SECONDS
        assert needed < each.pod["terminationGracePeriodSeconds"], each.name


def test_what_waits_for_the_log_outlives_the_pod(manifests: Manifests) -> None:
    """LOG-2: outcomes that the log cannot take are on a volume that no restart empties."""
    for each in manifests.services:
        variables = manifests.variables(each, lambda name, key: "")
        spool = variables.get(f"GATEHOUSE_{each.name.upper()}_SPOOL_DIRECTORY")
        if spool is None or each.name == "router":
            # The router's records are in Postgres soon after they are in its spool.
            assert each.kind == "Deployment", each.name
            continue
        assert each.kind == "StatefulSet"
        (claim,) = each.document["spec"]["volumeClaimTemplates"]
        (mount,) = [m for m in each.container["volumeMounts"] if spool.startswith(m["mountPath"])]
        assert mount["name"] == claim["metadata"]["name"]
        assert not mount.get("readOnly")
        kept = each.document["spec"]["persistentVolumeClaimRetentionPolicy"]
        assert set(kept.values()) == {"Retain"}


def test_what_the_router_records_outlives_its_container(manifests: Manifests) -> None:
    """ROU-6: on a volume of the pod, with a bound."""
    router = manifests.workload("router")
    variables = manifests.variables(router, lambda name, key: "")
    spool = variables["GATEHOUSE_ROUTER_SPOOL_DIRECTORY"]
    (mount,) = [m for m in router.container["volumeMounts"] if spool.startswith(m["mountPath"])]
    (volume,) = [v for v in router.pod["volumes"] if v["name"] == mount["name"]]
    assert volume["emptyDir"]["sizeLimit"]


def test_nothing_else_is_written_to(manifests: Manifests) -> None:
    for each in manifests.ours:
        claims = each.document["spec"].get("volumeClaimTemplates", [])
        spools = {claim["metadata"]["name"] for claim in claims} | {"spool"}
        for mount in each.container["volumeMounts"]:
            assert mount.get("readOnly") or mount["name"] in spools


def seconds(probe: dict[str, Any]) -> float:
    """How long a probe fails before it has an effect."""
    return float(probe["failureThreshold"] * probe["periodSeconds"])


def test_only_the_first_probe_asks_after_dependencies(manifests: Manifests) -> None:
    """USE-7: a store that is away takes no replica's name away and restarts none."""
    for each in manifests.services:
        wanted = {
            name: each.container[name]["exec"]["command"][2]
            for name in ("startupProbe", "readinessProbe", "livenessProbe")
        }
        assert wanted == {
            "startupProbe": "serves",
            "readinessProbe": "answers",
            "livenessProbe": "answers",
        }
        # The probe tells of a silence itself, before it is cut off.
        assert all(each.container[name]["timeoutSeconds"] >= SECONDS + 1 for name in wanted)
        # A schema that is not there yet is waited for, within the service, for a minute.
        assert seconds(each.container["startupProbe"]) > 60
        assert seconds(each.container["livenessProbe"]) >= 60
        assert each.container["startupProbe"]["periodSeconds"] > HEALTH_SECONDS


def test_replicas_use_no_more_connections_than_postgres_has(local: Manifests) -> None:
    used = 0
    for each in local.services:
        variables = local.variables(each, lambda name, key: "")
        pool = int(variables.get(f"GATEHOUSE_{each.name.upper()}_POOL_MAX_SIZE", 0))
        scaler = local.named("HorizontalPodAutoscaler", each.name)["spec"]
        # Besides its pool a service has a connection that listens, and a rollout one replica more.
        used += (scaler["maxReplicas"] + 1) * (pool + 1 if pool else 0)
    (limit,) = [
        int(each.removeprefix("-cmax_connections="))
        for each in local.workload("postgres").container["args"]
        if each.startswith("-cmax_connections=")
    ]
    assert used < limit - 10


def test_settings_that_change_are_a_rollout(manifests: Manifests) -> None:
    """Each ConfigMap is named after what it holds, and every one of them is used."""
    names = {each["metadata"]["name"] for each in manifests.of("ConfigMap")}
    assert all(re.search(r"-[a-z0-9]{10}$", name) for name in names)
    used = str([each for each in manifests.documents if each["kind"] in RUNNING])
    assert {name for name in names if f"'{name}'" in used} == names


def test_a_migration_lays_out_what_the_services_wait_for(manifests: Manifests) -> None:
    job = manifests.workload("migrations")
    services = {each.name for each in manifests.ours if uses_postgres(each)} - {"migrations"}
    assert job.container["command"][:3] == ["python", "-m", "services.runtime.migrations"]
    assert set(job.container["command"][3:]) == services
    assert job.pod["restartPolicy"] == "OnFailure"


def uses_postgres(workload: Workload) -> bool:
    return any(name.endswith("_DATABASE_URL") for name in workload.secret_variables)
