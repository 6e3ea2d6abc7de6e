"""Innermost middleware: calls whose only input is a JSON body skip the framework's general way.

FastAPI's routing, dependencies and checks of answers take longer than a small text model.
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
    """Middleware that answers those of the routes that take a JSON body and nothing else."""

    routes: InitVar[Sequence[BaseRoute]]

    def __post_init__(self, routes: Sequence[BaseRoute]) -> None:
        self._calls = {
            route.path: route
            for route in routes
            if isinstance(route, APIRoute)
            and type(route.body_field and route.body_field.field_info) is Body
            and not (route.dependant.path_params or route.dependant.dependencies)
        }

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._calls.get(path_of(scope))
        if route is None or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        scope["route"], fields = route, (route.body_field, route.response_field)
        given, returned = (field for field in fields if field is not None)
        value, errors = given.validate(await _read(scope, receive))
        if errors:
            raise invalid(errors[0])
        answer = returned.serialize_json(await route.endpoint(value))
        length = b"%d" % len(answer)
        headers = [(b"content-length", length), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def _read(scope: Scope, receive: Receive) -> Any:
    """Return the value of a JSON body; raise ApiError 400, 415 or 422 for another one."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    kind = exchange_of(scope).headers.get("content-type", "").partition(";")[0]
    if kind.strip().lower() != "application/json":
        raise ApiError(415, "send the body with Content-Type: application/json")
    if not body:
        raise ApiError(422, "body: Field required", param="body")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # ValueError also for a number of thousands of digits
        raise ApiError(400, "the body is not valid JSON") from None
