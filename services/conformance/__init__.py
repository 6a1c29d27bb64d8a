"""Tells the author of a domain service what it gets wrong (DOM-1).

Each promise of `gatehouse.domain.v1.DomainService` is a check of its own: a short function that
calls the domain as Gatehouse would and says what it expected. The checks stand in files by what
they are about; `findings.CHECKS` has them all, `running.check_domain` runs them.
"""

from services.conformance.findings import CHECKS, Finding, Verdict
from services.conformance.running import check_domain

__all__ = ["CHECKS", "Finding", "Verdict", "check_domain"]
