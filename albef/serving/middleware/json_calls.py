"""Innermost middleware: calls whose only input is a JSON body skip the framework's general way.

FastAPI's routing, dependencies and checks of its own answers take longer than a small text model.
"""

import json
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Any

from fastapi.params import Body
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from albef.serving.errors import ApiError, invalid
from albef.serving.middleware.exchange import HttpMiddleware, exchange_of, path_of


@dataclass(eq=False)
class JsonCalls(HttpMiddleware):
    """Middleware that answers the routes with a JSON body and no other input; others pass on."""

    routes: InitVar[Sequence[BaseRoute]]

    def __post_init__(self, routes: Sequence[BaseRoute]) -> None:
        self._calls = {
            route.path: (route, route.dependant.body_params[0].name)
            for route in routes
            if isinstance(route, APIRoute)
            and type(route.body_field and route.body_field.field_info) is Body
            and not (route.dependant.path_params or route.dependant.dependencies)
        }

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST" or path_of(scope) not in self._calls:
            await self.app(scope, receive, send)
            return
        route, name = self._calls[path_of(scope)]
        scope["route"] = route
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        assert route.body_field is not None
        assert route.response_field is not None
        kind = exchange_of(scope).headers.get("content-type", "")
        value, errors = route.body_field.validate(parse(body, kind))
        if errors:
            raise invalid(errors[0])
        answer = route.response_field.serialize_json(await route.endpoint(**{name: value}))
        headers = [
            (b"content-length", b"%d" % len(answer)),
            (b"content-type", b"application/json"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def parse(body: bytes, kind: str) -> Any:
    """Return the value of a JSON body with a Content-Type.

    Raises:
        ApiError: 415, 422 or 400, it is of another type, empty or not valid.
    """
    kind = kind.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send the body with Content-Type: application/json")
    if not body:
        raise ApiError(422, "body: Field required", param="body")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # also of a number of thousands of digits
        raise ApiError(400, "the body is not valid JSON") from None
