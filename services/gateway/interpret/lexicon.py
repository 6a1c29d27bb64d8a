"""The words of three languages that the rules know. Folded: no capitals, no accents."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lexicon:
    """What people of one language say."""

    read: tuple[str, ...]
    create: tuple[str, ...]
    update: tuple[str, ...]
    delete: tuple[str, ...]
    # Ends a thing without removing it: sets the status where there is one.
    cancel: tuple[str, ...]
    # Sets a status that is named: mark as paid.
    mark: tuple[str, ...]
    # Moves to another time.
    move: tuple[str, ...]
    send: tuple[str, ...]
    negations: tuple[str, ...]
    # Asks about doing it, and does not ask for it.
    asks_how: tuple[str, ...]
    joins: tuple[str, ...]
    every: tuple[str, ...]
    to: tuple[str, ...]
    as_: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    between: tuple[str, ...]
    at: tuple[str, ...]
    days: dict[str, int]
    weekdays: tuple[tuple[str, ...], ...]
    months: tuple[str, ...]
    spans: dict[str, tuple[str, int]]
    last_days: tuple[str, ...]
    fillers: frozenset[str]


def filling(text: str) -> frozenset[str]:
    return frozenset(text.split())


ENGLISH = Lexicon(
    read=(
        *("show", "list", "display", "find", "get", "see", "view", "read", "search", "give me"),
        *(
            "look up",
            "tell me",
            "which",
            "what",
            "who",
            "when",
            "how many",
            "are there",
            "is there",
        ),
        *("do i have", "do we have", "does", "has", "check"),
    ),
    create=("create", "add", "new", "register", "make", "book", "schedule", "issue"),
    update=("update", "change", "set", "edit", "modify", "correct", "rename"),
    delete=("delete", "remove", "erase", "drop", "destroy"),
    cancel=("cancel", "call off", "void"),
    mark=("mark",),
    move=("reschedule", "move", "postpone"),
    send=("send", "remind"),
    negations=("do not", "don't", "dont", "don’t", "never", "not", "without", "stop"),
    asks_how=(
        *("how do i", "how can i", "how to", "how does", "how should", "should i", "should we"),
        *("what happens if", "what if", "is it possible", "am i allowed", "why", "explain"),
        *("can i", "may i", "would you", "if i", "if we", "did you", "did i", "have you"),
    ),
    joins=("and", "then", "also", "plus"),
    every=("all", "every", "each", "everything", "everyone"),
    to=("to",),
    as_=("as", "is", "to"),
    before=("before", "until", "prior to", "older than"),
    after=("after", "since", "from", "newer than"),
    between=("between",),
    at=("at",),
    days={"today": 0, "tomorrow": 1, "yesterday": -1, "day after tomorrow": 2},
    weekdays=(
        ("monday", "mondays"),
        ("tuesday", "tuesdays"),
        ("wednesday", "wednesdays"),
        ("thursday", "thursdays"),
        ("friday", "fridays"),
        ("saturday", "saturdays"),
        ("sunday", "sundays"),
    ),
    months=(
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ),
    spans={
        "this week": ("week", 0),
        "next week": ("week", 1),
        "last week": ("week", -1),
        "this month": ("month", 0),
        "next month": ("month", 1),
        "last month": ("month", -1),
    },
    last_days=("last", "past"),
    fillers=filling(
        "the a an of for on in with by me my our your their please can could you i we us this"
        " that these those any some is are was were be there have has number nr no client's"
        " who whose from due next day o'clock just kindly now it them him her his its into pm"
        " am by about records record entries which what show list to as and at do want need"
        " would like id date"
    ),
)

PORTUGUESE = Lexicon(
    read=(
        *("mostre", "mostrar", "mostra", "liste", "listar", "lista", "exiba", "exibir", "busque"),
        *("buscar", "procure", "procurar", "encontre", "veja", "ver", "consulte", "consultar"),
        *("quais", "qual", "quem", "quando", "quantas", "quantos", "que", "me de", "diga", "tenho"),
        *("temos", "ha", "existem", "pesquise", "verifique"),
    ),
    create=(
        *("crie", "criar", "adicione", "adicionar", "cadastre", "cadastrar", "inclua", "incluir"),
        *("registre", "registrar", "agende", "agendar", "marque uma", "nova", "novo", "emita"),
    ),
    update=(
        *("atualize", "atualizar", "altere", "alterar", "mude", "mudar", "edite", "editar"),
        *("corrija", "corrigir", "troque", "trocar", "modifique", "defina"),
    ),
    delete=(
        *(
            "apague",
            "apagar",
            "exclua",
            "excluir",
            "remova",
            "remover",
            "delete",
            "deletar",
            "elimine",
        ),
    ),
    cancel=("cancele", "cancelar", "desmarque", "desmarcar", "anule", "anular"),
    mark=("marque", "marcar"),
    move=("remarque", "remarcar", "adie", "adiar", "reagende", "reagendar", "transfira"),
    send=("envie", "enviar", "mande", "mandar", "lembre"),
    negations=("nao", "nunca", "jamais", "sem", "nem"),
    asks_how=(
        *("como faco", "como posso", "como fazer", "como se", "como", "devo", "deveria", "posso"),
        *("o que acontece se", "e possivel", "por que", "explique", "se eu", "precisa", "sera que"),
    ),
    joins=("e", "depois", "tambem", "entao"),
    every=("todas", "todos", "todo", "toda", "cada", "tudo"),
    to=("para", "pra"),
    as_=("como", "para"),
    before=("antes de", "antes do", "ate", "anteriores a"),
    after=("depois de", "apos", "desde", "a partir de"),
    between=("entre",),
    at=("as", "a"),
    days={"hoje": 0, "amanha": 1, "ontem": -1, "depois de amanha": 2},
    weekdays=(
        ("segunda", "segunda-feira", "segundas"),
        ("terca", "terca-feira", "tercas"),
        ("quarta", "quarta-feira", "quartas"),
        ("quinta", "quinta-feira", "quintas"),
        ("sexta", "sexta-feira", "sextas"),
        ("sabado", "sabados"),
        ("domingo", "domingos"),
    ),
    months=(
        "janeiro",
        "fevereiro",
        "marco",
        "abril",
        "maio",
        "junho",
        "julho",
        "agosto",
        "setembro",
        "outubro",
        "novembro",
        "dezembro",
    ),
    spans={
        "esta semana": ("week", 0),
        "desta semana": ("week", 0),
        "proxima semana": ("week", 1),
        "semana que vem": ("week", 1),
        "semana passada": ("week", -1),
        "este mes": ("month", 0),
        "deste mes": ("month", 0),
        "proximo mes": ("month", 1),
        "mes passado": ("month", -1),
    },
    last_days=("ultimos", "ultimas"),
    fillers=filling(
        "o a os as um uma uns umas de do da dos das em no na nos nas para pra por com que me"
        " meu minha meus minhas seu sua seus suas favor por-favor voce eu nos esta estao sao e"
        " numero n nº ao aos dia data hora horas isso este esse desta deste quero gostaria"
        " preciso pode poderia proxima proximo registro registros feira se lhe todos"
    ),
)

SPANISH = Lexicon(
    read=(
        *("muestra", "muestrame", "mostrar", "muestre", "lista", "listar", "liste", "ver", "busca"),
        *("buscar", "busque", "encuentra", "consulta", "consultar", "ensename", "dime", "dame"),
        *("cuales", "cual", "quien", "quienes", "cuando", "cuantas", "cuantos", "que", "tengo"),
        *("tenemos", "hay", "revisa"),
    ),
    create=(
        *("crea", "crear", "cree", "anade", "anadir", "agrega", "agregar", "registra", "registrar"),
        *("agenda", "agendar", "reserva", "reservar", "nueva", "nuevo", "emite", "programa"),
    ),
    update=(
        *("actualiza", "actualizar", "cambia", "cambiar", "cambie", "modifica", "modificar"),
        *("edita", "editar", "corrige", "corregir", "pon"),
    ),
    delete=(
        *(
            "borra",
            "borrar",
            "borre",
            "elimina",
            "eliminar",
            "elimine",
            "quita",
            "quitar",
            "suprime",
        ),
    ),
    cancel=("cancela", "cancelar", "cancele", "anula", "anular", "anule"),
    mark=("marca", "marcar", "marque"),
    move=("reprograma", "reprogramar", "mueve", "mover", "aplaza", "aplazar", "pospon"),
    send=("envia", "enviar", "envie", "manda", "mandar", "recuerda", "recuerdale"),
    negations=("no", "nunca", "jamas", "sin", "ni"),
    asks_how=(
        *("como puedo", "como hago", "como se", "como", "debo", "deberia", "puedo"),
        *("que pasa si", "es posible", "por que", "explica", "si yo", "hace falta"),
    ),
    joins=("y", "e", "luego", "tambien", "despues"),
    every=("todas", "todos", "todo", "toda", "cada"),
    to=("a", "para", "al"),
    as_=("como", "a"),
    before=("antes de", "antes del", "hasta", "anteriores a"),
    after=("despues de", "desde", "a partir de", "posteriores a"),
    between=("entre",),
    at=("a las", "a la"),
    days={"hoy": 0, "manana": 1, "ayer": -1, "pasado manana": 2},
    weekdays=(
        ("lunes",),
        ("martes",),
        ("miercoles",),
        ("jueves",),
        ("viernes",),
        ("sabado", "sabados"),
        ("domingo", "domingos"),
    ),
    months=(
        "enero",
        "febrero",
        "marzo",
        "abril",
        "mayo",
        "junio",
        "julio",
        "agosto",
        "septiembre",
        "octubre",
        "noviembre",
        "diciembre",
    ),
    spans={
        "esta semana": ("week", 0),
        "proxima semana": ("week", 1),
        "semana que viene": ("week", 1),
        "semana pasada": ("week", -1),
        "este mes": ("month", 0),
        "proximo mes": ("month", 1),
        "mes pasado": ("month", -1),
    },
    last_days=("ultimos", "ultimas"),
    fillers=filling(
        "el la los las un una unos unas de del en para por con que me mi mis su sus favor"
        " por-favor tu yo esta estan son es numero n nº al dia fecha hora horas este ese"
        " quiero quisiera necesito puedes podrias proxima proximo registro registros se le lo"
        " todas las a"
    ),
)

LEXICONS = {"en": ENGLISH, "pt": PORTUGUESE, "es": SPANISH}


def lexicon_of(locale: str) -> Lexicon:
    return LEXICONS.get(locale.split("-")[0], ENGLISH)
