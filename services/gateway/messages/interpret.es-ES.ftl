interpret-which-record = ¿A qué registro se refiere?
interpret-which-day = ¿A qué día y hora se refiere?
interpret-which-domain = ¿De qué se trata?
interpret-what-to-do = ¿Qué desea hacer? No se ha cambiado nada.
interpret-which-value = Falta algo: ¿qué valor debe tener?
    .named = Falta un dato: { $field }. ¿Qué valor debe tener?
