# Sentences for users in English. No identifiers and no technical words: a user reads them as they are.

notice-upgrade = The { $plan } plan does not include this. With the { $upgrade } plan you get: { $benefits }.
notice-window = Your plan looks back { $allowed } days, and this would take { $asked }.
notice-quota-near = { $remaining ->
    [0] That was today's last request of your plan.
    [one] You have one request left today.
   *[other] You have { $remaining } requests left today.
  } Your allowance is renewed on { $resets_at }.
notice-quota-exhausted = Today's allowance of your plan is used up. It is renewed on { $resets_at }.
notice-cool-down = { $minutes ->
    [one] There were many requests in a short time. Please wait one minute, then go on.
   *[other] There were many requests in a short time. Please wait { $minutes } minutes, then go on.
  }
notice-failover = Your answer was completed using an alternate processing tier.
notice-consent = A client has not agreed to be contacted, so nothing was sent to them.
notice-record-locked = A record is closed and was left as it is.
notice-incomplete = Some figures are missing or were left out to protect privacy.

named = { $entity }: { $label }
named-more = { $more ->
    [one] { $names } and one more
   *[other] { $names } and { $more } more
  }

success-create = { $affected ->
    [one] One record was added ({ $entity }).
   *[other] { $affected } records were added ({ $entity }).
  }
success-read = { $affected ->
    [0] No record matches ({ $entity }).
    [one] One record was found ({ $entity }).
   *[other] { $affected } records were found ({ $entity }).
  }
success-update = { $affected ->
    [0] Nothing had to be changed ({ $entity }).
    [one] One record was changed ({ $entity }).
   *[other] { $affected } records were changed ({ $entity }).
  }
success-cancel = { $affected ->
    [0] Nothing had to be cancelled ({ $entity }).
    [one] One record was cancelled ({ $entity }).
   *[other] { $affected } records were cancelled ({ $entity }).
  }
success-delete = { $affected ->
    [0] There was nothing to delete ({ $entity }).
    [one] One record was deleted ({ $entity }).
   *[other] { $affected } records were deleted ({ $entity }).
  }

planned-create = { $affected ->
    [one] Adds one record ({ $entity }).
   *[other] Adds { $affected } records ({ $entity }).
  }
planned-read = Looks up { $entity }.
planned-update = { $affected ->
    [one] Changes one record ({ $entity }){ $how }.
   *[other] Changes { $affected } records ({ $entity }){ $how }.
  }
planned-cancel = { $affected ->
    [one] Cancels one record ({ $entity }){ $how }.
   *[other] Cancels { $affected } records ({ $entity }){ $how }.
  }
planned-delete = { $affected ->
    [one] Deletes one record ({ $entity }).
   *[other] Deletes { $affected } records ({ $entity }).
  }
planned-not = This part would be left out. { $why }
planned-more = { $more ->
    [one] And one more change.
   *[other] And { $more } more changes.
  }
changes = : { $changes }
change = { $field } from { $old } to { $new }
change-new = { $field } to { $new }
change-referred = { $field } as another part of the request says
value-text = “{ $text }”
value-yes = yes
value-no = no
value-none = nothing

would-create = { $affected ->
    [one] This would add one record ({ $entity }).
   *[other] This would add { $affected } records ({ $entity }).
  }
would-read = { $affected ->
    [0] This would find no record ({ $entity }).
    [one] This would find one record ({ $entity }).
   *[other] This would find { $affected } records ({ $entity }).
  }
would-update = { $affected ->
    [0] This would not have to change anything ({ $entity }).
    [one] This would change one record ({ $entity }){ $how }.
   *[other] This would change { $affected } records ({ $entity }){ $how }.
  }
would-cancel = { $affected ->
    [0] This would not have to cancel anything ({ $entity }).
    [one] This would cancel one record ({ $entity }){ $how }.
   *[other] This would cancel { $affected } records ({ $entity }){ $how }.
  }
would-delete = { $affected ->
    [0] This would find nothing to delete ({ $entity }).
    [one] This would delete one record ({ $entity }).
   *[other] This would delete { $affected } records ({ $entity }).
  }
would-all-create = { $records ->
    [one] This would add one record.
   *[other] This would add { $records } records.
  }
would-all-update = { $records ->
    [one] This would change one record.
   *[other] This would change { $records } records.
  }
would-all-cancel = { $records ->
    [one] This would cancel one record.
   *[other] This would cancel { $records } records.
  }
would-all-delete = { $records ->
    [one] This would delete one record.
   *[other] This would delete { $records } records.
  }
would-all-change = { $records ->
    [one] This would add, change or delete one record in all.
   *[other] This would add, change or delete { $records } records in all.
  }
confirmation = Do you want to go ahead?

reason-INVALID_ARGUMENT = Something in the request is not filled in correctly.
    .next = Please check the request and send it again.
reason-TOKEN_MISSING = You are not signed in.
    .next = Please sign in and try again.
reason-TOKEN_INVALID = You are not signed in.
    .next = Please sign in and try again.
reason-TOKEN_EXPIRED = Your session is over.
    .next = Please sign in again.
reason-ROLE_REQUIRED = You do not have the permission for this.
    .next = Ask the person who administers your clinic's account.
reason-PERMISSION_DENIED = You do not have the permission for this.
    .next = Ask the person who administers your clinic's account.
reason-NOT_FOUND = What you asked for was not found.
    .next = Please check the name or number.
reason-ALREADY_EXISTS = A record like this already exists.
    .next = Look it up first, or use another name or number.
