"""Canary: the real server on a fetched export, compared with the export's local answers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from albef.data.record import Record
from albef.io import dying_with_parent
from albef.loading.reading import Records
from albef.release.measuring import main_call
from albef.runtime import manifest
from albef.runtime.loading import load
from albef.runtime.manifest import ExportError

CASES = 8
"""Number of test records in requests to the server."""
_TEXT = {"ask": "question", "entail": "statement", "compare": "statement", "ground": "expression"}
"""Form field of a call's texts; other calls use ``text``."""
_PATIENCE_S = 120.0  # For an answer; the server's own limit is shorter.
_SERVING = "serving at "
_NAMES = ("results", "answers", "probabilities", "probability")
"""Keys of probabilities in the server's answers. A mapping without them is by class."""


def probe(export: Path, fetched: Path, records: Records, threads: int) -> Iterator[str]:
    """Yield an error message for each reason why a server of ``fetched`` differs from ``export``.

    All files are compared with the manifest of ``export``. Then a server on loopback answers
    requests about the first records, one at a time. Each probability must equal that of the local
    runtime, within the tolerance that the export was verified with.
    """
    expected = manifest.read(export)
    try:
        for precision in expected.precisions:
            manifest.check(fetched, expected, precision)
        with _serving(fetched, manifest.digest(export), threads) as address:
            model = load(export, threads=threads)
            for record in (records[i] for i in range(min(CASES, len(records)))):
                answer = _ask(address, model.main, record)
                if "error" in answer:
                    yield f"server on {record.key}: {answer['error']['message']}"
                    continue
                reply = np.array([*_probabilities(answer)])
                local = np.array([*_probabilities(main_call(model, [record])())])[: len(reply)]
                if not np.allclose(local, reply, 0, expected.verified.tolerance):
                    yield f"server answers {reply} for {record.key}, the local runtime {local}"
    except (ExportError, httpx.HTTPError) as error:
        yield f"server of the export from the DVC remote: {error}"


@contextmanager
def _serving(folder: Path, digest: str, threads: int) -> Iterator[str]:
    """Yield the address of a server that requires no tokens; if it did not start, raise why."""
    options = ["--port", "0", "--threads", str(threads), "--expect", f"sha256:{digest}"]
    process = subprocess.Popen(
        dying_with_parent([sys.executable, "-m", "albef.cli", "serve", str(folder), *options]),
        env={**os.environ, "ALBEF_TOKENS": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        last = ""
        for line in process.stderr:
            last = json.loads(line)["message"] if line.startswith("{") else line.strip()
            if last.startswith(_SERVING):
                yield last.removeprefix(_SERVING)
                break
        else:
            raise ExportError(f"it did not start: {last}")
    finally:
        process.kill()
        process.communicate()


def _ask(address: str, call: str, record: Record) -> Any:
    """Return the server's answer about a record."""
    names = ("first", "second") if call == "compare" else ("image",)
    parts: list[tuple[str, Any]] = [(_TEXT.get(call, "text"), (None, record.captions[0]))]
    parts += [(name, ("image", image)) for name, image in zip(names, record.images, strict=True)]
    answer = httpx.post(f"{address}/v1/{call}", files=parts, timeout=_PATIENCE_S, trust_env=False)
    return answer.json()


def _probabilities(answer: Any) -> Iterator[float]:
    """Yield the probabilities in an answer of the server or of the runtime, in order."""
    if isinstance(answer, int | float | np.floating):
        yield float(answer)
    elif hasattr(answer, "probability"):
        yield answer.probability
    elif isinstance(answer, dict):
        for part in [answer[name] for name in _NAMES if name in answer] or answer.values():
            yield from _probabilities(part)
    else:
        for part in answer:
            yield from _probabilities(part)
