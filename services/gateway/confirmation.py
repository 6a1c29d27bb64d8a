"""What must be confirmed, and the token that confirms it (GAT-5)."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.authorization import Planned
from services.gateway.failures import ConfirmationRefused
from services.gateway.settings import Settings
from services.runtime.identity import Caller


def reasons_of(
    planned: Sequence[Planned],
    descriptors: Mapping[str, DomainDescriptor],
    confidence: float,
    settings: Settings,
) -> list[pb.ConfirmationReason.ValueType]:
    """Why *planned* must be confirmed; empty when it need not be. Reads alone never do."""
    allowed = [each for each in planned if each.refused is None]
    changes = [each for each in allowed if each.modifies]
    if not changes:
        return []
    deletes = [each for each in changes if each.operation.verb == domain_pb2.VERB_DELETE]
    domains = {each.operation.domain for each in allowed}
    high = entitlements_pb2.SENSITIVITY_LEVEL_HIGH
    found = {
        pb.CONFIRMATION_REASON_MANY_OPERATIONS: len(changes) > settings.unconfirmed_operations,
        pb.CONFIRMATION_REASON_MANY_DOMAINS: len(domains) > settings.unconfirmed_domains,
        pb.CONFIRMATION_REASON_SENSITIVE_DELETE: any(
            descriptors[each.operation.domain].sensitivity_level == high for each in deletes
        ),
        pb.CONFIRMATION_REASON_LOW_CONFIDENCE: confidence < settings.unconfirmed_confidence,
    }
    return [reason for reason, holds in found.items() if holds]


def token_for(
    key: bytes, caller: Caller, request_id: str, now: datetime, lifetime: timedelta
) -> tuple[str, datetime]:
    """A token for this user and request, and until when it is good."""
    expires_at = now + lifetime
    body = f"{secrets.token_urlsafe(16)}.{int(expires_at.timestamp())}"
    return f"{body}.{signature(key, caller, request_id, body)}", expires_at


def check_token(key: bytes, caller: Caller, request_id: str, token: str) -> None:
    """Raises ConfirmationRefused for a token that was not given to this user for this request."""
    body, _, given = token.rpartition(".")
    if not hmac.compare_digest(given.encode(), signature(key, caller, request_id, body).encode()):
        raise ConfirmationRefused("the token is not one of this user and request")


def signature(key: bytes, caller: Caller, request_id: str, body: str) -> str:
    message = "\0".join((caller.user_id, caller.clinic_id, request_id, body)).encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()
