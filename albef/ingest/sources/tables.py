"""Rows of TSV, CSV, JSON lines and Parquet files, streamed; unreadable rows are rejected."""

import csv
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, Self

from pydantic import Field, model_validator

from albef.config import ParamsError, nearest
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources.rows import Files, OneSplit, Row, expand
from albef.io import first_line

_MAX_LINE_BYTES = 2**20
_MAX_LINES = 20  # that a quoted field of a CSV file may span
csv.field_size_limit(_MAX_LINE_BYTES * _MAX_LINES)  # Lines have a separate limit.
_MAX_LIST = 10_000  # values of a list in a Parquet row
_MAX_BYTES = 2**28  # of Parquet rows that are read together
_MAX_RATIO = 100  # of compression, and of rows to the bytes of a file
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Tables(OneSplit):
    """Tables of images, by path or URL, with their captions."""

    files: Files
    """Tables, as paths or patterns."""
    format: Literal["tsv", "csv", "jsonl", "parquet"]
    """Format of the tables: TSV without quotes, CSV as in RFC 4180, JSON lines (an object per
    line), or Parquet."""
    header: list[str] | None = None
    """Names of the columns if the file has no header line, as in CC3M; otherwise null."""
    caption: str
    """Column of the captions; in Parquet, its values may be lists."""
    keep: list[str] = Field([])
    """Columns to keep in meta."""

    @model_validator(mode="after")
    def _check_header(self) -> Self:
        if self.header is not None and self.format in ("jsonl", "parquet"):
            raise ValueError("header requires format: tsv or csv; remove it")
        return self

    def inputs(self) -> dict[str, Path]:
        """Return the tables."""
        return {str(file): file for file in expand(self.files)}

    def rows(self, *columns: str) -> Iterator[Row | Rejection]:
        """Yield the rows of all files with some columns, the captions and the columns to keep.

        Raises:
            ParamsError: as in :func:`read`.
        """
        selected = list(dict.fromkeys([*columns, self.caption, *self.keep]))
        for file in expand(self.files):
            yield from read(file, self.format, self.header, selected)


def read(
    file: Path, form: str, header: Sequence[str] | None, columns: Sequence[str], batch: int = 4096
) -> Iterator[Row | Rejection]:
    """Yield the rows of a file.

    Args:
        file: path of the file.
        form: ``tsv`` (no quotes), ``csv`` (as in RFC 4180), ``jsonl`` or ``parquet``.
        header: names of all columns if a text file has no header line.
        columns: names of the columns to read.
        batch: most Parquet rows that are read together.

    Raises:
        ParamsError: the file cannot be read at all, or lacks a column.
    """
    try:
        if form == "parquet":
            yield from _parquet(file, columns, batch)
            return
        with file.open("rb") as opened:
            yield from _text(file, opened, form, header, columns)
    except OSError as error:
        raise ParamsError(f"{file} cannot be read: {error.strerror or error}") from None


def _check_columns(file: Path, existing: Sequence[str], required: Iterable[str]) -> None:
    for column in required:
        if column not in existing:
            guess = nearest(column, list(existing))
            hint = f"did you mean {guess}?" if guess else f"it has {', '.join(existing) or 'none'}"
            raise ParamsError(f"{file} has no column {column!r}; {hint}")
        if existing.count(column) > 1:
            times = existing.count(column)
            raise ParamsError(f"{file} has {times} columns {column!r}; rename all but one")


def _text(
    file: Path, opened: IO[bytes], form: str, header: Sequence[str] | None, columns: Sequence[str]
) -> Iterator[Row | Rejection]:
    start = opened.read(3)
    if start[:2] in _UTF16:
        raise ParamsError(f"{file} is UTF-16; save it as UTF-8")
    opened.seek(3 if start == b"\xef\xbb\xbf" else 0)
    if form == "jsonl":
        yield from _objects(file, _lines(opened), columns)
        return
    rows = _split(_lines(opened), form)
    if header is None:
        _, names = next(rows, (0, []))
        if isinstance(names, RowError):
            raise ParamsError(f"{file}, line 1 (names of the columns): {names}")
        header = names
    _check_columns(file, header, columns)
    indices = {column: header.index(column) for column in columns}
    for line, fields in rows:
        if not isinstance(fields, RowError) and len(fields) != len(header):
            fields = _malformed(f"the row has {len(fields)} columns instead of {len(header)}")
        if isinstance(fields, RowError):
            yield Row(file, line, {}).rejection(fields)
        else:
            yield Row(file, line, {column: fields[index] for column, index in indices.items()})


