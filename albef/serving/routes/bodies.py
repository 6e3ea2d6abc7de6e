"""What bodies of calls and answers have in common; ``openapi.json`` is made of them."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Form, UploadFile
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from albef.serving.limits import PICTURES, TEXT

FORM = Form(media_type="multipart/form-data")
"""How an endpoint takes a :class:`Body` with pictures: a field of the form for each of its own."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT, pattern=r"\S")]
"""A text that is read."""
Texts = Annotated[list[Text], Field(min_length=1, max_length=PICTURES)]
Images = Annotated[list[UploadFile], Field(min_length=1, max_length=PICTURES)]
Share = Annotated[float, Field(ge=0, le=1)]


class Body(BaseModel):
    """A body whose fields are described, and that has no others."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")


class Answered(Body):
    """An answer of a model."""

    model: str
    """Which one answered: its run and the beginning of its digest."""


async def read_files(images: Sequence[UploadFile]) -> list[bytes]:
    """What files of a form hold."""
    return [await image.read() for image in images]
