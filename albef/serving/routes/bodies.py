"""Common parts of request and response bodies. ``openapi.json`` is generated from the bodies."""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Form, UploadFile
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from albef.preprocessing.text import is_blank
from albef.serving.indexes.index import quantized
from albef.serving.limits import IMAGES, TEXT

FORM = Form(media_type="multipart/form-data")
"""Marker for a :class:`Body` with images: a form in which each attribute is a field."""


def _check_text(text: str) -> str:
    if is_blank(text):
        raise PydanticCustomError("blank", "must not be blank after cleaning")
    return text


Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=TEXT, pattern=r"\S"),
    AfterValidator(_check_text),
]
"""A text of a request. After cleaning, it must have a letter, a digit or another visible sign."""
Texts = Annotated[list[Text], FailFast(), Field(min_length=1, max_length=IMAGES)]
Images = Annotated[list[UploadFile], Field(min_length=1, max_length=IMAGES)]
_FIELDS = 100  # fields of a body
Probability = Annotated[float, Field(ge=0, le=1)]
VectorType = Literal["float", "int8", "ubinary"]


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


class VectorsBody(Body):
    """Format of the vectors of a response."""

    encoding_format: Literal["float", "base64"] = "float"
    """Format of a vector: ``float`` for a list of numbers, ``base64`` for its bytes
    (little-endian)."""
    embedding_types: VectorType = "float"
    """Type of the numbers: ``float`` for float32; ``int8``, in which the largest of a vector is 127
    or -127; ``ubinary`` for a bit per number, 1 if it is positive, eight to a byte."""

    def encode(self, feats: NDArray[np.float32], kind: VectorType | None = None) -> list[Any]:
        """Return vectors (n, E) in the requested format, of a type or of the requested one."""
        vectors: NDArray[Any] = feats.astype("<f4", copy=False)
        kind = kind or self.embedding_types
        if kind == "int8":
            # Cosine similarity does not depend on the scale of a vector.
            vectors, _ = quantized(feats)
        elif kind == "ubinary":
            vectors = np.packbits(feats > 0, axis=1)
        if self.encoding_format == "base64":
            return [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
        return list(vectors.tolist())


async def read_files(images: Sequence[UploadFile]) -> list[bytes]:
    """Return the contents of a form's files."""
    return [await image.read() for image in images]
