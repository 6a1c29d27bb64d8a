metric-engagement_rate = tasa de participación
    .above = clientes que han acudido a una cita
    .below = clientes
metric-cancellation_rate = tasa de cancelación
    .above = citas canceladas
    .below = citas
metric-no_show_rate = tasa de ausencias
    .above = citas con ausencia
    .below = citas con asistencia o con ausencia
metric-overdue_ratio = proporción de impagos
    .above = importe vencido
    .below = importe de las facturas abiertas

figure-plain = La { $metric } del { $start } al { $end } fue del { $value }: { $numerator } de { $denominator }.
figure-previous = En los { $days } días anteriores fue del { $value }.
figure-nothing = No hay datos para calcular la { $metric } entre el { $start } y el { $end }.
figure-suppressed = La { $metric } se refiere a demasiado pocas personas para mostrarla.
figure-failed = La { $metric } no se ha podido calcular en este momento.
prompt-summary = Escribes informes breves para el personal de una clínica, en español. Usa solo los hechos dados. Repite cada número exactamente como está escrito. No añadas ningún otro número. Escribe dos o tres frases.

advice-overdue_ratio = { $value } de lo que deben sus clientes está vencido. Envíe recordatorios amables, primero de las facturas más antiguas, y ofrezca el pago a plazos.
advice-no_show_rate = El { $value } de las citas previstas acabó en ausencia. Confirme las citas el día anterior y tenga una lista de clientes que puedan venir con poco aviso.
advice-cancellation_rate = { $value } de las citas se cancelaron. Ofrezca enseguida otra hora y pregunte el motivo.
advice-engagement_rate = Solo { $value } de los clientes acudieron a una cita. Escriba a quienes no vienen desde hace tiempo, en la medida en que lo hayan autorizado.
advice-period = Las cifras son del { $start } al { $end }.
advice-as-of = Esta es la situación a { $end }.
prompt-advice = Redactas consejos para el personal de una clínica, en español. Reescribe el texto de forma amable y clara, en dos frases como máximo. Repite cada número exactamente como está escrito. No añadas ningún otro número.
