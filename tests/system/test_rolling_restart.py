"""A new version of every service, brought under load (ALL-1)."""

import pytest

from bench.rolling import Plan, carried_out
from services.embedded_services import SERVICES


# Six services stop and start, each waited for: minutes on a machine at load 10.
@pytest.mark.timeout(300)
async def test_a_restart_of_every_service_loses_no_request() -> None:
    """ALL-1, GAT-6, LOG-2: each is answered as if nothing had happened, its change is done once by
    the clinic's own tables, and its row says so.
    """
    findings = await carried_out(Plan(seed=7, callers=2, replicas=1))
    assert findings.violations == []
    assert findings.restarted == [f"{name} 0" for name in SERVICES]
    assert findings.calls > 100
    assert findings.completions > 50
    assert findings.rows > findings.calls
