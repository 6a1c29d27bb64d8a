# Frases para usuários em português do Brasil. Sem identificadores nem termos técnicos.

notice-upgrade = O plano { $plan } não inclui isto. Com o plano { $upgrade } você tem: { $benefits }.
notice-window = Seu plano alcança { $allowed } dias para trás, e isto exigiria { $asked }.
notice-quota-near = { $remaining ->
    [0] Este foi o último pedido de hoje do seu plano.
    [one] Resta um pedido hoje.
   *[other] Restam { $remaining } pedidos hoje.
  } O limite se renova em { $resets_at }.
notice-quota-exhausted = O limite de hoje do seu plano acabou. Ele se renova em { $resets_at }.
notice-cool-down = { $minutes ->
    [one] Houve muitos pedidos em pouco tempo. Aguarde um minuto e continue.
   *[other] Houve muitos pedidos em pouco tempo. Aguarde { $minutes } minutos e continue.
  }
notice-failover = Sua resposta foi concluída por um nível de processamento alternativo.
notice-consent = Um cliente não autorizou o contato, por isso nada lhe foi enviado.
notice-record-locked = Um registro está fechado e ficou como estava.
notice-incomplete = Alguns números faltam ou foram omitidos para proteger a privacidade.

named = { $entity }: { $label }
named-more = { $more ->
    [one] { $names } e mais um
   *[other] { $names } e mais { $more }
  }

success-create = { $affected ->
    [one] Um registro foi incluído ({ $entity }).
   *[other] { $affected } registros foram incluídos ({ $entity }).
  }
success-read = { $affected ->
    [0] Nenhum registro corresponde ({ $entity }).
    [one] Um registro foi encontrado ({ $entity }).
   *[other] { $affected } registros foram encontrados ({ $entity }).
  }
success-update = { $affected ->
    [0] Nada precisou ser alterado ({ $entity }).
    [one] Um registro foi alterado ({ $entity }).
   *[other] { $affected } registros foram alterados ({ $entity }).
  }
success-cancel = { $affected ->
    [0] Nada precisou ser cancelado ({ $entity }).
    [one] Um registro foi cancelado ({ $entity }).
   *[other] { $affected } registros foram cancelados ({ $entity }).
  }
success-delete = { $affected ->
    [0] Não havia nada a excluir ({ $entity }).
    [one] Um registro foi excluído ({ $entity }).
   *[other] { $affected } registros foram excluídos ({ $entity }).
  }

planned-create = { $affected ->
    [one] Inclui um registro ({ $entity }).
   *[other] Inclui { $affected } registros ({ $entity }).
  }
planned-read = Consulta { $entity }.
planned-update = { $affected ->
    [one] Altera um registro ({ $entity }){ $how }.
   *[other] Altera { $affected } registros ({ $entity }){ $how }.
  }
planned-cancel = { $affected ->
    [one] Cancela um registro ({ $entity }){ $how }.
   *[other] Cancela { $affected } registros ({ $entity }){ $how }.
  }
planned-delete = { $affected ->
    [one] Exclui um registro ({ $entity }).
   *[other] Exclui { $affected } registros ({ $entity }).
  }
planned-not = Esta parte ficaria de fora. { $why }
planned-more = { $more ->
    [one] E mais uma alteração.
   *[other] E mais { $more } alterações.
  }
changes = : { $changes }
change = { $field } de { $old } para { $new }
change-new = { $field } para { $new }
change-referred = { $field } conforme outra parte do pedido
value-text = “{ $text }”
value-yes = sim
value-no = não
value-none = nada

would-create = { $affected ->
    [one] Isto incluiria um registro ({ $entity }).
   *[other] Isto incluiria { $affected } registros ({ $entity }).
  }
would-read = { $affected ->
    [0] Isto não encontraria nenhum registro ({ $entity }).
    [one] Isto encontraria um registro ({ $entity }).
   *[other] Isto encontraria { $affected } registros ({ $entity }).
  }
would-update = { $affected ->
    [0] Isto não precisaria alterar nada ({ $entity }).
    [one] Isto alteraria um registro ({ $entity }){ $how }.
   *[other] Isto alteraria { $affected } registros ({ $entity }){ $how }.
  }
would-cancel = { $affected ->
    [0] Isto não precisaria cancelar nada ({ $entity }).
    [one] Isto cancelaria um registro ({ $entity }){ $how }.
   *[other] Isto cancelaria { $affected } registros ({ $entity }){ $how }.
  }
