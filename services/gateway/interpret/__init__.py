"""Words into operations: by transparent rules first, by a model where they are not sure (GAT-3)."""

from services.gateway.interpret.interpreter import Interpreted, Interpreter

__all__ = ["Interpreted", "Interpreter"]
