"""The catalogue that a machine's own suite runs on."""

from pathlib import Path

import pytest

from services.embedded_catalogue import catalogue_for
from services.embedded_stores import StartFailed
from services.router.catalog import Catalogue, read_catalogue

LOCAL = {"MODEL_BASIC": "http://127.0.0.1:9/v1"}
NAMED = {"GATEHOUSE_MODEL_URL": "https://models.example/v1", "GATEHOUSE_MODEL_NAME": "big"}


def made(urls: dict[str, str], folder: Path, environ: dict[str, str]) -> Catalogue:
    file = catalogue_for(urls, folder, environ)
    assert file is not None
    return read_catalogue(file.read_text(), environ)


def test_without_any_model_there_is_no_catalogue(tmp_path: Path) -> None:
    """GAT-12: and no router then."""
    assert catalogue_for({}, tmp_path, {}) is None


def test_a_small_model_answers_for_its_tier(tmp_path: Path) -> None:
    """ROU-1."""
    (model,) = made(LOCAL, tmp_path, {}).models
    assert (model.tier, model.provider.base_url) == ("MODEL_BASIC", LOCAL["MODEL_BASIC"])


def test_a_named_endpoint_goes_first_in_every_tier(tmp_path: Path) -> None:
    """ROU-1: its key stays in the environment; the small model is the reserve of its tier."""
    environ = {**NAMED, "GATEHOUSE_MODEL_KEY": "secret"}
    models = made(LOCAL, tmp_path, environ).models
    named = [each for each in models if each.provider.name == "named"]
    assert {each.tier for each in named} == {
        *("MODEL_BASIC", "MODEL_SPEED", "MODEL_ADV_REASON", "MODEL_ANALYTICS")
    }
    assert {each.provider.api_key for each in named} == {"secret"}
    (small,) = (each for each in models if each not in named)
    assert small.weight == 0
    assert "secret" not in (tmp_path / "catalogue.yaml").read_text()


def test_a_catalogue_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    """ROU-1."""
    own = tmp_path / "own.yaml"
    own.write_text("mine")
    assert catalogue_for(LOCAL, tmp_path, {"GATEHOUSE_CATALOGUE": str(own)}) == own


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"GATEHOUSE_CATALOGUE": "/nowhere/at/all"}, "there is no file"),
        ({"GATEHOUSE_MODEL_URL": "http://127.0.0.1:9/v1"}, "GATEHOUSE_MODEL_NAME"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, environ: dict[str, str], named: str) -> None:
    """ALL-5."""
    with pytest.raises(StartFailed, match=named):
        catalogue_for(LOCAL, tmp_path, environ)
