import pytest

from deploy.local_secrets import local_secrets
from tests.conftest import Tokens
from tests.deploy.manifests import OVERLAYS, Manifests, rendered

OVERLAY_NAMES = sorted(each.name for each in OVERLAYS.iterdir())


@pytest.fixture(params=OVERLAY_NAMES)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    """Each overlay, rendered."""
    return rendered(request.param)


@pytest.fixture
def local() -> Manifests:
    return rendered("local")


@pytest.fixture(scope="session")
def secrets(tokens: Tokens) -> dict[str, dict[str, str]]:
    """The Secrets of the overlay `local`, signed by the run's own issuer."""
    return local_secrets(tokens.issued_by, {})
