"""Search of an ONNX graph for weights in other files. No torch, and no copy of the weights."""

from mmap import mmap

# The fields of onnx.proto that lead to tensors, by message and number, with the type of each.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "external_data"},
}
_DATA_LOCATION = 14
_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)


def has_external_data(graph: bytes | mmap) -> bool:
    """Return whether a tensor of an ONNX file is, or may be, in another file.

    Raises:
        ValueError: the bytes are not protobuf.
    """
    pending = [("Model", 0, len(graph))]
    while pending:
        message, at, end = pending.pop()
        while at < end:
            tag, at = _varint(graph, at)
            number, wire = (tag & 0xFFFFFFFF) >> 3, tag & 7  # Parsers ignore a tag's higher bits.
            if wire == _VARINT:
                value, at = _varint(graph, at)
                if message == "Tensor" and number == _DATA_LOCATION and value:
                    return True
            elif wire == _BYTES:
                size, at = _varint(graph, at)
                field = _FIELDS[message].get(number)
                if field == "external_data":
                    return True
                if field:
                    pending.append((field, at, at + size))
                at += size
            elif wire in (_FIXED64, _FIXED32):
                at += 8 if wire == _FIXED64 else 4
            elif wire not in (_GROUP, _END_GROUP):  # Fields in a group count as fields around it.
                raise ValueError(f"unknown wire type {wire} before byte {at}")
        if at > end:
            raise ValueError(f"a field exceeds its message at byte {end}")
    return False


def _varint(graph: bytes | mmap, at: int) -> tuple[int, int]:
    """Return the integer at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(graph):
            break
        byte = graph[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"damaged integer before byte {at}")
