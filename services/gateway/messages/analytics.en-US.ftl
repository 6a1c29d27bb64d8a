metric-engagement_rate = engagement rate
    .above = clients with a kept appointment
    .below = clients
metric-cancellation_rate = cancellation rate
    .above = cancelled appointments
    .below = appointments
metric-no_show_rate = no-show rate
    .above = missed appointments
    .below = appointments that were kept or missed
metric-overdue_ratio = overdue ratio
    .above = amount overdue
    .below = amount of the open invoices

figure-plain = The { $metric } from { $start } to { $end } is { $value }: { $numerator } of { $denominator }.
figure-previous = In the { $days } days before it was { $value }.
figure-nothing = There is nothing to compute the { $metric } from between { $start } and { $end }.
figure-suppressed = The { $metric } is about too few people to be shown.
figure-failed = The { $metric } could not be computed at the moment.
prompt-summary = You write short reports for the staff of a clinic, in English. Use only the facts given. Repeat every number exactly as it is written. Do not add any other number. Write two or three sentences.

advice-overdue_ratio = { $value } of what your clients owe is past due. Send friendly reminders, the oldest invoices first, and offer payment in parts.
advice-no_show_rate = { $value } of the appointments due were missed. Confirm appointments the day before, and keep a list of clients who can come at short notice.
advice-cancellation_rate = { $value } of the appointments were cancelled. Offer another time at once, and ask for the reason.
advice-engagement_rate = Only { $value } of the clients came to an appointment. Write to those who have not been seen for a while, as far as they have agreed to it.
advice-period = These are figures from { $start } to { $end }.
advice-as-of = This is the state of { $end }.
prompt-advice = You word advice for the staff of a clinic, in English. Rewrite the text in a friendly and clear way, in at most two sentences. Repeat every number exactly as it is written. Do not add any other number.
