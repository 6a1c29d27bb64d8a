"""What the driver raises, as a Failure or as it is (USE-7, ALL-2)."""

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from services.runtime.failure import Failure, StoreBusy, StoreUnavailable
from services.runtime.postgres import outages_told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (psycopg.OperationalError("the connection is lost"), StoreUnavailable),
        # In a pipeline, whose connection ends between two statements.
        (psycopg.DatabaseError("server closed the connection unexpectedly"), StoreUnavailable),
        (psycopg.InterfaceError("the connection is closed"), StoreUnavailable),
        (psycopg.errors.AdminShutdown("terminating connection"), StoreUnavailable),
        (psycopg.errors.ReadOnlySqlTransaction("cannot execute"), StoreUnavailable),
        (PoolTimeout("no connection"), StoreUnavailable),
        (psycopg.errors.LockNotAvailable("lock timeout"), StoreBusy),
        (psycopg.errors.QueryCanceled("statement timeout"), StoreBusy),
        (psycopg.errors.IdleInTransactionSessionTimeout("idle"), StoreBusy),
        # Mistakes of ours, and what a transaction begins anew for.
        (psycopg.errors.UndefinedTable("no such relation"), None),
        (psycopg.errors.CheckViolation("violates a check"), None),
        (psycopg.DataError("too large"), None),
        (psycopg.errors.DeadlockDetected("deadlock"), None),
        (psycopg.errors.SerializationFailure("concurrent update"), None),
    ],
)
def test_an_outage_is_told_as_one_and_a_mistake_stays(
    error: psycopg.Error, told: type[Failure] | None
) -> None:
    """USE-7: kind: an outage that is told as INTERNAL, because its class is not the usual one."""
    with pytest.raises(told or type(error)) as caught, outages_told():
        raise error
    assert "connection" not in str(caught.value) or told is None
