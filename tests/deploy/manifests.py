"""The rendered manifests, read as a cluster reads them."""

import functools
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from examples.clinic.settings import Settings as ClinicSettings
from services.entitlements.settings import Settings as EntitlementsSettings
from services.gateway.settings import Settings as GatewaySettings
from services.oplog.settings import Settings as OplogSettings
from services.router.settings import Settings as RouterSettings
from services.runtime.settings import ServiceSettings
from services.usage.settings import Settings as UsageSettings

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "deploy" / "k8s" / "overlays"
SETTINGS: dict[str, type[ServiceSettings]] = {
    "entitlements": EntitlementsSettings,
    "usage": UsageSettings,
    "router": RouterSettings,
    "gateway": GatewaySettings,
    "oplog": OplogSettings,
}
WITH_CLINIC: dict[str, type[ServiceSettings]] = {**SETTINGS, "clinic": ClinicSettings}
RUNNING = ("Deployment", "StatefulSet", "Job")
NAME = "app.kubernetes.io/name"

Secret = Callable[[str, str], str]
"""What is in a Secret under a key."""


@dataclass(frozen=True)
class Workload:
    """A Deployment, a StatefulSet or a Job, and the pod that it makes."""

    document: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.document["kind"])

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def template(self) -> dict[str, Any]:
        template: dict[str, Any] = self.document["spec"]["template"]
        return template

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def pod(self) -> dict[str, Any]:
        pod: dict[str, Any] = self.template["spec"]
        return pod

    @property
    def container(self) -> dict[str, Any]:
        """Its only one."""
        (container,) = self.pod["containers"]
        found: dict[str, Any] = container
        return found

    @property
    def ports(self) -> dict[str, int]:
        return {each["name"]: each["containerPort"] for each in self.container.get("ports", [])}

    @property
    def secret_variables(self) -> dict[str, tuple[str, str]]:
        """The variables that come out of a Secret: which, and under which key."""
        return {
            each["name"]: (reference["name"], reference["key"])
            for each in self.container.get("env", [])
            if (reference := each.get("valueFrom", {}).get("secretKeyRef"))
        }


@dataclass(frozen=True)
class Manifests:
    """What an overlay comes to."""

    overlay: str
    documents: list[dict[str, Any]]

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [each for each in self.documents if each["kind"] in kinds]

    def named(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    @property
    def workloads(self) -> list[Workload]:
        return [Workload(each) for each in self.of(*RUNNING)]

    def workload(self, name: str) -> Workload:
        (found,) = [each for each in self.workloads if each.name == name]
        return found

    @property
    def services(self) -> list[Workload]:
        """The five of ours."""
        return [self.workload(name) for name in SETTINGS]

    @property
    def ours(self) -> list[Workload]:
        """Whatever runs our image."""
        return [each for each in self.workloads if "gatehouse:" in each.container["image"]]

    @property
    def collector_config(self) -> dict[str, Any]:
        """The configuration of the OpenTelemetry Collector that the overlay deploys."""
        (config,) = [
            dict(yaml.safe_load(each["data"]["config.yaml"]))
            for each in self.of("ConfigMap")
            if each["metadata"]["name"].startswith("otel-collector")
        ]
        return config

    def variables(self, workload: Workload, secret: Secret) -> dict[str, str]:
        """The environment of the workload's container; what `env` names wins over `envFrom`."""
        found: dict[str, str] = {}
        for each in workload.container.get("envFrom", []):
            found |= self.named("ConfigMap", each["configMapRef"]["name"])["data"]
        for each in workload.container.get("env", []):
            found[each["name"]] = self._value(each, secret)
        return found

    def _value(self, variable: Mapping[str, Any], secret: Secret) -> str:
        source = variable.get("valueFrom", {})
        if reference := source.get("configMapKeyRef"):
            return str(self.named("ConfigMap", reference["name"])["data"][reference["key"]])
        if reference := source.get("secretKeyRef"):
            return secret(reference["name"], reference["key"])
        return str(variable["value"])

    def files(
        self, workload: Workload, secret: Secret, keys: Callable[[str], Iterable[str]]
    ) -> Any:
        """Yields (path, content) of every file that is mounted into the workload's container.

        *keys* says which there are in a Secret that is mounted whole.
        """
        volumes = {each["name"]: each for each in workload.pod.get("volumes", [])}
        for mount in workload.container.get("volumeMounts", []):
            volume = volumes.get(mount["name"], {})
            for name, content in self._content(volume, secret, keys):
                yield f"{mount['mountPath']}/{name}", content

    def _content(
        self, volume: Mapping[str, Any], secret: Secret, keys: Callable[[str], Iterable[str]]
    ) -> Iterable[tuple[str, str]]:
        if "configMap" in volume:
            yield from self.named("ConfigMap", volume["configMap"]["name"])["data"].items()
        sources = [each["secret"] for each in volume.get("projected", {}).get("sources", [])]
        if "secret" in volume:
            sources.append({**volume["secret"], "name": volume["secret"]["secretName"]})
        for source in sources:
            whole = [{"key": key, "path": key} for key in keys(source["name"])]
            for item in source.get("items", whole):
                yield item["path"], secret(source["name"], item["key"])


@functools.cache
def rendered(overlay: str) -> Manifests:
    """What `kubectl kustomize` makes of *overlay*."""
    kubectl = Path(sys.executable).parent / "kubectl"
    done = subprocess.run(
        [kubectl, "kustomize", OVERLAYS / overlay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return Manifests(overlay, list(yaml.safe_load_all(done.stdout)))
