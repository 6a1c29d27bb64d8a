"""The catalogue of models for one machine: its own small model, or what the environment names.

GATEHOUSE_CATALOGUE is a catalogue file, taken as it is. GATEHOUSE_MODEL_URL is an OpenAI-compatible
endpoint, GATEHOUSE_MODEL_NAME what it calls the model, GATEHOUSE_MODEL_KEY its key, if it wants
one; the small model stands behind it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from services.embedded_model import CONTEXT_TOKENS, MODEL
from services.embedded_stores import StartFailed

TIERS = ("MODEL_BASIC", "MODEL_SPEED", "MODEL_ADV_REASON", "MODEL_ANALYTICS")
FREE = {"input": 0, "output": 0}
# A small model on a busy machine takes its time, and nobody else would answer sooner.
PATIENCE = {"first_token_seconds": 6, "stall_seconds": 6}


def catalogue_for(urls: Mapping[str, str], folder: Path, environ: Mapping[str, str]) -> Path | None:
    """The file of the catalogue; None where there is no model at all. Raises StartFailed.

    *urls* are the endpoints of small models on this machine, by tier.
    """
    if given := environ.get("GATEHOUSE_CATALOGUE"):
        if not Path(given).is_file():
            raise StartFailed(f"GATEHOUSE_CATALOGUE: there is no file {given}")
        return Path(given).resolve()
    providers: dict[str, Any] = {}
    models: dict[str, Any] = {}
    if url := environ.get("GATEHOUSE_MODEL_URL"):
        add_named(url, environ, providers, models)
    for tier, url in urls.items():
        name = tier.removeprefix("MODEL_").lower()
        providers[f"local-{name}"] = {"base_url": url, "max_concurrent_calls": 2}
        models[f"smollm2-{name}"] = {
            "tier": tier,
            "provider": f"local-{name}",
            "provider_model": MODEL,
            "context_tokens": CONTEXT_TOKENS,
            "max_output_tokens": 512,
            "prices": FREE,
            "weight": 0 if tier in {each["tier"] for each in models.values()} else 1,
        }
    if not models:
        return None
    catalogue = {"providers": providers, "models": models}
    if "named" not in providers:
        catalogue["tasks"] = {"ANALYZE": PATIENCE, "RECOMMEND": PATIENCE}
    file = folder / "catalogue.yaml"
    file.write_text(yaml.safe_dump(catalogue, sort_keys=False))
    return file


def add_named(
    url: str, environ: Mapping[str, str], providers: dict[str, Any], models: dict[str, Any]
) -> None:
    """The endpoint that the environment names, standing in for every tier."""
    name = environ.get("GATEHOUSE_MODEL_NAME")
    if not name:
        raise StartFailed("GATEHOUSE_MODEL_URL needs GATEHOUSE_MODEL_NAME: which model is it?")
    providers["named"] = {"base_url": url}
    if environ.get("GATEHOUSE_MODEL_KEY"):
        providers["named"]["api_key_env"] = "GATEHOUSE_MODEL_KEY"
    for tier in TIERS:
        models[f"named-{tier.removeprefix('MODEL_').lower()}"] = {
            "tier": tier,
            "provider": "named",
            "provider_model": name,
            "context_tokens": 32768,
            "max_output_tokens": 2048,
            "prices": FREE,
        }