reason-ETAG_MISMATCH = Someone else changed it in the meantime.
    .next = Look at it again, then repeat your change.
reason-STORE_UNAVAILABLE = This cannot be done at the moment.
    .next = Please try again in a little while.
reason-STORE_BUSY = Somebody else is changing the same thing just now.
    .next = Please try again in a little while.
reason-USER_BUSY = Another request of yours is being counted.
    .next = Please try again in a little while.
reason-PEER_UNAVAILABLE = This cannot be done at the moment.
    .next = Please try again in a little while.
reason-DOMAIN_UNAVAILABLE = This part of the clinic's system does not answer at the moment.
    .next = Please try again in a little while.
reason-DOMAIN_MALFUNCTION = This part of the clinic's system gave an answer that cannot be used.
    .next = Please tell your support if it happens again.
reason-DEADLINE_EXCEEDED = It took too long and was stopped.
    .next = Please try again, perhaps with fewer things at once.
reason-OVERLOADED = Many people are asking at the moment.
    .next = Please try again in a little while.
reason-INTERNAL = Something went wrong on our side.
    .next = Please try again; tell your support if it happens again.
reason-MESSAGE_TOO_LARGE = This is too much for one request or one answer.
    .next = Ask for less at a time.
reason-PEER_NOT_ALLOWED = This part of the clinic's system is closed to the service that asked.
    .next = Tell your support about it.
reason-UNIMPLEMENTED = This part of the clinic's system cannot do that.
    .next = Tell your support about it.
reason-ROLLED_BACK = This was not done, since another part that belongs to it could not be done.
    .next = Sort out the other part first, then ask again.
    .planned = Another part that belongs to it could not be done.
reason-REFERENCE_INVALID = This refers to something else in the request in a way that cannot be followed.
    .next = Please ask for one after the other.
reason-DEPENDENCY_FAILED = This was not done, since what it builds on could not be done.
    .next = Sort out the other part first, then ask again.
    .planned = What it builds on could not be done.
reason-AMBIGUOUS_TARGET = Several records could be meant.
    .next = Say which one.
reason-TOO_MANY_AFFECTED = This would have changed more records than you asked for.
    .next = Say more exactly which ones.
reason-RECORD_LOCKED = The record is closed and cannot be changed.
    .next = Ask someone who may open it again.
reason-CONSENT_MISSING = The client has not agreed to be contacted.
    .next = Ask the client for consent first.
reason-REFERENCE_VIOLATION = Other records depend on it, or something that it needs is missing.
    .next = Sort out what depends on it first.
reason-UNKNOWN_DOMAIN = This part of the clinic's system is not known.
    .next = Say it in other words.
reason-UNKNOWN_ENTITY = This kind of record is not known.
    .next = Say it in other words.
reason-UNKNOWN_FIELD = One of the details is not known here.
    .next = Leave it out, or say it in other words.
reason-FIELD_INVALID = One of the details is not known here, or its value does not fit.
    .next = Please check the details.
reason-OPERATION_NOT_OFFERED = This cannot be done with this kind of record.
reason-UNKNOWN_METRIC = This figure is not known.
    .next = Choose one of the figures that are offered.
reason-OPERATION_ID_REUSED = This was sent twice with different contents.
    .next = Please send it again as a new request.
reason-OPERATION_ABANDONED = This was given up earlier and was not done.
    .next = Please send it again as a new request.
reason-STATE_CONFLICT = The record's present state does not allow this.
    .next = Look at the record first.
reason-PLAN_FORBIDS = Your plan does not include changes.
    .next = Ask the person who administers your clinic's account.
reason-TIER_NOT_ALLOWED = Your plan does not include this kind of answer.
    .next = Ask the person who administers your clinic's account.
reason-WINDOW_NOT_ALLOWED = Your plan does not look back that far.
    .next = Choose a shorter time.
reason-QUOTA_EXHAUSTED = Today's allowance of your plan is used up.
    .next = Try again tomorrow.
reason-COOL_DOWN = There were many requests in a short time.
    .next = Please wait a few minutes.
reason-REQUEST_ID_REUSED = This was sent twice with different contents.
    .next = Please send it again as a new request.
reason-REQUEST_IN_PROGRESS = Your earlier request is still being worked on.
    .next = Please wait for it.
reason-CONFIRMATION_INVALID = This confirmation does not fit the request.
    .next = Please ask again.
reason-CONFIRMATION_EXPIRED = The time to confirm is over.
    .next = Please ask again.
reason-CONFIRMATION_USED = This was confirmed already.
reason-CONFIRMATION_OUTDATED = Things have changed since you were asked.
    .next = Please ask again and look at the new summary.
reason-RECORDS_CHANGED = Other records would be touched than those that you agreed to, so nothing was changed.
    .next = Please ask again and look at the new summary.
reason-CONFIRMATION_UNSUPPORTED = This cannot be held to the records that were counted, so it is not offered.
    .next = Ask for fewer records at a time.
reason-LOG_UNAVAILABLE = Changes cannot be recorded at the moment, so nothing was changed.
    .next = Please try again in a little while.
reason-CANCELLED = This was stopped before it was done.
reason-NO_MODEL_AVAILABLE = No assistant is available for this at the moment.
    .next = Please try again in a little while.
reason-OUTCOME_UNKNOWN = It is not known yet whether this was done.
    .next = Look at the record before you ask again.
reason-OTHER = This could not be done.
    .next = Please check the request, or ask your support.
