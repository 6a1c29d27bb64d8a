metric-engagement_rate = taxa de engajamento
    .above = clientes que compareceram a uma consulta
    .below = clientes
metric-cancellation_rate = taxa de cancelamento
    .above = consultas canceladas
    .below = consultas
metric-no_show_rate = taxa de faltas
    .above = consultas com falta
    .below = consultas com comparecimento ou falta
metric-overdue_ratio = taxa de inadimplência
    .above = valor em atraso
    .below = valor das faturas em aberto

figure-plain = A { $metric } de { $start } a { $end } foi de { $value }: { $numerator } de { $denominator }.
figure-previous = Nos { $days } dias anteriores, foi de { $value }.
figure-nothing = Não há dados para calcular a { $metric } entre { $start } e { $end }.
figure-suppressed = A { $metric } diz respeito a poucas pessoas e por isso não é mostrada.
figure-failed = A { $metric } não pôde ser calculada no momento.
prompt-summary = Você escreve relatórios curtos para a equipe de uma clínica, em português do Brasil. Use apenas os fatos dados. Repita cada número exatamente como está escrito. Não acrescente nenhum outro número. Escreva duas ou três frases.

advice-overdue_ratio = { $value } do que seus clientes devem está vencido. Envie lembretes gentis, começando pelas faturas mais antigas, e ofereça pagamento parcelado.
advice-no_show_rate = { $value } das consultas previstas tiveram falta. Confirme as consultas na véspera e mantenha uma lista de clientes que possam vir em cima da hora.
advice-cancellation_rate = { $value } das consultas foram canceladas. Ofereça logo outro horário e pergunte o motivo.
advice-engagement_rate = Apenas { $value } dos clientes compareceram a uma consulta. Escreva a quem não aparece há algum tempo, na medida em que tenha autorizado.
advice-period = Os números são de { $start } a { $end }.
advice-as-of = Esta é a situação em { $end }.
prompt-advice = Você redige conselhos para a equipe de uma clínica, em português do Brasil. Reescreva o texto de forma amigável e clara, em no máximo duas frases. Repita cada número exatamente como está escrito. Não acrescente nenhum outro número.
