"""Portuguese words, as they are said in Brazil."""

from services.gateway.interpret.lexicon import Act, Calendar, Lead, Lexicon, Part, listed

PORTUGUESE = Lexicon(
    verbs={
        Act.READ: listed(
            "mostre, mostrar, mostra, me mostre, me mostra, liste, listar, lista, exiba, exibir,"
            " busque, buscar, busca, procure, procurar, encontre, encontrar, veja, ver, consulte,"
            " consultar, quais, qual, quem, quando, onde, quantas, quantos, quanto, me de, diga, me"
            " diga, tenho, temos, ha, existe, existem, pesquise, pesquisar, verifique, verificar,"
            " me envie, me mande, envie me, mande me, o que, que, leia, ler, conte, contar,"
            " confira, conferir, informe, apresente, traga, me traga, tem, quero ver, puxe, sao,"
            " esta, estao, visualizar, visualize, me passe, me fale, gostaria de ver, quero saber,"
            " preciso saber, deixe me ver, acesse, leia me, tempo restante, quanto tempo, estou, me"
            " conte, me lembre quais"
        ),
        Act.CREATE: listed(
            "crie, criar, cria, adicione, adicionar, adiciona, cadastre, cadastrar, cadastra,"
            " inclua, incluir, inclui, registre, registrar, registra, agende, agendar, marque uma,"
            " marque um, marcar uma, marcar um, marca uma, marca um, nova, novo, emita, emitir,"
            " envie, enviar, mande, mandar, insira, inserir, lance, lancar, agenda, abra uma,"
            " defina um, defina uma, definir um, definir uma, coloque um, coloque uma, faca um,"
            " faca uma, solicite, solicitar, lembre me, me lembre, lembra me, me lembra, lembrar,"
            " lembre, acorde me, me acorde, comece, comecar, comeca, inicie, iniciar, inicia,"
            " junte, junta, juntar, bote, coloque, coloca, colocar, poe, ponha, anote, anotar,"
            " programe, programar, reserve, reservar, gere, gerar, pague, pagar, transfira,"
            " convide, convidar, configure, configurar, acrescente, acrescentar, faca"
        ),
        Act.UPDATE: listed(
            "atualize, atualizar, atualiza, altere, alterar, altera, mude, mudar, muda, edite,"
            " editar, edita, corrija, corrigir, troque, trocar, troca, modifique, modificar,"
            " defina, definir, define, renomeie, renomear, ajuste, ajustar, substitua, coloque,"
            " passe, aumente, aumentar, aumenta, reduza, reduzir, reduz, diminua, diminuir,"
            " diminui, pause, pausar, pausa, retome, retomar, retoma, continue, continuar,"
            " continua, ligue, ligar, liga, acenda, acender, acende, ative, ativar, ativa, abra,"
            " abrir, abre, feche, fechar, fecha, bloqueie, bloquear, desbloqueie, desbloquear,"
            " suba, subir, baixe, baixar, repita, repetir, estenda, estender, conclua, concluir,"
            " tranque, trancar, destranque, aumentar em, some, somar, subtraia, subtrair,"
            " incremente, incrementar"
        ),
        Act.DELETE: listed(
            "apague, apagar, apaga, exclua, excluir, exclui, remova, remover, remove, delete,"
            " deletar, deleta, elimine, eliminar, elimina, limpe, limpar, limpa, tire, tirar, tira,"
            " retire, retirar, retira, descarte, descartar, esvazie, esvaziar"
        ),
        Act.CANCEL: listed(
            "cancele, cancelar, cancela, desmarque, desmarcar, desmarca, anule, anular, anula,"
            " cancelem, desmarquem, pare, parar, desligue, desligar, desliga, desative, desativar,"
            " desativa, interrompa, interromper, encerre, encerrar, apague a luz"
        ),
        Act.MARK: listed("marque, marcar, marca, sinalize, sinalizar"),
        Act.MOVE: listed(
            "remarque, remarcar, remarca, adie, adiar, adia, reagende, reagendar, reagenda,"
            " transfira, transferir, mova, mover, antecipe, antecipar, postergue, postergar"
        ),
    },
    other_changes=listed(
        "pague, pagar, quite, quitar, feche, fechar, confirme, confirmar, conclua, concluir,"
        " anote, anotar, lembre, lembrar, salve, salvar, grave, gravar, atribua, reabra, reabrir,"
        " baixe, cancelada, cancelado, excluida, excluido, alterada, alterado, apagada, apagado,"
        " ponha, desative, desativar, ative, ativar, esvazie, transfira, pause, continue, preciso,"
        " quero, acender, acende, desejo"
    ),
    split_verbs={},
    about={
        "lembre": ("lembrete",),
        "lembra": ("lembrete",),
        "lembrar": ("lembrete",),
        "me lembre": ("lembrete",),
        "me lembra": ("lembrete",),
        "acorde": ("alarme", "despertador"),
        "me acorde": ("alarme", "despertador"),
        "convide": ("evento", "reunião"),
        "pague": ("pagamento",),
        "pagar": ("pagamento",),
        "transfira": ("transferência",),
    },
    reports=frozenset(
        listed(
            "disse, diz, pediu, pede, falou, fala, escreveu, avisou, quer, ligou, informou,"
            " solicitou"
        )
    ),
    clitics=("-me", "-nos", "-lhe", "-lhes", "-o", "-a", "-os", "-as", "-se", "-lo", "-la"),
    leads={
        Lead.POLITE: listed(
            "por favor, favor, agora, tambem, depois, entao, e, so, apenas, oi, ola, bom dia, boa"
            " tarde, boa noite, ok, sim, obrigado, obrigada, mas, em seguida, primeiro, ou, por"
            " gentileza, alem disso, por fim, logo, finalmente, ja, ai, tudo bem"
        ),
        Lead.REQUEST: listed(
            "voce pode, voce poderia, pode, poderia, pode me, poderia me, voce consegue, consegue,"
            " quero, quero que, queria, gostaria de, gostaria que, preciso, preciso que,"
            " precisamos, preciso de, eu quero, eu preciso, eu gostaria de, queremos, vamos, me"
            " ajude a, vou, nao esqueca de, nao se esqueca de, nao deixe de, lembre de, eu queria,"
            " desejo"
        ),
        Lead.NEGATION: listed(
            "nao, nunca, jamais, nem, evite, em vez de, ao inves de, sem, pare de, deixa pra la,"
            " esqueca, nao quero, nao precisa, nao pode, nao deve, deixe de"
        ),
        Lead.HOW: listed(
            "como faco, como posso, como fazer, como se, como eu, como devo, como e que, como, o"
            " que acontece, o que preciso, por que, porque, explique, o que devo, quais os passos,"
            " qual o procedimento, me explique, me ensine, ensine, passo a passo, de que forma,"
            " instrucoes, de que maneira"
        ),
        Lead.MAY: listed(
            "posso, podemos, devo, devemos, deveria, e possivel, da para, da pra, preciso mesmo,"
            " sera que, tem como, eu posso, e permitido, sou obrigado"
        ),
        Lead.IF: listed(
            "se, caso, quando, assim que, a menos que, sempre que, desde que, enquanto"
        ),
    },
    joins=("e", "&"),
    buts=("mas", "so", "apenas", "porem", "entao", "somente", "sim"),
    parts={
        Part.TO: listed("para, pra, como, ="),
        Part.OF: listed("de, do, da, dos, das, pra, para, por, ao, a, pelo, pela"),
        Part.WITH: listed("com, cujo, cuja, que tem, no, na, em, com o, com a"),
        Part.WITHOUT: listed("sem"),
        Part.NAMED: listed(
            "chamado, chamada, de nome, com o nome, com nome, com o nome de, chamados, chamadas"
        ),
        Part.SAYING: listed(
            "dizendo, que diz, dizendo que, com os dizeres, avisando que, avisando"
        ),
        Part.EVERY: listed("todas, todos, todo, toda, cada, tudo, todas as, todos os"),
        Part.EXCEPT: listed("exceto, menos, salvo, fora, a nao ser, com excecao de, mas nao"),
        Part.NOT: listed("nao, que nao, que nao estao, que nao esta, nao estao, nao esta, nunca"),
        Part.PRONOUN: listed(
            "ela, ele, elas, eles, isso, essa, esse, essas, esses, ambas, ambos, lhe"
        ),
        Part.THEIRS: listed("seu, sua, seus, suas, dela, dele, delas, deles"),
        Part.MORE: listed("mais de, acima de, maior que, maiores que, pelo menos, superior a"),
        Part.LESS: listed("menos de, abaixo de, menor que, menores que, no maximo, inferior a"),
        Part.NEXT: listed("proxima, proximo, proximas, proximos, seguinte"),
        Part.LATEST: listed("ultima, ultimo, mais recente"),
        Part.YES: listed("sim, verdadeiro"),
        Part.NO: listed("nao, falso"),
        Part.FILLER: listed(
            "o, a, os, as, um, uma, uns, umas, que, me, meu,"
            " minha, meus, minhas, suas, favor, por favor, voce, eu, nos, esta, estao, sao, e,"
            " numero, n, nº, aos, nas, dia, data, hora, horas, este, desta, deste, registro,"
            " registros, quero, gostaria, preciso, pode, poderia, ha, tem, tenho, temos, sr, sra,"
            " dr, dra, senhor, senhora, ja, doutor, doutora, dona, agora, tambem, ola, oi,"
            " obrigado, obrigada, ser, foi, foram, estava, qual, quais, detalhes, dados,"
            " informacoes, atual, atuais, ainda, r$, reais, $, €, euros, us$, brl, nova, novo, +,"
            " num, numa, ate, la, so, apenas"
        ),
    },
    ended=(
        *("cancelada", "cancelado", "canceladas", "cancelados", "desmarcada", "desmarcado"),
        *("anulada", "anulado"),
    ),
    adding_to=("ao", "no", "na"),
    in_names=("da", "de", "do", "dos", "das", "d"),
    calendar=Calendar(
        days={"hoje": 0, "amanha": 1, "ontem": -1, "depois de amanha": 2, "anteontem": -2},
        weekdays=(
            ("segunda", "segunda-feira", "segunda feira", "segundas"),
            ("terca", "terca-feira", "terca feira", "tercas"),
            ("quarta", "quarta-feira", "quarta feira", "quartas"),
            ("quinta", "quinta-feira", "quinta feira", "quintas"),
            ("sexta", "sexta-feira", "sexta feira", "sextas"),
            ("sabado", "sabados"),
            ("domingo", "domingos"),
        ),
        months=listed(
            "janeiro, fevereiro, marco, abril, maio, junho, julho, agosto, setembro, outubro,"
            " novembro, dezembro"
        ),
        units={
            "day": ("dia", "dias"),
            "week": ("semana", "semanas"),
            "month": ("mes", "meses"),
            "year": ("ano", "anos"),
        },
        this=("este", "esta", "deste", "desta", "neste", "nesta", "essa", "esse", "dessa", "nessa"),
        next_before=(
            *("proxima", "proximo", "proximas", "proximos", "a proxima", "o proximo"),
            *("da proxima", "do proximo", "na proxima", "no proximo"),
        ),
        next_after=("que vem", "seguinte", "proxima", "proximo"),
        last_before=("ultimos", "ultimas", "ultimo", "ultima"),
        last_after=("passada", "passado", "anterior", "retrasada"),
        in_before=("daqui a", "em", "dentro de"),
        ago_before=("ha", "faz"),
        ago_after=("atras",),
        within=("em", "de", "do", "no", "durante", "para"),
        on_the=("dia", "no dia", "do dia", "o dia", "para o dia", "ao dia"),
        glue=("de", "do", ","),
        before=("antes de", "antes do", "antes da", "anteriores a", "anterior a"),
        until=("ate", "ate o", "ate a"),
        since=("desde", "a partir de", "a partir do", "a partir da"),
        after=("depois de", "depois do", "depois da", "apos", "posteriores a"),
        between=("entre", "entre os dias"),
        from_=("de", "do dia", "dos dias", "da"),
        up_to=("e", "a", "ate", "ao", "e o", "ate o", "-"),
        at=("às", "à", "as", "a", "pelas", "para as", "das"),
        hours=("h", "hs", "hora", "horas", "hrs"),
        half_past=("e meia",),
        named_times={"meio-dia": 12, "meio dia": 12, "ao meio-dia": 12, "meia-noite": 0},
        parts={
            "de manha": (0, 12),
            "esta manha": (0, 12),
            "esta tarde": (12, 18),
            "esta noite": (18, 24),
            "nesta manha": (0, 12),
            "nesta tarde": (12, 18),
            "nesta noite": (18, 24),
            "da manha": (0, 12),
            "pela manha": (0, 12),
            "a tarde": (12, 18),
            "da tarde": (12, 18),
            "de tarde": (12, 18),
            "a noite": (18, 24),
            "da noite": (18, 24),
            "de noite": (18, 24),
        },
    ),
)
