interpret-which-record = Qual registro você quer dizer?
interpret-which-day = Qual dia ou horário você quer dizer?
interpret-which-domain = Do que se trata?
interpret-what-to-do = O que deve ser feito? Nada foi alterado.
interpret-which-value = Falta algo: qual deve ser o valor?