Line = tuple[int, str | RowError]
"""Number and content of a line, or the problem with it."""


def _lines(opened: IO[bytes]) -> Iterator[Line]:
    """Yield each line that is not blank."""
    number = 0
    while raw := opened.readline(_MAX_LINE_BYTES):
        number += 1
        if not raw.endswith(b"\n") and len(raw) == _MAX_LINE_BYTES:
            while (rest := opened.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, _malformed(f"the line has more than {_MAX_LINE_BYTES} bytes")
        elif raw := raw.rstrip(b"\r\n"):
            try:
                yield number, raw.decode()
            except UnicodeDecodeError as error:
                yield number, _malformed(f"the row is not UTF-8 (byte {error.start})")


def _objects(
    file: Path, lines: Iterator[Line], columns: Sequence[str]
) -> Iterator[Row | Rejection]:
    for line, text in lines:
        try:
            values = json.loads(text) if isinstance(text, str) else text
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, Mapping):
            yield Row(file, line, {column: values.get(column) for column in columns})
        else:
            problem = values if isinstance(values, RowError) else _malformed("not a JSON object")
            yield Row(file, line, {}).rejection(problem)


def _split(lines: Iterator[Line], form: str) -> Iterator[tuple[int, list[str] | RowError]]:
    """Yield the number and the fields of each row, or the problem with it."""
    ahead: deque[Line] = deque()  # lines that were read for a row but do not belong to it
    while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
        number, text = line
        if isinstance(text, RowError):
            yield number, text
        elif form == "tsv":
            yield number, text.split("\t")
        else:
            yield number, _csv(text, ahead, lines)


def _csv(text: str, ahead: deque[Line], lines: Iterator[Line]) -> list[str] | RowError:
    """Return the fields of a row that starts with ``text``; take further lines from ``ahead``."""
    gathered = [text]
    while True:
        consumed = len(gathered) - 1
        try:
            fields = next(csv.reader(gathered, strict=True), [])
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                message = str(error)
                # The advice of csv, to open the file differently, does not help.
                if "new-line character" in message:
                    message = "a carriage return outside quotes; end lines with \\n"
                return _malformed(f"not CSV: {message}")
        else:
            for _ in range(consumed):
                ahead.popleft()
            return fields
        if consumed == len(ahead):
            ahead.extend(islice(lines, 1))
        following = ahead[consumed][1] if consumed < min(len(ahead), _MAX_LINES) else None
        if not isinstance(following, str):
            return _malformed("a quote is not closed")
        gathered[-1] += "\n"
        gathered.append(following)


