"""Errors of requests. All statuses have the same body."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response


class ErrorDetail(BaseModel):
    """Description of an error."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    code: str
    """Stable identifier of the error, for programs."""
    message: str
    """Error message, for people."""
    type: str
    """Category of the error, as OpenAI names it."""
    param: str | None
    """The field with the error; null if the error does not concern a field."""


class ErrorBody(BaseModel):
    """Body of every error response."""

    error: ErrorDetail


class ApiError(Exception):
    """Error that is returned to the client, which can retry after ``retry_after`` seconds.

    ``message`` has no content of the request. It and ``code`` are by default those of the status in
    :data:`CODES`. ``param`` is the field with the error.
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
        self.status, self.code = status, code or word
        # Replaces unpaired surrogates, which cannot be encoded.
        self.message = text.encode(errors="replace").decode()
        self.param = param and param.encode(errors="replace").decode()
        self.headers = {"www-authenticate": "Bearer"} if status == 401 else {}
        if status == 408:  # The server does not wait for the rest of the body.
            self.headers["connection"] = "close"
        if retry_after is not None:
            self.headers["retry-after"] = f"{max(1, math.ceil(retry_after))}"

    def response(self) -> Response:
        """Return the response, with an :class:`ErrorBody`."""
        sort = _TYPES.get(self.status, "invalid_request" if self.status < 500 else "server")
        detail = {"code": self.code, "message": self.message, "type": f"{sort}_error"}
        return JSONResponse({"error": detail | {"param": self.param}}, self.status, self.headers)


CODES = {
    400: ("bad_request", "the request cannot be read"),
    401: ("unauthorized", "the token is missing or wrong"),
    403: ("forbidden", "the token lacks the scope, or the page belongs to another site"),
    404: ("not_found", "the path, index, image or model does not exist"),
    405: ("method_not_allowed", "the path does not support this method"),
    408: ("slow_body", "the body did not arrive in time"),
    409: ("conflict", "the request conflicts with the current state"),
    413: ("too_large", "the request exceeds a size limit"),
    415: ("unsupported_media_type", "the call does not accept this Content-Type"),
    421: ("misdirected", "the server does not answer to this host name"),
    422: ("invalid", "a value is missing or invalid"),
    429: ("busy", "the queue is full"),
    500: ("internal", "the server failed"),
    503: ("unavailable", "the server is at capacity, starting or stopping"),
    504: ("deadline", "the answer was not ready in time"),
}
"""Identifier and default message of each status that the server returns."""
_TYPES = {401: "authentication", 403: "permission", 429: "rate_limit"}
ANY = (401, 403, 421, 500, 503, 504)  # Statuses that every call can return
BODY = (400, 408, 413, 415, 422)  # Statuses that a call with a body can return
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds after which to retry",
        "schema": {"type": "integer", "minimum": 1},
    }
}


_MESSAGES = {
    "extra_forbidden": "unknown field",
    "model_attributes_type": "must be a JSON object, sent as application/json",
    "value_error": "must be a file",  # FastAPI raises it for a missing upload.
}
"""Messages that replace those of pydantic, by type of the error."""


def message_of(error: Mapping[str, Any]) -> str:
    """Return the message for an error that pydantic found."""
    if error.get("ctx") == {"pattern": r"\S"}:
        return "must not be blank"
    return _MESSAGES.get(error["type"]) or str(error["msg"])


def invalid(error: Mapping[str, Any]) -> ApiError:
    """Return the error response for an error that pydantic found in a body or field."""
    if error["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON")
    where = ".".join(str(part)[:80] for part in error["loc"]) or "body"
    return ApiError(422, f"{where}: {message_of(error)}", param=where)


def describe_errors(*statuses: int, body: Any = ErrorBody) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses for these statuses and those that every call can return."""
    return {
        status: {
            "model": body,
            "description": CODES[status][1].capitalize(),
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status in sorted({*statuses, *ANY})
    }
