"""What several endpoints take: pictures and texts of a form, and a body of the right type."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import File, Form, Request, Response, UploadFile
from fastapi.routing import APIRoute

from albef.serving.errors import CODES, Problem
from albef.serving.limits import PICTURES

Images = Annotated[
    list[UploadFile],
    File(min_length=1, max_length=PICTURES, description="Pictures, as files"),
]
Image = Annotated[UploadFile, File(description="A picture, as a file")]


async def read(images: list[UploadFile]) -> list[bytes]:
    """What the files hold."""
    return [await image.read() for image in images]


class Route(APIRoute):
    """A route that says so when a body has another type than it takes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind a look at the content type."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        form = isinstance(self.body_field.field_info, Form("").__class__)
        wanted = "multipart/form-data" if form else "application/json"

        async def checked(request: Request) -> Response:
            given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if given != wanted:
                raise Problem(415, CODES[415][0], f"send the body as {wanted}")
            return await handle(request)

        return checked