def _parquet(file: Path, columns: Sequence[str], batch: int) -> Iterator[Row | Rejection]:
    import pyarrow as pa

    line = 0

    def row(values: dict[str, Any] | RowError) -> Row | Rejection:
        key = f"{file.name}:{line}"
        if isinstance(values, RowError):
            return Row(file, line, {}, key).rejection(values)
        return Row(file, line, values, key)

    with file.open("rb") as raw, _opened(file, columns) as opened:
        _check_columns(file, opened.schema_arrow.names, columns)
        leaves = _leaves(opened.schema, columns)
        for group in range(opened.num_row_groups):
            metadata = opened.metadata.row_group(group)
            until = line + metadata.num_rows
            damage = RowError(Reason.DAMAGED_MEMBER, "the row group is damaged")
            try:
                pages = [_page_bytes(raw, metadata.column(leaf)) for leaf in leaves]
                rows_at_once = max(1, min(batch, _MAX_BYTES // max(pages, default=1)))
                for rows in opened.iter_batches(
                    rows_at_once, row_groups=[group], columns=list(columns)
                ):
                    for values in _values(rows, columns):
                        line += 1
                        yield row(values)
            except (pa.ArrowException, OSError) as error:
                damage = RowError(damage.reason, f"{damage}: {first_line(error)}")
            except RowError as error:
                damage = error
            while line < until:
                line += 1
                yield row(damage)


def _leaves(schema: Any, columns: Sequence[str]) -> list[int]:
    """Return the positions of the leaf columns; a structure or list has leaves below it."""
    starts = tuple(f"{column}." for column in columns)
    return [i for i in range(len(schema)) if f"{schema.column(i).path}.".startswith(starts)]


def _page_bytes(file: IO[bytes], column: Any) -> int:
    """Return the bytes of the largest page of a column, by the headers of its first pages.

    A few bytes may decompress to gigabytes, and many rows may refer to one value of a dictionary.
    pyarrow has no limit for this, but its decoder keeps to the size in a page's header.

    Raises:
        RowError: the bytes are too many.
    """
    packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
    largest = 1
    for offset in (column.dictionary_page_offset, column.data_page_offset):
        if offset is None:
            continue
        file.seek(offset)
        head, size = file.read(8), 0
        if head[::2][:2] == b"\x15\x15":  # Thrift: field 1 is the type, field 2 the bytes
            for position, digit in enumerate(head[3:]):
                size |= (digit & 0x7F) << 7 * position
                if digit < 0x80:
                    break
        largest = max(largest, size >> 1)
    if largest > _MAX_BYTES or (unpacked > _MAX_BYTES and unpacked > _MAX_RATIO * packed):
        sizes = f"{packed} bytes that decompress to {max(largest, unpacked)}"
        raise RowError(Reason.TOO_MANY_BYTES, f"the row group has {sizes}")
    return largest


def _opened(file: Path, columns: Sequence[str]) -> Any:
    """Open a Parquet file; strings in lists of some columns are read as dictionaries.

    Raises:
        ParamsError: the footer cannot be read or makes impossible claims.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
        size, schema = file.stat().st_size, opened.schema
        if opened.metadata.num_rows > _MAX_RATIO * size:
            claim = f"its footer claims {opened.metadata.num_rows} rows in {size} bytes"
            raise ParamsError(f"{file} cannot be read as Parquet: {claim}")
        lists = [
            schema.column(leaf).path
            for leaf in _leaves(schema, columns)
            if schema.column(leaf).max_repetition_level
            and schema.column(leaf).physical_type == "BYTE_ARRAY"
        ]
        return pq.ParquetFile(file, read_dictionary=lists) if lists else opened
    except FileNotFoundError as error:
        raise ParamsError(f"{file} cannot be read: {error.strerror or error}") from None
    except (pa.ArrowException, OSError) as error:  # A damaged footer raises an OSError.
        raise ParamsError(f"{file} cannot be read as Parquet: {first_line(error)}") from None


def _values(rows: Any, columns: Sequence[str]) -> Iterator[dict[str, Any] | RowError]:
    import pyarrow as pa

    of_column = {column: rows.column(column) for column in columns}
    is_list = (pa.types.is_list, pa.types.is_large_list)
    lists = [values for values in of_column.values() if any(of(values.type) for of in is_list)]
    for i in range(rows.num_rows):
        try:
            for values in lists:
                _check_list(values[i].values)
            yield {column: values[i].as_py() for column, values in of_column.items()}
        except RowError as error:
            yield error
        except Exception as error:  # Such values are invalid strings and dates out of range.
            yield _malformed(f"a value cannot be read: {first_line(error)}")


def _check_list(items: Any) -> None:
    """Reject a list with too many values or bytes, before it becomes a Python list."""
    import pyarrow.compute as pc

    size = 0
    if hasattr(items, "dictionary"):
        size = pc.sum(pc.binary_length(items.dictionary).take(items.indices)).as_py() or 0
    if items is not None and (len(items) > _MAX_LIST or size > _MAX_LINE_BYTES):
        raise _malformed(f"a list has {len(items)} values of {size} bytes, which is too much")


def _malformed(detail: str) -> RowError:
    return RowError(Reason.MALFORMED_ROW, detail)
