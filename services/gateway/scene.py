"""What the steps of one request share."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor, GetEntitlementsResponse
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.admission import Admission, Claims
from services.gateway.reading import Reading
from services.gateway.report import Reporter
from services.runtime.identity import Caller


@dataclass(frozen=True)
class Scene:
    """Everything about one request that its steps share."""

    request: pb.ExecuteRequest
    caller: Caller
    reading: Reading
    entitlements: GetEntitlementsResponse
    descriptors: Mapping[str, DomainDescriptor]
    admission: Admission
    claims: Claims
    reporter: Reporter
    cancelled: asyncio.Event

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def use_id(self) -> UUID:
        """What the ids of its operations derive from."""
        return self.claims.use_id
