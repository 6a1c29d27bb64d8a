# Frases para usuarios en español. Sin identificadores ni términos técnicos.

notice-upgrade = El plan { $plan } no incluye esto. Con el plan { $upgrade } tiene: { $benefits }.
notice-window = Su plan alcanza { $allowed } días hacia atrás, y esto necesitaría { $asked }.
notice-quota-near = { $remaining ->
    [0] Esta ha sido la última petición de hoy de su plan.
    [one] Le queda una petición hoy.
   *[other] Le quedan { $remaining } peticiones hoy.
  } El límite se renueva el { $resets_at }.
notice-quota-exhausted = El límite de hoy de su plan se ha agotado. Se renueva el { $resets_at }.
notice-cool-down = { $minutes ->
    [one] Ha habido muchas peticiones en poco tiempo. Espere un minuto y continúe.
   *[other] Ha habido muchas peticiones en poco tiempo. Espere { $minutes } minutos y continúe.
  }
notice-failover = Su respuesta se ha completado con un nivel de procesamiento alternativo.
notice-consent = Un cliente no ha autorizado el contacto, por lo que no se le ha enviado nada.
notice-record-locked = Un registro está cerrado y se ha dejado como estaba.
notice-incomplete = Faltan algunas cifras o se han omitido para proteger la privacidad.

named = { $entity }: { $label }
named-more = { $more ->
    [one] { $names } y uno más
   *[other] { $names } y { $more } más
  }

success-create = { $affected ->
    [one] Se ha añadido un registro ({ $entity }).
   *[other] Se han añadido { $affected } registros ({ $entity }).
  }
success-read = { $affected ->
    [0] No hay ningún registro que coincida ({ $entity }).
    [one] Se ha encontrado un registro ({ $entity }).
   *[other] Se han encontrado { $affected } registros ({ $entity }).
  }
success-update = { $affected ->
    [0] No ha habido que cambiar nada ({ $entity }).
    [one] Se ha cambiado un registro ({ $entity }).
   *[other] Se han cambiado { $affected } registros ({ $entity }).
  }
success-cancel = { $affected ->
    [0] No ha habido que cancelar nada ({ $entity }).
    [one] Se ha cancelado un registro ({ $entity }).
   *[other] Se han cancelado { $affected } registros ({ $entity }).
  }
success-delete = { $affected ->
    [0] No había nada que eliminar ({ $entity }).
    [one] Se ha eliminado un registro ({ $entity }).
   *[other] Se han eliminado { $affected } registros ({ $entity }).
  }

planned-create = { $affected ->
    [one] Añade un registro ({ $entity }).
   *[other] Añade { $affected } registros ({ $entity }).
  }
planned-read = Consulta { $entity }.
planned-update = { $affected ->
    [one] Cambia un registro ({ $entity }){ $how }.
   *[other] Cambia { $affected } registros ({ $entity }){ $how }.
  }
planned-cancel = { $affected ->
    [one] Cancela un registro ({ $entity }){ $how }.
   *[other] Cancela { $affected } registros ({ $entity }){ $how }.
  }
planned-delete = { $affected ->
    [one] Elimina un registro ({ $entity }).
   *[other] Elimina { $affected } registros ({ $entity }).
  }
planned-not = Esta parte se dejaría fuera. { $why }
planned-more = { $more ->
    [one] Y un cambio más.
   *[other] Y { $more } cambios más.
  }
changes = : { $changes }
change = { $field } de { $old } a { $new }
change-new = { $field } a { $new }
change-referred = { $field } según otra parte de la petición
value-text = «{ $text }»
value-yes = sí
value-no = no
value-none = nada

would-create = { $affected ->
    [one] Esto añadiría un registro ({ $entity }).
   *[other] Esto añadiría { $affected } registros ({ $entity }).
  }
would-read = { $affected ->
    [0] Esto no encontraría ningún registro ({ $entity }).
    [one] Esto encontraría un registro ({ $entity }).
   *[other] Esto encontraría { $affected } registros ({ $entity }).
  }
would-update = { $affected ->
    [0] Esto no tendría que cambiar nada ({ $entity }).
    [one] Esto cambiaría un registro ({ $entity }){ $how }.
   *[other] Esto cambiaría { $affected } registros ({ $entity }){ $how }.
  }
would-cancel = { $affected ->
    [0] Esto no tendría que cancelar nada ({ $entity }).
    [one] Esto cancelaría un registro ({ $entity }){ $how }.
   *[other] Esto cancelaría { $affected } registros ({ $entity }){ $how }.
  }
