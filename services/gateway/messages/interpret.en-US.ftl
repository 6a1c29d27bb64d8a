interpret-which-record = Which record do you mean?
interpret-which-day = Which day and time do you mean?
interpret-which-domain = What is it about?
interpret-what-to-do = What shall be done? Nothing has been changed.
interpret-which-value = Something is missing: what shall it be?
    .named = Something is missing: { $field }. What shall it be?