would-delete = { $affected ->
    [0] Isto não encontraria nada a excluir ({ $entity }).
    [one] Isto excluiria um registro ({ $entity }).
   *[other] Isto excluiria { $affected } registros ({ $entity }).
  }
would-all-create = { $records ->
    [one] Isto incluiria um registro.
   *[other] Isto incluiria { $records } registros.
  }
would-all-update = { $records ->
    [one] Isto alteraria um registro.
   *[other] Isto alteraria { $records } registros.
  }
would-all-cancel = { $records ->
    [one] Isto cancelaria um registro.
   *[other] Isto cancelaria { $records } registros.
  }
would-all-delete = { $records ->
    [one] Isto excluiria um registro.
   *[other] Isto excluiria { $records } registros.
  }
would-all-change = { $records ->
    [one] Isto incluiria, alteraria ou excluiria um registro ao todo.
   *[other] Isto incluiria, alteraria ou excluiria { $records } registros ao todo.
  }
confirmation = Deseja continuar?

reason-INVALID_ARGUMENT = Algo no pedido não está preenchido corretamente.
    .next = Confira o pedido e envie-o novamente.
reason-TOKEN_MISSING = Você não entrou na sua conta.
    .next = Entre na conta e tente novamente.
reason-TOKEN_INVALID = Você não entrou na sua conta.
    .next = Entre na conta e tente novamente.
reason-TOKEN_EXPIRED = Sua sessão terminou.
    .next = Entre novamente.
reason-ROLE_REQUIRED = Você não tem permissão para isto.
    .next = Fale com quem administra a conta da clínica.
reason-PERMISSION_DENIED = Você não tem permissão para isto.
    .next = Fale com quem administra a conta da clínica.
reason-NOT_FOUND = O que você pediu não foi encontrado.
    .next = Confira o nome ou o número.
reason-ALREADY_EXISTS = Já existe um registro assim.
    .next = Procure-o primeiro ou use outro nome ou número.
reason-ETAG_MISMATCH = Outra pessoa o alterou nesse meio-tempo.
    .next = Veja-o de novo e repita a alteração.
reason-STORE_UNAVAILABLE = Isto não pode ser feito no momento.
    .next = Tente novamente daqui a pouco.
reason-STORE_BUSY = Outra pessoa está alterando a mesma coisa neste momento.
    .next = Tente novamente daqui a pouco.
reason-USER_BUSY = Outra solicitação sua está sendo contada.
    .next = Tente novamente daqui a pouco.
reason-PEER_UNAVAILABLE = Isto não pode ser feito no momento.
    .next = Tente novamente daqui a pouco.
reason-DOMAIN_UNAVAILABLE = Esta parte do sistema da clínica não responde no momento.
    .next = Tente novamente daqui a pouco.
reason-DOMAIN_MALFUNCTION = Esta parte do sistema da clínica deu uma resposta que não pode ser usada.
    .next = Avise o suporte se acontecer de novo.
reason-DEADLINE_EXCEEDED = Demorou demais e foi interrompido.
    .next = Tente novamente, talvez com menos coisas de uma vez.
reason-OVERLOADED = Muitas pessoas estão fazendo pedidos no momento.
    .next = Tente novamente daqui a pouco.
reason-INTERNAL = Algo deu errado do nosso lado.
    .next = Tente novamente; avise o suporte se acontecer de novo.
reason-MESSAGE_TOO_LARGE = É demais para um único pedido ou uma única resposta.
    .next = Peça menos de cada vez.
reason-PEER_NOT_ALLOWED = Esta parte do sistema da clínica está fechada ao serviço que fez o pedido.
    .next = Avise o suporte.
reason-UNIMPLEMENTED = Esta parte do sistema da clínica não sabe fazer isso.
    .next = Avise o suporte.
reason-ROLLED_BACK = Isto não foi feito, pois outra parte que pertence a ele não pôde ser feita.
    .next = Resolva a outra parte e peça novamente.
    .planned = Outra parte ligada a isto não poderia ser feita.
reason-REFERENCE_INVALID = Isto se refere a outra parte do pedido de um jeito que não pode ser seguido.
    .next = Peça uma coisa depois da outra.
