"""What goes wrong with a request: one shape of the answer for every status."""

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response


class ErrorDetail(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    code: str
    """A word for programs; it does not change."""
    message: str
    """A sentence for people."""
    type: str
    """What sort of error it is, in OpenAI's words."""
    param: str | None
    """The field that is wrong, where it is one."""


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetail


class Problem(Exception):
    """A request that is not answered as asked.

    Args:
        status: of HTTP.
        message: a sentence for people; nothing of the request's content stands in it. The
            status's own of :data:`CODES` if not given.
        retry_after: seconds after which it is worth trying again.
        code: a word for programs, where it is another than the status's own.
        param: the field that is wrong.
    """

    def __init__(
        self,
        status: int,
        message: str | None = None,
        retry_after: float | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        word, meaning = CODES.get(status, ("error", "the request was refused"))
        text = message or meaning
        super().__init__(text)
        self.status, self.code, self.param = status, code or word, param
        self.message = text.encode(errors="replace").decode()  # halves of characters too
        self.headers = {"www-authenticate": "Bearer"} if status == 401 else {}
        if status == 408:  # what of the body is still to come is not waited for
            self.headers["connection"] = "close"
        if retry_after is not None:
            self.headers["retry-after"] = f"{max(1, math.ceil(retry_after))}"

    @property
    def body(self) -> bytes:
        """What is answered, as :class:`ErrorBody` describes it."""
        sort = _TYPES.get(self.status, "invalid_request" if self.status < 500 else "server")
        detail = {"code": self.code, "message": self.message, "type": f"{sort}_error"}
        return json.dumps({"error": {**detail, "param": self.param}}).encode()

    def response(self) -> Response:
        """The answer."""
        return Response(self.body, self.status, self.headers, "application/json")


CODES = {
    400: ("bad_request", "the request cannot be read"),
    401: ("unauthorized", "a token is missing or wrong"),
    403: ("forbidden", "a page of another site asked, or the token does not allow it"),
    404: ("not_found", "there is no such thing"),
    405: ("method_not_allowed", "this address has other methods"),
    408: ("slow_body", "the body did not arrive in time"),
    409: ("conflict", "what is asked does not go with what is there"),
    413: ("too_large", "the request is larger than the server takes"),
    415: ("unsupported_media_type", "the body has another type than this call takes"),
    421: ("misdirected", "the server is asked under a name that it does not have"),
    422: ("invalid", "a value is missing or wrong"),
    429: ("busy", "the queue is full"),
    500: ("internal", "the server failed"),
    503: ("unavailable", "the server takes no more now"),
    504: ("deadline", "the answer was not ready in time"),
}
"""The word and meaning of each status that the server gives."""
_TYPES = {401: "authentication", 403: "permission", 429: "rate_limit"}
ANY = (401, 403, 421, 500, 503, 504)
"""Statuses that every call may have."""
BODY = (400, 408, 413, 415, 422)
"""Statuses of a call that takes a body."""
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds after which it is worth trying again",
        "schema": {"type": "integer", "minimum": 1},
    }
}


_MESSAGES = {
    "extra_forbidden": "there is no such field",
    "model_attributes_type": "send an object as application/json",
    "value_error": "a file is needed",  # fastapi's, of an upload
}
"""What is said in place of pydantic's own message."""


def message_of(error: Mapping[str, Any]) -> str:
    """What pydantic found wrong with a value."""
    return _MESSAGES.get(error["type"]) or str(error["msg"])


def invalid(error: Mapping[str, Any]) -> Problem:
    """The problem of a body or field with which pydantic found something wrong."""
    if error["type"] == "json_invalid":
        return Problem(400, "the body is no JSON")
    where = ".".join(str(part)[:80] for part in error["loc"]) or "body"
    return Problem(422, f"{where}: {message_of(error)}", param=where)


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Answers of a call for OpenAPI: these statuses and those that every call may have."""
    return {
        status: {
            "model": ErrorBody,
            "description": CODES[status][1].capitalize(),
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status in sorted({*statuses, *ANY})
    }
