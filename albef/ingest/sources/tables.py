"""Rows of TSV, CSV, JSON lines and Parquet files, streamed; unreadable rows are rejected."""

import csv
import functools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import IO, Any, Literal, Self

from pydantic import Field, model_validator

from albef.config import ParamsError, nearest
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources.rows import MAX_IMAGE_BYTES, Files, OneSplit, Row, expand
from albef.io import first_line
from albef.worker import KilledError, Worker

_MAX_LINE_BYTES = 2**20
_MAX_LINES = 20  # that a quoted field of a CSV file may span
csv.field_size_limit(_MAX_LINE_BYTES * _MAX_LINES)  # Lines have a separate limit.
_MAX_LIST = 10_000  # values of a list in a Parquet row
_MAX_RATIO = 100  # of rows of a Parquet file to its bytes
# A few bytes may decompress to gigabytes, and many values may be one. pyarrow has no limit, so the
# process that reads Parquet has one.
_MEMORY, _SECONDS = 2**30, 60.0
_IDLE: list[Worker] = []  # such processes
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

    def fields_of_row(self) -> frozenset[str]:
        """Return no field: the path or URL is that of the image."""
        return frozenset()

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
    """Yield some columns of the rows of a file, with ``form`` and ``header`` as in :class:`Tables`.

    At most ``batch`` Parquet rows are read together.

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
            hint = f"did you mean {guess}?" if guess else f"it has {names_of(existing) or 'none'}"
            raise ParamsError(f"{file} has no column {column!r}; {hint}")
        if existing.count(column) > 1:
            times = existing.count(column)
            raise ParamsError(f"{file} has {times} columns {column!r}; rename all but one")


def names_of(columns: Sequence[str]) -> str:
    """Return the first columns of a table as text, each with the start of its name."""
    return ", ".join(name[:40] for name in columns[:20])


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
    """Return the fields of a row that starts with ``text``; further lines come from ``ahead``."""
    taken: list[Line] = []

    def texts() -> Iterator[str]:
        yield f"{text}\n"
        while len(taken) < _MAX_LINES and (line := ahead.popleft() if ahead else next(lines, None)):
            taken.append(line)
            if isinstance(line[1], RowError):
                return
            yield f"{line[1]}\n"

    try:
        return next(csv.reader(texts(), strict=True))
    except csv.Error as error:
        ahead.extendleft(reversed(taken))  # They are rows of their own.
        message = str(error)
        if "unexpected end of data" in message:
            return _malformed("a quote is not closed")
        # The advice of csv, to open the file differently, does not help.
        if "new-line character" in message:
            message = "a carriage return outside quotes; end lines with \\n"
        return _malformed(f"not CSV: {message}")


def _parquet(file: Path, columns: Sequence[str], batch: int) -> Iterator[Row | Rejection]:
    """Yield the rows of a file, which another process reads with limits on memory and time."""
    worker = _IDLE.pop() if _IDLE else Worker(_SECONDS, _MEMORY, modules=["pyarrow.parquet"])
    line = 0
    try:
        [ends] = worker.run(_ends, file, columns)
        for group, end in enumerate(ends):
            start = line
            damage = RowError(Reason.DAMAGED_MEMBER, "the row group is damaged")
            for size in (batch, 1):  # one row at a time if there is not enough memory for a batch
                try:
                    for values in worker.run(_group, file, columns, size, group, line - start):
                        line += 1
                        yield _row(file, line, values)
                    break
                except MemoryError:
                    detail = f"the row group takes more than {_MEMORY >> 20} MiB"
                    damage = RowError(Reason.TOO_MANY_BYTES, detail)
                except RowError as error:
                    damage = error
                    break
                except KilledError as error:
                    damage = RowError(Reason.KILLED, f"the reader of the row group {error}")
                    break
            while line < end:
                line += 1
                yield _row(file, line, damage)
    except (KilledError, MemoryError) as error:
        raise ParamsError(f"{file} cannot be read as Parquet: the reader {error}") from None
    finally:
        _IDLE.append(worker)


def _row(file: Path, line: int, values: dict[str, Any] | RowError) -> Row | Rejection:
    key = f"{file.name}:{line}"
    if isinstance(values, RowError):
        return Row(file, line, {}, key).rejection(values)
    return Row(file, line, values, key)


def _ends(file: Path, columns: Sequence[str]) -> list[list[int]]:
    """Return the number of the last row of each row group, as a list of one."""
    _opened.cache_clear()  # A file of that name may have been read before.
    opened = _opened(file)
    _check_columns(file, opened.schema_arrow.names, columns)
    groups = map(opened.metadata.row_group, range(opened.num_row_groups))
    return [list(accumulate(group.num_rows for group in groups))]


def _group(
    file: Path, columns: Sequence[str], batch: int, group: int, done: int
) -> Iterator[dict[str, Any] | RowError]:
    """Yield the values of each row of a row group after the first ``done``, or why it has none.

    Raises:
        RowError: the rest of the row group cannot be read.
        MemoryError: it takes too much memory.
    """
    import pyarrow as pa

    try:
        batches = _opened(file).iter_batches(batch, [group], list(columns), use_threads=False)
        rows = chain.from_iterable(_values(each, columns) for each in batches)
        yield from islice(rows, done, None)
    except MemoryError:  # ArrowMemoryError is an ArrowException too.
        raise MemoryError from None
    except (pa.ArrowException, OSError) as error:
        detail = f"the row group is damaged: {first_line(error)}"
        raise RowError(Reason.DAMAGED_MEMBER, detail) from None


@functools.lru_cache(1)  # The footer, which lists all row groups, is read once, not for each.
def _opened(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file, buffer_size=2**20)  # Only a page at a time is in memory.
    except FileNotFoundError as error:
        raise ParamsError(f"{file} cannot be read: {error.strerror or error}") from None
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise ParamsError(f"{file} cannot be read as Parquet: {first_line(error)}") from None
    rows, size = opened.metadata.num_rows, file.stat().st_size
    if rows > _MAX_RATIO * size:
        claim = f"its footer claims {rows} rows in {size} bytes"
        raise ParamsError(f"{file} cannot be read as Parquet: {claim}")
    return opened


def _values(rows: Any, columns: Sequence[str]) -> Iterator[dict[str, Any] | RowError]:
    import pyarrow as pa

    of_column = {column: rows.column(column) for column in columns}
    nested = [values for values in of_column.values() if pa.types.is_nested(values.type)]
    sizes = [_sizes(values).to_pylist() for values in of_column.values()]
    for i in range(rows.num_rows):
        try:
            _check_bytes(max((size[i] or 0 for size in sizes if size), default=0))
            for values in nested:
                _check_size(values.slice(i, 1))
            yield {column: values[i].as_py() for column, values in of_column.items()}
        except RowError as error:
            yield error
        except MemoryError:
            raise
        except Exception as error:  # Such values are invalid strings and dates out of range.
            yield _malformed(f"a value cannot be read: {first_line(error)}")


def _sizes(values: Any) -> Any:
    """Return the bytes of each text or binary value of a column; empty for other types."""
    import pyarrow as pa
    import pyarrow.compute as pc

    of_dictionary = pa.types.is_dictionary(values.type)
    texts = values.dictionary if of_dictionary else values
    if texts.type not in (pa.string(), pa.binary(), pa.large_string(), pa.large_binary()):
        return pa.array([], pa.int64())
    sizes = pc.binary_length(texts)
    return sizes.take(values.indices) if of_dictionary else sizes


def _check_bytes(size: int) -> None:
    """Reject a value that is too large for the process that receives it."""
    if size > MAX_IMAGE_BYTES:
        detail = f"a value has {size} bytes; at most {MAX_IMAGE_BYTES} are read"
        raise RowError(Reason.TOO_MANY_BYTES, detail)


def _check_size(values: Any) -> None:
    """Reject lists with too many values or bytes, before they become Python objects."""
    import pyarrow as pa
    import pyarrow.compute as pc

    size = pc.sum(_sizes(values)).as_py() or 0
    _check_bytes(0 if pa.types.is_dictionary(values.type) else size)
    is_repeated = pa.types.is_dictionary(values.type) and size > _MAX_LINE_BYTES
    if len(values) > _MAX_LIST or is_repeated:
        raise _malformed(f"a list has {len(values)} values of {size} bytes, which is too much")
    inner: Any = []
    if pa.types.is_map(values.type):  # Its parts are those of all rows, not only of these.
        start, end = values.offsets[0].as_py(), values.offsets[-1].as_py()
        inner = [each.slice(start, end - start) for each in (values.keys, values.items)]
    elif pa.types.is_nested(values.type):
        inner = values.flatten()
    for each in inner if isinstance(inner, list) else [inner]:
        _check_size(each)


def _malformed(detail: str) -> RowError:
    return RowError(Reason.MALFORMED_ROW, detail)