would-delete = { $affected ->
    [0] Esto no encontraría nada que eliminar ({ $entity }).
    [one] Esto eliminaría un registro ({ $entity }).
   *[other] Esto eliminaría { $affected } registros ({ $entity }).
  }
would-all-create = { $records ->
    [one] Esto añadiría un registro.
   *[other] Esto añadiría { $records } registros.
  }
would-all-update = { $records ->
    [one] Esto cambiaría un registro.
   *[other] Esto cambiaría { $records } registros.
  }
would-all-cancel = { $records ->
    [one] Esto cancelaría un registro.
   *[other] Esto cancelaría { $records } registros.
  }
would-all-delete = { $records ->
    [one] Esto eliminaría un registro.
   *[other] Esto eliminaría { $records } registros.
  }
would-all-change = { $records ->
    [one] Esto añadiría, cambiaría o eliminaría un registro en total.
   *[other] Esto añadiría, cambiaría o eliminaría { $records } registros en total.
  }
confirmation = ¿Desea continuar?

reason-INVALID_ARGUMENT = Algo de la petición no está rellenado correctamente.
    .next = Revise la petición y envíela de nuevo.
reason-TOKEN_MISSING = No ha iniciado sesión.
    .next = Inicie sesión e inténtelo de nuevo.
reason-TOKEN_INVALID = No ha iniciado sesión.
    .next = Inicie sesión e inténtelo de nuevo.
reason-TOKEN_EXPIRED = Su sesión ha terminado.
    .next = Inicie sesión de nuevo.
reason-ROLE_REQUIRED = No tiene permiso para esto.
    .next = Hable con quien administra la cuenta de la clínica.
reason-PERMISSION_DENIED = No tiene permiso para esto.
    .next = Hable con quien administra la cuenta de la clínica.
reason-NOT_FOUND = No se ha encontrado lo que ha pedido.
    .next = Revise el nombre o el número.
reason-ALREADY_EXISTS = Ya existe un registro así.
    .next = Búsquelo primero o use otro nombre o número.
reason-ETAG_MISMATCH = Otra persona lo ha cambiado mientras tanto.
    .next = Mírelo de nuevo y repita el cambio.
reason-STORE_UNAVAILABLE = Esto no se puede hacer en este momento.
    .next = Inténtelo de nuevo dentro de un rato.
reason-STORE_BUSY = Otra persona está cambiando lo mismo en este momento.
    .next = Inténtelo de nuevo dentro de un rato.
reason-USER_BUSY = Otra solicitud suya se está contando.
    .next = Inténtelo de nuevo dentro de un rato.
reason-PEER_UNAVAILABLE = Esto no se puede hacer en este momento.
    .next = Inténtelo de nuevo dentro de un rato.
reason-DOMAIN_UNAVAILABLE = Esta parte del sistema de la clínica no responde en este momento.
    .next = Inténtelo de nuevo dentro de un rato.
reason-DOMAIN_MALFUNCTION = Esta parte del sistema de la clínica ha dado una respuesta que no se puede usar.
    .next = Avise al soporte si vuelve a ocurrir.
reason-DEADLINE_EXCEEDED = Ha tardado demasiado y se ha detenido.
    .next = Inténtelo de nuevo, quizá con menos cosas a la vez.
reason-OVERLOADED = Hay muchas peticiones en este momento.
    .next = Inténtelo de nuevo dentro de un rato.
reason-INTERNAL = Algo ha fallado por nuestra parte.
    .next = Inténtelo de nuevo; avise al soporte si vuelve a ocurrir.
reason-MESSAGE_TOO_LARGE = Es demasiado para una sola petición o una sola respuesta.
    .next = Pida menos cada vez.
reason-PEER_NOT_ALLOWED = Esta parte del sistema de la clínica está cerrada al servicio que lo pidió.
    .next = Avise al soporte.
reason-UNIMPLEMENTED = Esta parte del sistema de la clínica no puede hacerlo.
    .next = Avise al soporte.
reason-ROLLED_BACK = Esto no se ha hecho, porque otra parte que va con ello no se ha podido hacer.
    .next = Resuelva la otra parte y pídalo de nuevo.
    .planned = Otra parte vinculada a esto no se podría hacer.
reason-REFERENCE_INVALID = Esto se refiere a otra parte de la petición de una forma que no se puede seguir.
    .next = Pida una cosa después de la otra.
