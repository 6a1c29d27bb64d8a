"""Words into operations: by transparent rules first, by a model where they doubt (GAT-3).

An instruction goes through one step after the other, each a file:
`text (words) → texts (what is data) → clauses (what is asked) → kinds (about which records) →
mentions (what each word is) → writing, selecting (values, conditions) → rules (how sure, or what
to ask)`. What people say is in lexicon and its languages, what records there are in vocabulary,
days in dates. `second` is another reader, learned and knowing no nouns; `agreement` lets nothing
be changed that it speaks against. Where they have not understood, `model` asks one; `licence` says
what the words allow it to change, and `checking` holds everything to the descriptors.

Whoever only wants to read: `Interpreter(None, open_notices()).interpret(instruction, descriptors,
Reading(locale, zone, now), model_tiers=(), rules_only=True)`; descriptors by their domain's name.
"""

from services.gateway.interpret.interpreter import Interpreted, Interpreter

__all__ = ["Interpreted", "Interpreter"]
