"""What the manifests tell each service, held against what the service can be told (ALL-5)."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from services.router.catalog import read_catalogue
from services.runtime.calling import TokenSource, peer_tls
from services.runtime.identity import open_verifier
from services.runtime.settings import ServiceSettings, is_secret, load, prefix_of
from tests.conftest import Tokens
from tests.deploy.manifests import (
    NAME,
    SETTINGS,
    WITH_CLINIC,
    Manifests,
    Workload,
    rendered,
)

Secrets = dict[str, dict[str, str]]
PLACED = [
    *(("local", name) for name in WITH_CLINIC),
    *(("production", name) for name in SETTINGS),
]


@pytest.fixture(params=PLACED, ids="-".join)
def placed(request: pytest.FixtureRequest) -> tuple[Manifests, Workload, type[ServiceSettings]]:
    """A service in an overlay."""
    overlay, name = request.param
    manifests = rendered(overlay)
    return manifests, manifests.workload(name), WITH_CLINIC[name]


Placed = tuple[Manifests, Workload, type[ServiceSettings]]


def looking_in(secrets: Secrets) -> Callable[[str, str], str]:
    return lambda name, key: secrets[name][key]


def on_disk(
    manifests: Manifests, workload: Workload, secrets: Secrets, folder: Path
) -> Callable[[str], str]:
    """Lay out in *folder* what is mounted; gives what a value is with its paths led there."""
    secret = looking_in(secrets)
    for path, content in manifests.files(workload, secret, lambda name: secrets[name]):
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    mounts = [each["mountPath"] for each in workload.container["volumeMounts"]]

    def led(value: str) -> str:
        return f"{folder}{value}" if value.startswith(tuple(mounts)) else value

    return led


def loaded(placed: Placed, secrets: Secrets, folder: Path) -> ServiceSettings:
    manifests, workload, settings = placed
    led = on_disk(manifests, workload, secrets, folder)
    variables = manifests.variables(workload, looking_in(secrets))
    return load(settings, {name: led(value) for name, value in variables.items()})


def given(placed: Placed) -> dict[str, str]:
    """The settings that the manifests give, by field; secrets are empty."""
    manifests, workload, settings = placed
    variables = manifests.variables(workload, lambda name, key: "")
    prefix = prefix_of(settings)
    return {
        name.removeprefix(prefix).lower(): value
        for name, value in variables.items()
        if name.startswith(prefix)
    }


def test_every_variable_is_a_setting_of_its_service(placed: Placed) -> None:
    """ALL-5."""
    _, workload, settings = placed
    assert set(given(placed)) <= set(settings.model_fields)
    variables = rendered_names(workload)
    strangers = [name for name in variables if not name.startswith(prefix_of(settings))]
    assert all(not name.startswith("GATEHOUSE_") for name in strangers)


def rendered_names(workload: Workload) -> list[str]:
    return [each["name"] for each in workload.container["env"]]


def test_no_variable_is_given_twice(placed: Placed) -> None:
    manifests, workload, _ = placed
    names = rendered_names(workload)
    for each in workload.container.get("envFrom", []):
        names += manifests.named("ConfigMap", each["configMapRef"]["name"])["data"]
    assert len(names) == len(set(names))


def test_every_setting_that_is_needed_is_given(placed: Placed) -> None:
    """ALL-5."""
    _, _, settings = placed
    needed = {name for name, field in settings.model_fields.items() if field.is_required()}
    assert needed <= set(given(placed))


def test_every_peer_that_a_service_may_have_is_named(placed: Placed) -> None:
    """GAT-12, LOG-2: what a service can do without is not left out by an oversight."""
    _, _, settings = placed
    peers = {name for name in settings.model_fields if name.endswith("_target")}
    assert peers <= set(given(placed))


def test_a_service_starts_with_what_it_is_given(
    placed: Placed, secrets: Secrets, tmp_path: Path
) -> None:
    """ALL-5: the settings load, with the secrets that the overlay `local` makes."""
    settings = loaded(placed, secrets, tmp_path)
    for name in ("tls_certificate_file", "tls_key_file", "tls_client_ca_file"):
        assert getattr(settings, name).is_file(), name


def test_traffic_is_encrypted_and_both_ends_are_known(
    placed: Placed, secrets: Secrets, tmp_path: Path
) -> None:
    """ALL-3: TLS with client certificates wherever a service is called, or calls."""
    settings = loaded(placed, secrets, tmp_path)
    assert settings.tls_client_ca_file is not None
    tls = peer_tls(settings)
    assert tls is not None
    shown = tls.current()
    assert None not in (shown.ca, shown.certificate, shown.key)
    for name, value in given(placed).items():
        if name.endswith("_target"):
            # All replicas, by the name that is in their certificate.
            assert re.fullmatch(r"dns:///[a-z]+:8443", value)


async def test_a_service_that_calls_shows_a_token_of_its_own(
    placed: Placed, secrets: Secrets, tokens: Tokens, tmp_path: Path
) -> None:
    """ALL-3: it names a service, and the others take it."""
    manifests, workload, _ = placed
    settings = loaded(placed, secrets, tmp_path)
    calls = any(name.endswith("_target") for name in given(placed))
    assert calls == (settings.service_token_file is not None)
    if not calls:
        return
    if manifests.overlay != "local":  # its issuer is elsewhere
        settings = settings.model_copy(
            update={"jwks": str(tokens.jwks_file), "jwt_issuer": tokens.issuer}
        )
    async with open_verifier(settings) as verifier:
        caller = await verifier.verify(TokenSource(settings.service_token_file).token())
    assert caller.roles == {"service"}
    assert caller.user_id == f"gatehouse-{workload.name}"


def test_secrets_come_from_secrets(placed: Placed) -> None:
    """Whatever the settings hold as a secret is given by reference, and nothing else is."""
    _, workload, settings = placed
    secret = {
        prefix_of(settings) + name.upper()
        for name, field in settings.model_fields.items()
        if is_secret(field.annotation)
    }
    catalogue_keys = {name for name in workload.secret_variables if name.endswith("_API_KEY")}
    assert set(workload.secret_variables) == secret | catalogue_keys


def test_no_secret_is_in_the_manifests(manifests: Manifests) -> None:
    """Neither as a Secret nor as a password in an address nor as a key in a variable."""
    assert not manifests.of("Secret")
    text = str(manifests.documents)
    assert not re.search(r"://[^/\s'\"]*:[^/\s'\"]*@", text)
    assert "PRIVATE KEY" not in text
    for workload in manifests.workloads:
        for each in workload.container.get("env", []):
            if re.search(r"PASSWORD|_KEY$|TOKEN$|DATABASE_URL|VALKEY_URL", each["name"]):
                assert "secretKeyRef" in each.get("valueFrom", {}), each["name"]


def references(manifests: Manifests) -> set[tuple[str, str]]:
    """Every Secret and key that the manifests ask for; an empty key is the Secret as a whole."""
    found: set[tuple[str, str]] = set()
    for workload in manifests.workloads:
        found |= set(workload.secret_variables.values())
        for volume in workload.pod.get("volumes", []):
            if "secret" in volume:
                name, items = volume["secret"]["secretName"], volume["secret"].get("items")
                found |= {(name, item["key"]) for item in items or [{"key": ""}]}
            for source in volume.get("projected", {}).get("sources", []):
                secret = source["secret"]
                found |= {(secret["name"], item["key"]) for item in secret["items"]}
    return found


def test_the_local_secrets_are_those_that_the_manifests_ask_for(secrets: Secrets) -> None:
    for overlay in ("local", "production"):
        for name, key in references(rendered(overlay)):
            assert name in secrets
            assert not key or key in secrets[name], f"{name} {key}"
    asked = {name for name, _ in references(rendered("local"))}
    # What is left is for whoever calls from outside.
    assert set(secrets) - asked == {"caller", "caller-tls"}


def test_the_readme_names_every_secret_and_key(manifests: Manifests) -> None:
    readme = (Path(__file__).parents[2] / "deploy" / "README.md").read_text()
    for name, key in references(manifests):
        assert f"`{name}`" in readme or "-tls" in name, name
        assert not key or f"`{key}`" in readme, key


def test_each_service_connects_as_its_own_role(secrets: Secrets) -> None:
    """ENT-5."""
    for name, content in secrets.items():
        if "database-url" in content:
            role = "migrator" if name == "migrations" else name
            url = content["database-url"]
            assert url.startswith(f"postgresql://gatehouse_{role}:")
            assert secrets["postgres"][f"gatehouse_{role}"] in url
            assert "sslmode=verify-full" in url


def test_a_probe_asks_for_what_the_service_serves(placed: Placed) -> None:
    """ALL-1: by the name in its certificate, at its port, for a gRPC service that it has."""
    _, workload, _ = placed
    module = "examples.clinic" if workload.name == "clinic" else f"services.{workload.name}"
    assert workload.container["command"] == ["python", "-m", module]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        program, wanted, address, *service = workload.container[name]["exec"]["command"][1:]
        assert program == "/opt/gatehouse/probe.py"
        host, _, port = address.partition(":")
        assert host == workload.name
        assert int(port) in workload.ports.values()
        assert service == ([served_by(workload)] if wanted == "serves" else [])


def served_by(workload: Workload) -> str:
    """The name under which the service tells its health, out of its code."""
    import importlib

    folder = "examples" if workload.name == "clinic" else "services"
    app: Any = importlib.import_module(f"{folder}.{workload.name}.app")
    return str(app.SERVICE if workload.name == "router" else app.SERVICE_NAME)


def test_a_service_listens_where_its_name_leads(placed: Placed) -> None:
    manifests, workload, _ = placed
    listens = {value for name, value in given(placed).items() if name.endswith("listen")}
    assert listens == {f"[::]:{port}" for port in workload.ports.values()}
    service = manifests.named("Service", workload.name)
    assert service["spec"]["selector"] == {NAME: workload.name}


def test_the_catalogue_is_sound(manifests: Manifests, secrets: Secrets) -> None:
    """ROU-1: as a whole, with the keys that the router is given."""
    router = manifests.workload("router")
    variables = manifests.variables(router, looking_in(secrets))
    files: Mapping[str, str] = dict(
        manifests.files(router, looking_in(secrets), secrets.__getitem__)
    )
    text = files[variables["GATEHOUSE_ROUTER_CATALOGUE_FILE"]]
    catalogue = read_catalogue(text, variables)
    assert {str(model.tier) for model in catalogue.models} == {
        "MODEL_BASIC",
        "MODEL_SPEED",
        "MODEL_ADV_REASON",
        "MODEL_ANALYTICS",
    }
