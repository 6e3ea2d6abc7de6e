"""Search of an ONNX graph for weights in other files, with protobuf's parser. No torch."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

# The fields of onnx.proto that lead to tensors, by message and number, with the type of each. All
# are declared as repeated, which reads a single field as well. All others are skipped.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "external_data", 14: "data_location"},
}


@cache
def _model() -> Any:
    """Return the class of ONNX's ModelProto, reduced to these fields."""
    file = FileDescriptorProto(name="albef/external_data.proto", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for number, kind in fields.items():
            field = message.field.add(name=f"_{number}", number=number)
            field.label = FieldDescriptorProto.LABEL_REPEATED
            if kind in _FIELDS:
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{kind}"
            elif kind == "external_data":
                field.type = FieldDescriptorProto.TYPE_BYTES
            else:
                field.type = FieldDescriptorProto.TYPE_INT32
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("Model"))


def has_external_data(graph: bytes) -> bool:
    """Return whether a tensor of an ONNX file is, or may be, in another file.

    Raises:
        ValueError: the bytes are not protobuf.
    """
    try:
        message = _model().FromString(graph)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return any(_external_fields(message))


def _external_fields(message: Any) -> Iterator[bool]:
    """Yield true for each field of a tensor below a message that names another file."""
    is_tensor = message.DESCRIPTOR.name == "Tensor"
    for _, values in message.ListFields():
        if is_tensor:
            yield any(values)
        else:
            for value in values:
                yield from _external_fields(value)
