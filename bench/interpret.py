"""Reading instructions without a model, in three languages, in this process."""

import math
import statistics
import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from bench.interpret_score import data_folder, figures, requests_in, scores
from bench.measuring import say
from bench.stand import Stand
from examples.clinic.entities import descriptors
from services.gateway.interpret import Interpreter
from services.gateway.notices import open_notices
from services.gateway.reading import Reading

ROUNDS = 30
PUBLIC = (
    "interpret.operation_accuracy_en",
    "interpret.operation_accuracy_es",
    "interpret.operation_accuracy_pt",
    "interpret.answered_rate",
    "interpret.domain_accuracy",
    "interpret.wrong_change_rate",
    "interpret.wrong_delete_rate",
)
SENTENCES = {
    "en-US": (
        "Show the appointments of tomorrow",
        "Mark invoice 1042 as paid",
        "Change the phone of Ana Souza to +55 27 99999-1234 and send a reminder to Carla Dias",
        "Cancel all appointments of the next week",
    ),
    "pt-BR": (
        "Mostre as consultas de amanhã",
        "Marque a fatura 1042 como paga",
        "Agende uma consulta para Carla Dias amanhã às 18h",
        "Cancele todas as consultas da próxima semana",
    ),
    "es-ES": (
        "Muestra las facturas vencidas de Diego Alves",
        "Marca la factura 1042 como pagada",
        "Agenda una cita para Elena García mañana a las 18:00",
        "Cancela todas las citas de la próxima semana",
    ),
}


async def measure(stand: Stand) -> dict[str, float]:
    interpreter, offered = Interpreter(None, open_notices()), descriptors()
    took = []
    # The first round loads what each language needs.
    for number in range(ROUNDS + 1):
        for locale, sentences in SENTENCES.items():
            reading = Reading(locale, ZoneInfo("America/Sao_Paulo"), datetime.now(UTC))
            for sentence in sentences:
                begun = time.perf_counter()
                await interpreter.interpret(sentence, offered, reading, model_tiers=())
                if number:
                    took.append(1e6 * (time.perf_counter() - begun))
    return {"interpret.p50_us": statistics.median(took), **understood()}


def understood() -> dict[str, float]:
    """What is made of the public requests; not a number where they are absent."""
    folder = data_folder()
    if folder is None:
        say("interpret: the public requests are absent, GATEHOUSE_TEST_DATA names their folder")
        return dict.fromkeys(PUBLIC, math.nan)
    scored = scores(requests_in(folder))
    every = figures(scored)
    return {
        **{
            f"interpret.operation_accuracy_{language}": figures(
                [each for each in scored if each.request.locale.startswith(language)]
            )["operation right"]
            for language in ("en", "es", "pt")
        },
        "interpret.answered_rate": every["answered"],
        "interpret.domain_accuracy": every["domain right"],
        "interpret.wrong_change_rate": every["wrong change"],
        "interpret.wrong_delete_rate": every["wrong delete"],
    }
