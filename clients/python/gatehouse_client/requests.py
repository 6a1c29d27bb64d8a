"""What both clients send, and the answer to Execute."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from gatehouse.gateway.v1 import gateway_pb2 as pb

What = str | Sequence[pb.Operation] | pb.ExecuteRequest
"""Words, operations, or a whole request."""

R = TypeVar("R", pb.ExecuteRequest, pb.AnalyzeRequest, pb.RecommendRequest)


@dataclass(frozen=True)
class Answer:
    """One of `report`, `clarification` and `confirmation`; the others are None."""

    request: pb.ExecuteRequest
    response: pb.ExecuteResponse

    @property
    def report(self) -> pb.PartialOutcomeReport | None:
        return self.response.report if self.response.HasField("report") else None

    @property
    def clarification(self) -> pb.Clarification | None:
        return self.response.clarification if self.response.HasField("clarification") else None

    @property
    def confirmation(self) -> pb.ConfirmationRequired | None:
        return self.response.confirmation if self.response.HasField("confirmation") else None

    def confirmed(self) -> pb.ExecuteRequest:
        """The request that goes ahead. Raises ValueError where nothing is to be confirmed."""
        if self.confirmation is None or not self.confirmation.confirmation_token:
            raise ValueError("this answer asks for no confirmation")
        return pb.ExecuteRequest(
            request_id=self.request.request_id,
            confirmation_token=self.confirmation.confirmation_token,
            locale=self.request.locale,
            time_zone=self.request.time_zone,
            min_revision=self.request.min_revision,
        )


def execute_request(what: What, request_id: str, locale: str, time_zone: str) -> pb.ExecuteRequest:
    if isinstance(what, pb.ExecuteRequest):
        return with_request_id(what)
    request = pb.ExecuteRequest(request_id=request_id, locale=locale, time_zone=time_zone)
    if isinstance(what, str):
        request.instruction = what
    else:
        request.operations.operations.extend(what)
    return with_request_id(request)


def with_request_id(request: R) -> R:
    """*request* itself, or a copy with a new id where it has none: a retry must not make another.

    An id of your own, kept with what it stands for, makes a call safe over restarts too.
    """
    if request.request_id:
        return request
    sent = type(request)()
    sent.CopyFrom(request)
    sent.request_id = str(uuid.uuid4())
    return sent
