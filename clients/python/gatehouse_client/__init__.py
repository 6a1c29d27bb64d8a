"""Calls Gatehouse's gateway, from threads (`Client`) or asyncio (`AsyncClient`)."""

from gatehouse.domain.v1 import domain_pb2 as domain
from gatehouse.gateway.v1 import gateway_pb2 as pb

from gatehouse_client.aio import AsyncClient
from gatehouse_client.blocking import Client
from gatehouse_client.channel import PlainTextRefused, Tls
from gatehouse_client.refusals import (
    Conflict,
    DeadlineExceeded,
    Exhausted,
    Forbidden,
    GatehouseError,
    InvalidRequest,
    NotFound,
    Unauthenticated,
    Unavailable,
    Violation,
    refusal_in,
)
from gatehouse_client.requests import Answer

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Conflict",
    "DeadlineExceeded",
    "Exhausted",
    "Forbidden",
    "GatehouseError",
    "InvalidRequest",
    "NotFound",
    "PlainTextRefused",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "domain",
    "pb",
    "refusal_in",
]