reason-DEPENDENCY_FAILED = Isto não foi feito, pois aquilo de que depende não pôde ser feito.
    .next = Resolva a outra parte e peça de novo.
    .planned = Aquilo de que depende não poderia ser feito.
reason-AMBIGUOUS_TARGET = Vários registros podem ser o pretendido.
    .next = Diga qual deles.
reason-TOO_MANY_AFFECTED = Isto alteraria mais registros do que você pediu.
    .next = Diga com mais precisão quais.
reason-RECORD_LOCKED = O registro está fechado e não pode ser alterado.
    .next = Fale com quem pode reabri-lo.
reason-CONSENT_MISSING = O cliente não autorizou o contato.
    .next = Peça primeiro a autorização do cliente.
reason-REFERENCE_VIOLATION = Outros registros dependem dele, ou falta algo de que ele precisa.
    .next = Resolva primeiro o que depende dele.
reason-UNKNOWN_DOMAIN = Esta parte do sistema da clínica não é conhecida.
    .next = Diga com outras palavras.
reason-UNKNOWN_ENTITY = Este tipo de registro não é conhecido.
    .next = Diga com outras palavras.
reason-UNKNOWN_FIELD = Um dos detalhes não é conhecido aqui.
    .next = Deixe-o de fora ou diga com outras palavras.
reason-FIELD_INVALID = Um dos detalhes não é conhecido aqui, ou o valor não serve.
    .next = Confira os detalhes.
reason-OPERATION_NOT_OFFERED = Isto não pode ser feito com este tipo de registro.
reason-UNKNOWN_METRIC = Este número não é conhecido.
    .next = Escolha um dos números oferecidos.
reason-OPERATION_ID_REUSED = Isto foi enviado duas vezes com conteúdos diferentes.
    .next = Envie como um novo pedido.
reason-OPERATION_ABANDONED = Isto foi abandonado antes e não foi feito.
    .next = Envie como um novo pedido.
reason-STATE_CONFLICT = O estado atual do registro não permite isto.
    .next = Veja o registro primeiro.
reason-PLAN_FORBIDS = Seu plano não inclui alterações.
    .next = Fale com quem administra a conta da clínica.
reason-TIER_NOT_ALLOWED = Seu plano não inclui este tipo de resposta.
    .next = Fale com quem administra a conta da clínica.
reason-WINDOW_NOT_ALLOWED = Seu plano não alcança um período tão antigo.
    .next = Escolha um período mais curto.
reason-QUOTA_EXHAUSTED = O limite de hoje do seu plano acabou.
    .next = Tente de novo amanhã.
reason-COOL_DOWN = Houve muitos pedidos em pouco tempo.
    .next = Aguarde alguns minutos.
reason-REQUEST_ID_REUSED = Isto foi enviado duas vezes com conteúdos diferentes.
    .next = Envie como um novo pedido.
reason-REQUEST_IN_PROGRESS = Seu pedido anterior ainda está em andamento.
    .next = Aguarde por ele.
reason-CONFIRMATION_INVALID = Esta confirmação não corresponde ao pedido.
    .next = Peça novamente.
reason-CONFIRMATION_EXPIRED = O prazo para confirmar terminou.
    .next = Peça novamente.
reason-CONFIRMATION_USED = Isto já foi confirmado.
reason-CONFIRMATION_OUTDATED = Algo mudou desde que você foi consultado.
    .next = Peça novamente e veja o novo resumo.
reason-RECORDS_CHANGED = Seriam atingidos outros registros além dos que você confirmou, por isso nada foi alterado.
    .next = Peça de novo e confira o novo resumo.
reason-CONFIRMATION_UNSUPPORTED = Não é possível garantir que só os registros contados sejam alterados, por isso isto não é oferecido.
    .next = Peça menos registros de cada vez.
reason-LOG_UNAVAILABLE = As alterações não podem ser registradas no momento, por isso nada foi alterado.
    .next = Tente novamente daqui a pouco.
reason-CANCELLED = Isto foi interrompido antes de ser feito.
reason-NO_MODEL_AVAILABLE = Nenhum assistente está disponível para isto no momento.
    .next = Tente novamente daqui a pouco.
reason-OUTCOME_UNKNOWN = Ainda não se sabe se isto foi feito.
    .next = Veja o registro antes de pedir de novo.
reason-OTHER = Isto não pôde ser feito.
    .next = Confira o pedido ou fale com o suporte.
