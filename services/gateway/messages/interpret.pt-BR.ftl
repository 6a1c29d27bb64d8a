interpret-which-record = Qual registro você quer dizer?
interpret-which-day = Qual dia e horário você quer dizer?
interpret-which-domain = Do que se trata?
interpret-what-to-do = O que você deseja fazer? Nada foi alterado.
interpret-which-value = Falta algo: qual deve ser o valor?
    .named = Falta um dado: { $field }. Qual deve ser o valor?