reason-DEPENDENCY_FAILED = Esto no se ha hecho, porque no se ha podido hacer aquello de lo que depende.
    .next = Resuelva la otra parte y vuelva a pedirlo.
    .planned = Aquello de lo que depende no se podría hacer.
reason-AMBIGUOUS_TARGET = Podría tratarse de varios registros.
    .next = Diga cuál de ellos.
reason-TOO_MANY_AFFECTED = Esto habría cambiado más registros de los que ha pedido.
    .next = Diga con más precisión cuáles.
reason-RECORD_LOCKED = El registro está cerrado y no se puede cambiar.
    .next = Hable con quien pueda reabrirlo.
reason-CONSENT_MISSING = El cliente no ha autorizado el contacto.
    .next = Pida primero la autorización del cliente.
reason-REFERENCE_VIOLATION = Otros registros dependen de él, o falta algo que necesita.
    .next = Resuelva primero lo que depende de él.
reason-UNKNOWN_DOMAIN = Esta parte del sistema de la clínica no se conoce.
    .next = Dígalo con otras palabras.
reason-UNKNOWN_ENTITY = Este tipo de registro no se conoce.
    .next = Dígalo con otras palabras.
reason-UNKNOWN_FIELD = Uno de los datos no se conoce aquí.
    .next = Omítalo o dígalo con otras palabras.
reason-FIELD_INVALID = Uno de los datos no se conoce aquí, o su valor no sirve.
    .next = Revise los datos.
reason-OPERATION_NOT_OFFERED = Esto no se puede hacer con este tipo de registro.
reason-UNKNOWN_METRIC = Esta cifra no se conoce.
    .next = Elija una de las cifras que se ofrecen.
reason-OPERATION_ID_REUSED = Esto se ha enviado dos veces con contenidos distintos.
    .next = Envíelo como una petición nueva.
reason-OPERATION_ABANDONED = Esto se abandonó antes y no se ha hecho.
    .next = Envíelo como una petición nueva.
reason-STATE_CONFLICT = El estado actual del registro no lo permite.
    .next = Mire primero el registro.
reason-PLAN_FORBIDS = Su plan no incluye cambios.
    .next = Hable con quien administra la cuenta de la clínica.
reason-TIER_NOT_ALLOWED = Su plan no incluye este tipo de respuesta.
    .next = Hable con quien administra la cuenta de la clínica.
reason-WINDOW_NOT_ALLOWED = Su plan no llega a un periodo tan antiguo.
    .next = Elija un periodo más corto.
reason-QUOTA_EXHAUSTED = El límite de hoy de su plan se ha agotado.
    .next = Inténtelo de nuevo mañana.
reason-COOL_DOWN = Ha habido muchas peticiones en poco tiempo.
    .next = Espere unos minutos.
reason-REQUEST_ID_REUSED = Esto se ha enviado dos veces con contenidos distintos.
    .next = Envíelo como una petición nueva.
reason-REQUEST_IN_PROGRESS = Su petición anterior todavía está en curso.
    .next = Espere a que termine.
reason-CONFIRMATION_INVALID = Esta confirmación no corresponde a la petición.
    .next = Pídalo de nuevo.
reason-CONFIRMATION_EXPIRED = El plazo para confirmar ha terminado.
    .next = Pídalo de nuevo.
reason-CONFIRMATION_USED = Esto ya se ha confirmado.
reason-CONFIRMATION_OUTDATED = Algo ha cambiado desde que se le preguntó.
    .next = Pídalo de nuevo y mire el nuevo resumen.
reason-RECORDS_CHANGED = Se tocarían otros registros distintos de los que usted aceptó, por lo que no se ha cambiado nada.
    .next = Pídalo de nuevo y mire el nuevo resumen.
reason-CONFIRMATION_UNSUPPORTED = No se puede garantizar que solo cambien los registros contados, por lo que no se ofrece.
    .next = Pida menos registros a la vez.
reason-LOG_UNAVAILABLE = Los cambios no se pueden registrar en este momento, por lo que no se ha cambiado nada.
    .next = Inténtelo de nuevo dentro de un rato.
reason-CANCELLED = Esto se ha detenido antes de hacerse.
reason-NO_MODEL_AVAILABLE = No hay ningún asistente disponible para esto en este momento.
    .next = Inténtelo de nuevo dentro de un rato.
reason-OUTCOME_UNKNOWN = Todavía no se sabe si esto se ha hecho.
    .next = Mire el registro antes de pedirlo de nuevo.
reason-OTHER = No se ha podido hacer.
    .next = Revise la petición o hable con el soporte.
