"""The command line `gatehouse`: the suite on this machine, and its services' calls for people."""

from services.cli.main import main

__all__ = ["main"]
