"""Rows of TSV, CSV and Parquet files, streamed; a row that cannot be read is given as a Refusal."""

import contextlib
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from typing import IO, Any

from albef.config import ParamsError, nearest
from albef.data.refusal import Reason, Refusal, Refused

_LONGEST_LINE = 2**20
_LONGEST_ROW = 20  # lines that a quoted field of a CSV file may stretch over
_BATCH = 4096
csv.field_size_limit(_LONGEST_LINE * _LONGEST_ROW)  # a line has a limit of its own
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table.

    Attributes:
        file: where it stands.
        line: in the file, from 1: of a text, its first line; of Parquet, its row.
        values: by column; those that were asked for.
    """

    file: Path
    line: int
    values: Mapping[str, Any]

    def refusal(self, reason: Reason, detail: str, key: str = "") -> Refusal:
        """The row, set aside."""
        return Refusal("", self.line, key, reason, f"{self.file}: {detail}")


def expand(patterns: Iterable[str]) -> list[Path]:
    """The files that paths and patterns name, those of a pattern sorted.

    Raises:
        ParamsError: one that names none.
    """
    found: list[Path] = []
    for pattern in patterns:
        own = [pattern] if Path(pattern).is_file() else sorted(glob(pattern, recursive=True))
        files = [Path(name) for name in own if Path(name).is_file()]
        if not files:
            raise ParamsError(f"{pattern} names no file")
        found += files
    return found


def read(
    file: Path, form: str, header: Sequence[str] | None, columns: Sequence[str]
) -> Iterator[Line | Refusal]:
    """The rows of a file.

    Args:
        file: the file.
        form: ``tsv`` (no quotes), ``csv`` (as RFC 4180 has it) or ``parquet``.
        header: names of all columns of a text without a line that names them.
        columns: those to read.

    Raises:
        ParamsError: the file cannot be read at all, or has no such column.
    """
    try:
        if form == "parquet":
            yield from _parquet(file, columns)
            return
        with file.open("rb") as opened:
            yield from _text(file, opened, form, header, columns)
    except OSError as error:
        raise ParamsError(f"{file} cannot be read: {error.strerror or error}") from None


def count(file: Path, form: str, titled: bool) -> int:
    """Rows of a file: of a text its lines, of which some may be blank or parts of a row.

    Args:
        file: the file.
        form: ``tsv``, ``csv`` or ``parquet``.
        titled: whether a first line names the columns of a text.

    Raises:
        ParamsError: the file cannot be read.
    """
    try:
        if form == "parquet":
            with _opened(file) as table:
                return int(table.metadata.num_rows)
        lines, last = 0, b"\n"
        with file.open("rb") as opened:
            while part := opened.read(_LONGEST_LINE):
                lines += part.count(b"\n")
                last = part[-1:]
    except OSError as error:
        raise ParamsError(f"{file} cannot be read: {error.strerror or error}") from None
    return max(0, lines + (last != b"\n") - titled)


def check_columns(file: Path, known: Sequence[str], wanted: Iterable[str]) -> None:
    """Refuse a column that a file does not have.

    Raises:
        ParamsError: it names the nearest.
    """
    for column in wanted:
        if column not in known:
            near = nearest(column, list(known))
            hint = f"did you mean {near}?" if near else f"it has {', '.join(known) or 'none'}"
            raise ParamsError(f"{file} has no column {column!r}; {hint}")


def _text(
    file: Path, opened: IO[bytes], form: str, header: Sequence[str] | None, columns: Sequence[str]
) -> Iterator[Line | Refusal]:
    start = opened.read(3)
    if start[:2] in _UTF16:
        raise ParamsError(f"{file} is UTF-16; save it as UTF-8")
    opened.seek(3 if start == b"\xef\xbb\xbf" else 0)
    found = _split(_lines(opened), form)
    if header is None:
        _, names = next(found, (0, []))
        if isinstance(names, str):
            raise ParamsError(f"{file}, line 1, which should name the columns: {names}")
        header = names
    check_columns(file, header, columns)
    places = {column: header.index(column) for column in columns}
    for line, fields in found:
        if isinstance(fields, list) and len(fields) != len(header):
            fields = f"{len(fields)} columns; there should be {len(header)}"
        if isinstance(fields, str):
            yield Refusal("", line, "", Reason.MALFORMED_ROW, f"{file}: {fields}")
        else:
            yield Line(file, line, {column: fields[place] for column, place in places.items()})


def _lines(opened: IO[bytes]) -> Iterator[tuple[int, str, bool]]:
    """Number and text of each line that is not blank; where it is bad, what is wrong with it."""
    number = 0
    while raw := opened.readline(_LONGEST_LINE):
        number += 1
        if not raw.endswith(b"\n") and len(raw) == _LONGEST_LINE:
            while (rest := opened.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
            yield number, f"a line of more than {_LONGEST_LINE} bytes", False
            continue
        raw = raw.rstrip(b"\r\n")
        if not raw:
            continue
        try:
            yield number, raw.decode(), True
        except UnicodeDecodeError as error:
            yield number, f"the row is not UTF-8 (byte {error.start})", False


def _split(
    lines: Iterator[tuple[int, str, bool]], form: str
) -> Iterator[tuple[int, list[str] | str]]:
    """The fields of each row, or what is wrong with it."""
    back: list[tuple[int, str, bool]] = []  # lines that were read for a row and are none of its
    while True:
        taken = back.pop(0) if back else next(lines, None)
        if taken is None:
            return
        number, text, good = taken
        if not good:
            yield number, text
        elif form == "tsv":
            yield number, text.split("\t")
        else:
            fields, used = _csv(text, back, lines)
            del back[:used]
            yield number, fields


def _csv(
    text: str, back: list[tuple[int, str, bool]], lines: Iterator[tuple[int, str, bool]]
) -> tuple[list[str] | str, int]:
    """The fields of a row that begins with a line, and how many of those ahead belong to it."""
    gathered = [text]
    while True:
        try:
            return next(csv.reader(gathered, strict=True)), len(gathered) - 1
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                return f"no CSV: {error}", 0
        except StopIteration:
            return "no CSV", 0
        used = len(gathered) - 1
        if used == len(back):
            back.extend(islice(lines, 1))
        if used == len(back) or used == _LONGEST_ROW or not back[used][2]:
            return "a quote that is never closed", 0
        gathered[-1] += "\n"
        gathered.append(back[used][1])


def _parquet(file: Path, columns: Sequence[str]) -> Iterator[Line | Refusal]:
    for number, values in parquet_rows(file, columns, _BATCH):
        if isinstance(values, Refused):
            yield Refusal("", number, "", values.reason, f"{file}: {values}")
        else:
            yield Line(file, number, values)


def parquet_rows(
    file: Path, columns: Sequence[str], batch: int
) -> Iterator[tuple[int, dict[str, Any] | Refused]]:
    """Number, from 1, and values of each row of a Parquet file; where it is bad, what is wrong.

    Raises:
        ParamsError: its end, which describes it, cannot be read, or it has no such column.
    """
    import pyarrow as pa

    with _opened(file) as opened:
        check_columns(file, opened.schema_arrow.names, columns)
        number = 0
        for group in range(opened.num_row_groups):
            until = number + opened.metadata.row_group(group).num_rows
            damage = Refused(Reason.DAMAGED_MEMBER, "the row group is damaged")
            try:
                batches = opened.iter_batches(batch, row_groups=[group], columns=list(columns))
                for rows in batches:
                    for values in _values(rows, columns):
                        number += 1
                        yield number, values
            except (pa.ArrowException, OSError) as error:
                damage = Refused(damage.reason, f"{damage}: {_first(error)}")
            while number < until:
                number += 1
                yield number, damage


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A Parquet file.

    Raises:
        ParamsError: its end, which describes it, cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
    except FileNotFoundError as error:
        raise ParamsError(f"{file} cannot be read: {error.strerror or error}") from None
    except (pa.ArrowException, OSError) as error:  # an OSError where its description is damaged
        raise ParamsError(f"{file} is no Parquet file that can be read: {_first(error)}") from None
    with opened:
        yield opened


def _values(rows: Any, columns: Sequence[str]) -> Iterator[dict[str, Any] | Refused]:
    held = [rows.column(column) for column in columns]
    for i in range(rows.num_rows):
        try:
            yield {column: own[i].as_py() for column, own in zip(columns, held, strict=True)}
        except (ValueError, OverflowError) as error:  # a text that is none, a date out of range
            yield Refused(Reason.MALFORMED_ROW, f"a value cannot be read: {_first(error)}")


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
