"""What the clinic's domains say to users of a refusal, in their language (GAT-6, GAT-11)."""

from collections.abc import Mapping

from gatehouse.entitlements.v1.entitlements_pb2 import EntityDescriptor

from examples.clinic.entities import entity_descriptor, fields_of

LOCALES = ("en-US", "pt-BR", "es-ES")
LONGEST_NAME = 80
# `entity` and `by` are kinds of records, `current` and `wanted` are statuses.
SENTENCES: Mapping[str, Mapping[str, str]] = {
    "state_forbids": {
        "en-US": "The {entity} is {current} and cannot become {wanted}.",
        "pt-BR": "Este registro ({entity}) está como {current} e não pode passar a {wanted}.",
        "es-ES": "Este registro ({entity}) está como {current} y no puede pasar a {wanted}.",
    },
    "unchanged": {
        "en-US": "The {entity} already is as you want it.",
        "pt-BR": "Este registro ({entity}) já está como pedido.",
        "es-ES": "Este registro ({entity}) ya está como se pide.",
    },
    "referenced": {
        "en-US": "The client still has records of another kind ({by}).",
        "pt-BR": "O cliente ainda tem registros de outro tipo ({by}).",
        "es-ES": "El cliente todavía tiene registros de otro tipo ({by}).",
    },
    "exists": {
        "en-US": "Another {entity} with the same number or name already exists.",
        "pt-BR": "Já existe outro registro ({entity}) com o mesmo número ou nome.",
        "es-ES": "Ya existe otro registro ({entity}) con el mismo número o nombre.",
    },
    "no_client": {
        "en-US": "There is no client called {name}.",
        "pt-BR": "Não há cliente com o nome {name}.",
        "es-ES": "No hay ningún cliente llamado {name}.",
    },
    "due_not_before_issue": {
        "en-US": "The due date cannot be before the issue date.",
        "pt-BR": "O vencimento não pode ser antes da emissão.",
        "es-ES": "El vencimiento no puede ser anterior a la emisión.",
    },
    "settled_when_paid": {
        "en-US": "Only a paid invoice has a payment date.",
        "pt-BR": "Só uma fatura paga tem data de pagamento.",
        "es-ES": "Solo una factura pagada tiene fecha de pago.",
    },
}


def locale_of(tag: str) -> str:
    """The language of LOCALES that *tag* asks for; en-US where there is none."""
    language = tag.partition("-")[0].lower()
    return next((each for each in LOCALES if each.startswith(f"{language}-")), LOCALES[0])


def sentence(key: str, arguments: Mapping[str, str], locale: str) -> str:
    """The sentence *key* in *locale*; kinds and statuses are said in the words of descriptors."""
    said = dict(arguments)
    for name in ("entity", "by"):
        if name in said:
            said[name] = word_of(entity_descriptor(said[name]), locale)
    for name in ("current", "wanted"):
        if name in said:
            said[name] = status_word(arguments["entity"], said[name], locale)
    if "name" in said:
        said["name"] = said["name"][:LONGEST_NAME]
    return SENTENCES[key][locale].format(**said)


def word_of(entity: EntityDescriptor, locale: str) -> str:
    for each in entity.synonyms:
        if each.locale == locale and each.words:
            return each.words[0]
    return entity.name


def status_word(entity: str, status: str, locale: str) -> str:
    by_locale = fields_of(entity)["status"].get("x-values", {}).get(status, {})
    words = by_locale.get(locale, ())
    return str(words[0]) if words else status
