"""Which model answers, and what happens when one does not.

A request flows through plain decisions with I/O at the edges only:
`servicer → answering → routing (selection, circuit) → provider (sse, chat) → joining → accounts`.
The catalogue says what may be asked; it is one YAML file that is checked whole and reloaded on
change.
"""
