interpret-which-record = Which record do you mean?
interpret-which-day = Which day and time do you mean?
interpret-which-domain = What is it about?
interpret-what-to-do = What would you like to do? Nothing has been changed.
interpret-which-value = Something is missing: what should it be?
    .named = Something is missing: { $field }. What should it be?
