"""Spanish words."""

from services.gateway.interpret.lexicon import Act, Calendar, Lead, Lexicon, Part, listed

SPANISH = Lexicon(
    verbs={
        Act.READ: listed(
            "muestra, muestrame, mostrar, muestre, muestreme, lista, listar, liste, ver, busca,"
            " buscar, busque, encuentra, encontrar, encuentre, consulta, consultar, consulte,"
            " ensename, ensena, dime, dame, deme, digame, cuales, cual, quien, quienes, cuando,"
            " donde, cuantas, cuantos, cuanto, cuanta, que, tengo, tenemos, hay, revisa, revisar,"
            " enviame, mandame, lee, leer, cuenta, contar, enumera, comprueba, esta, estan, tiene,"
            " tienen, quiero ver, verifica, verificar, existe, existen, visualiza, visualizar,"
            " trae, traeme, mirar, mira, a que hora, a que, es, son, dejame ver, quiero saber,"
            " necesito saber, dejame saber, ir a, encuentrame, recita, estoy, estara, estare, hare,"
            " va a, acceder, leeme, mostrarme, tienes, traer, informacion, avisame de, tiempo"
            " restante, seria"
        ),
        Act.CREATE: listed(
            "crea, crear, cree, crees, anade, anadir, anada, agrega, agregar, agregue, registra,"
            " registrar, registre, agenda, agendar, agende, reserva, reservar, reserve, nueva,"
            " nuevo, emite, emitir, emita, programa, programar, programe, envia, enviar, envie,"
            " manda, mandar, mande, inserta, insertar, da de alta, dar de alta, pide, pedir,"
            " concierta, anota, pon un, pon una, poner un, poner una, establece un, establece una,"
            " haz un, haz una, recuerdame, recuerda, recordarme, recordar, despiertame, configura,"
            " configurar, comenzar, comienza, empezar, empieza, iniciar, inicia, apunta, apuntar,"
            " incluye, incluir, mete, meter, genera, generar, solicita, solicitar, transfiere,"
            " transferir, paga, pagar, invita, invitar, anotar, ponme, hazme, avisame, establecer"
            " un, establecer una, recuerdeme, despertarme, arranca, arrancar, planifica,"
            " planificar, preparar, prepara, poner, pon, crear un"
        ),
        Act.UPDATE: listed(
            "actualiza, actualizar, actualice, actualices, cambia, cambiar, cambie, cambies,"
            " modifica, modificar, modifique, modifiques, edita, editar, edite, corrige, corregir,"
            " corrija, pon, poner, ponga, establece, establecer, ajusta, ajustar, sustituye, pasa,"
            " renombra, reemplaza, fija, aumenta, aumentar, incrementa, incrementar, reduce,"
            " reducir, disminuye, disminuir, sube, subir, baja, bajar, suma, sumar, resta, restar,"
            " pausa, pausar, reanuda, reanudar, continua, continuar, enciende, encender, activa,"
            " activar, reactiva, reactivar, repite, repetir, extiende, extender, bloquea, bloquear,"
            " desbloquea, desbloquear, abre, abrir, cierra, cerrar, haz que, termina, terminar,"
            " completa, completar, alarga, acorta, silencia, dormita, establezca, configure,"
            " congela, congelar, marca"
        ),
        Act.DELETE: listed(
            "borra, borrar, borre, borres, elimina, eliminar, elimine, elimines, quita, quitar,"
            " quite, quites, suprime, suprimir, da de baja, dar de baja, limpia, remueve, remover,"
            " saca, descarta, descartar, vacia, vaciar, limpiar, deshazte de"
        ),
        Act.CANCEL: listed(
            "cancela, cancelar, cancele, canceles, anula, anular, anule, anules, apaga, apagar,"
            " apague, desactiva, desactivar, deten, detener, detenga, parar, deshabilita,"
            " deshabilitar, desconecta, desconectar, quita la, finaliza, finalizar, cancelen,"
            " inhabilita, inhabilitar, omite, omitir"
        ),
        Act.MARK: listed("marca, marcar, marque, marques, senala"),
        Act.MOVE: listed(
            "reprograma, reprogramar, reprograme, reprogrames, mueve, mover, mueva, muevas,"
            " aplaza, aplazar, aplace, pospon, posponer, posponga, adelanta, adelantar, traslada,"
            " trasladar, reagenda, reagendar, retrasa, retrasar, atrasa, atrasar, pospone"
        ),
    },
    other_changes=listed(
        "paga, pagar, pague, liquida, cierra, cerrar, confirma, confirmar, completa, asigna,"
        " guarda, recuerda, recuerdale, reabre, traspasa, cancelada, cancelado, borrada, borrado,"
        " eliminada, cambiada, anotar, apunta, apuntar, mete, haga, hacer, apaga, apagar,"
        " desactiva, desactivar, activa, activar, transfiere, deshabilita, necesito, quiero, deseo,"
        " conectar, conecta, hagas, ve, dormir, duerme"
    ),
    split_verbs={},
    about={
        "recuerdame": ("recordatorio", "aviso"),
        "recordarme": ("recordatorio", "aviso"),
        "recuerdeme": ("recordatorio", "aviso"),
        "recuerda": ("recordatorio", "aviso"),
        "recordar": ("recordatorio", "aviso"),
        "avisame": ("recordatorio", "aviso"),
        "despiertame": ("alarma",),
        "despertarme": ("alarma",),
        "dormita": ("alarma",),
        "invita": ("evento", "reunión", "cita"),
        "invitar": ("evento", "reunión", "cita"),
        "paga": ("pago",),
        "pagar": ("pago",),
        "transfiere": ("transferencia",),
        "transferir": ("transferencia",),
    },
    reports=frozenset(
        listed("dijo, dice, pidio, pide, hablo, escribio, aviso, quiere, llamo, informo, solicito")
    ),
    clitics=(
        *("melos", "melas", "melo", "mela", "selos", "selas", "selo", "sela"),
        *("me", "nos", "les", "los", "las", "le", "lo", "la"),
    ),
    leads={
        Lead.POLITE: (
            "si,",
            *listed(
                "por favor, favor, ahora, tambien, luego, despues, entonces, y, e, solo, hola,"
                " vale, buenos dias, buenas tardes, buenas noches, ok, gracias, pero, primero, o,"
                " u, ademas, a continuacion, por ultimo, finalmente, oye, buenas, solamente"
            ),
        ),
        Lead.REQUEST: listed(
            "puedes, podrias, puede, podria, me puedes, me podrias, puedes por favor, me puede,"
            " quiero, quiero que, quisiera, quisiera que, necesito, necesito que, me gustaria, me"
            " gustaria que, deseo, queremos, necesitamos, vamos a, ayudame a, voy a, tengo que, no"
            " olvides, no te olvides de, recuerda, hay que, podemos, vengo a, quieres, haz el favor"
            " de"
        ),
        Lead.NEGATION: listed(
            "no, nunca, jamas, ni, evita, en vez de, en lugar de, sin, deja de, olvidalo, olvida,"
            " no quiero, no quiero que, no hace falta, no debes, no puedo"
        ),
        Lead.HOW: listed(
            "como puedo, como hago, como se, como, que pasa si, que pasa, por que, explica,"
            " explicame, que debo, que tengo que, que necesito, cuales son los pasos, ensename a,"
            " de que forma, de que manera, instrucciones, pasos, paso a paso"
        ),
        Lead.MAY: listed(
            "puedo, debo, debemos, deberia, deberiamos, es posible, se puede, sera que, tengo"
            " permiso, hace falta, estoy obligado, esta permitido"
        ),
        Lead.IF: listed("si, cuando, en caso de, en cuanto, a menos que, siempre que, mientras"),
    },
    joins=("y", "e", "&"),
    buts=("pero", "sino", "solo", "entonces", "solamente", "mejor"),
    parts={
        Part.TO: listed("a, al, para, como, por, ="),
        Part.OF: listed("de, del, de la, de el, para, por, a, al"),
        Part.WITH: listed("con, cuyo, cuya, que tiene, en, con el, con la, que tienen"),
        Part.WITHOUT: listed("sin"),
        Part.NAMED: listed("llamado, llamada, de nombre, con nombre, con el nombre, que se llama"),
        Part.SAYING: listed("diciendo, que diga, que dice, diciendo que, avisando, avisando de"),
        Part.EVERY: listed("todas, todos, todo, toda, cada, todas las, todos los"),
        Part.EXCEPT: listed("excepto, salvo, menos, pero no, a excepcion de, fuera de"),
        Part.NOT: listed("no, que no, que no estan, que no esta, no estan, no esta, nunca"),
        Part.PRONOUN: listed(
            "ella, ellas, ello, ellos, esa, ese, esas, esos, esta ultima, ambas, ambos, le, lo"
        ),
        Part.THEIRS: listed("su, sus"),
        Part.MORE: listed("mas de, por encima de, mayor que, mayores que, al menos, superior a"),
        Part.LESS: listed("menos de, por debajo de, menor que, menores que, como maximo"),
        Part.NEXT: listed("proxima, proximo, proximas, proximos, siguiente"),
        Part.LATEST: listed("ultima, ultimo, mas reciente"),
        Part.YES: listed("si, verdadero"),
        Part.NO: listed("no, falso"),
        Part.FILLER: listed(
            "el, la, los, las, un, una, unos, unas, que, me,"
            " mi, mis, favor, por favor, tu, yo, esta, estan, son, es, numero, n, nº, dia, fecha,"
            " hora, horas, este, registro, registros, quiero, quisiera, necesito, puedes, podrias,"
            " se, lo, hay, tiene, tengo, ya, tenemos, sr, sra, dr, dra, senor, senora, don, dona,"
            " doctor, doctora, ahora, tambien, hola, gracias, ser, fue, fueron, estaba, cual,"
            " cuales, detalles, datos, informacion, actual, actuales, aun, todavia, $, €, euros,"
            " us$, r$, eur, nueva, nuevo, +, nos, hasta, solo, ha, han, e, o"
        ),
    },
    ended=(
        *("cancelada", "cancelado", "canceladas", "cancelados", "anulada", "anulado"),
        *("anuladas", "anulados"),
    ),
    adding_to=("a", "al", "en"),
    in_names=("de", "del", "la", "las", "los", "da", "do", "dos", "das"),
    calendar=Calendar(
        days={"hoy": 0, "manana": 1, "ayer": -1, "pasado manana": 2, "anteayer": -2},
        weekdays=(
            ("lunes",),
            ("martes",),
            ("miercoles",),
            ("jueves",),
            ("viernes",),
            ("sabado", "sabados"),
            ("domingo", "domingos"),
        ),
        months=listed(
            "enero, febrero, marzo, abril, mayo, junio, julio, agosto, septiembre, octubre,"
            " noviembre, diciembre"
        ),
        units={
            "day": ("dia", "dias"),
            "week": ("semana", "semanas"),
            "month": ("mes", "meses"),
            "year": ("ano", "anos"),
        },
        this=("este", "esta"),
        next_before=("proxima", "proximo", "proximas", "proximos", "el proximo", "la proxima"),
        next_after=("que viene", "proximo", "proxima", "siguiente", "que entra"),
        last_before=("ultimos", "ultimas", "ultimo", "ultima"),
        last_after=("pasado", "pasada", "anterior"),
        in_before=("en", "dentro de"),
        ago_before=("hace",),
        ago_after=("atras",),
        within=("en", "de", "del", "durante", "para"),
        on_the=("el", "el dia", "del", "del dia", "dia", "al", "al dia"),
        glue=("de", "del", ","),
        before=("antes de", "antes del", "antes de el", "anteriores a", "anteriores al"),
        until=("hasta", "hasta el"),
        since=("desde", "desde el", "a partir de", "a partir del"),
        after=("despues de", "despues del", "posteriores a", "tras"),
        between=("entre", "entre los dias"),
        from_=("de", "del", "desde el", "desde"),
        up_to=("y", "a", "al", "hasta", "-"),
        at=("a las", "a la", "las", "sobre las", "para las"),
        hours=("h", "hs", "hora", "horas"),
        half_past=("y media",),
        named_times={"mediodia": 12, "al mediodia": 12, "medianoche": 0},
        parts={
            "por la manana": (0, 12),
            "esta manana": (0, 12),
            "esta tarde": (12, 20),
            "esta noche": (20, 24),
            "de la manana": (0, 12),
            "por la tarde": (12, 20),
            "de la tarde": (12, 20),
            "en la tarde": (12, 20),
            "por la noche": (20, 24),
            "de la noche": (20, 24),
        },
    ),
)
