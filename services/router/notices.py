"""What the router says to users, in their language (ROU-6)."""

FAILOVER = {
    "en": "Your answer was completed using an alternate processing tier.",
    "pt": "Sua resposta foi concluída usando um nível de processamento alternativo.",
    "es": "Su respuesta se ha completado con un nivel de procesamiento alternativo.",
}


def failover_notice(locale: str) -> str:
    """The neutral sentence; in English for a language that is not among them."""
    return FAILOVER.get(locale.split("-")[0].lower(), FAILOVER["en"])
