"""Common parts of request and response bodies. ``openapi.json`` is generated from the bodies."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Form, UploadFile
from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from albef.serving.limits import IMAGES, TEXT

FORM = Form(media_type="multipart/form-data")
"""Marker for a :class:`Body` with images: a form in which each attribute is a field."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT, pattern=r"\S")]
"""A text of a request."""
Texts = Annotated[list[Text], FailFast(), Field(min_length=1, max_length=IMAGES)]
Images = Annotated[list[UploadFile], Field(min_length=1, max_length=IMAGES)]
_FIELDS = 100  # fields of a body
Probability = Annotated[float, Field(ge=0, le=1)]


class Body(BaseModel):
    """Body whose fields are documented. Other fields are refused."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_count(cls, value: Any) -> Any:
        # Each unknown field makes an error of its own.
        if isinstance(value, dict) and len(value) > _FIELDS:
            raise PydanticCustomError("too_many_fields", "too many fields")
        return value


class ResponseBody(Body):
    """A model's response."""

    model: str
    """Model that answered: its run and the beginning of its digest."""


async def read_files(images: Sequence[UploadFile]) -> list[bytes]:
    """Return the contents of a form's files."""
    return [await image.read() for image in images]
