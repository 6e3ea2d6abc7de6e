"""Cleaning of captions from any origin to plain text, and rejection of unusable ones.

Only content that is not language is removed. Lower case, punctuation and length depend on the task
(:mod:`albef.preprocessing.text`).
"""

import re
import unicodedata
from collections.abc import Iterable

import ftfy
from ftfy.fixes import unescape_html

from albef.data.rejection import Reason, RowError

_PLAIN = re.compile(r"(?! )[ !\"#$%'-;=?-\[\]-~]*(?<! )")  # printable ASCII without &, <, > and \
_TAGS = (
    "a abbr b big blockquote body br center cite code dd del div dl dt em embed font footer form "
    "h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins li link main meta nav object ol "
    "option p pre q s section select small span strike strong sub sup table tbody td tfoot th "
    "thead title tr tt u ul var video audio button label figure figcaption"
)
# No tag contains a "<": each search ends at the next one, and a text is scanned only once.
_DROPPED = re.compile(r"<(script|style)\b[^<>]*>.*?(</\1\s*>|\Z)|<!--.*?(-->|\Z)", re.I | re.S)
_TAG = re.compile(rf"<!doctype[^<>]*>|</?(?:{'|'.join(_TAGS.split())})\b[^<>]*/?>", re.I)
_GAPS = re.compile("[\0\x0b\x1c-\x1f]")  # These stand between words, and ftfy would join the words.
_SPACES = re.compile(r"\s+")
_INVISIBLE = re.compile(
    "[\u00ad\u115f\u1160\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\u3164\ufeff\uffa0]"
)
_RULES = ftfy.TextFixerConfig(
    explain=False, uncurl_quotes=False, unescape_html=False, normalization=None
)
_MAX_LEVELS = 16  # of HTML entities, as &amp;amp;lt; has three
_MAX_MARKS = 30  # on a letter, as in Unicode's stream-safe text; sorting them takes quadratic time


def clean(text: str) -> str:
    """Return a caption without HTML, control characters and broken letters, with single spaces.

    Raises:
        RowError: the caption has lost letters through a wrong encoding, or a letter has too many
            marks.
    """
    if _PLAIN.fullmatch(text):
        return _SPACES.sub(" ", text) if "  " in text else text
    text = _GAPS.sub(" ", text)
    text = _TAG.sub(" ", _DROPPED.sub(" ", text))
    text = _fixed(text)
    text = _TAG.sub(" ", _DROPPED.sub(" ", text))  # Tags may have been written as &lt;b&gt;.
    text = _SPACES.sub(" ", _INVISIBLE.sub("", text)).strip()
    if "\ufffd" in text:
        raise RowError(
            Reason.MALFORMED_ROW, f"a wrong encoding lost letters of caption {_quoted(text)}"
        )
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > _MAX_MARKS:
            detail = f"a letter of caption {_quoted(text)} has more than {_MAX_MARKS} marks"
            raise RowError(Reason.MALFORMED_ROW, detail)
    return unicodedata.normalize("NFC", text)


def _fixed(text: str) -> str:
    """Return ``ftfy.fix_text(text)``, not normalized, with some levels of HTML entities unescaped.

    ftfy unescapes one level in each round until none is left, which takes quadratic time.
    """
    fixed, levels = "", _MAX_LEVELS
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        if "<" in line:  # As in ftfy, entities stay from the first line with a tag.
            levels = 1
        for _ in range(levels):
            before = line
            line = ftfy.fix_text_segment(unescape_html(line) if levels > 1 else line, _RULES)
            if line == before:
                break
        fixed += line
    return fixed


def clean_captions(captions: Iterable[str], max_chars: int) -> tuple[str, ...]:
    """Return the usable captions of a row, cleaned, each once even if cleaning made some equal.

    Raises:
        RowError: no caption is left; the reason is that of the last dropped caption.
    """
    cleaned: dict[str, None] = {}
    rejection = RowError(Reason.NO_CAPTION, "the row has no caption")
    for raw in captions:
        try:
            cleaned[_allowed(raw, max_chars)] = None
        except RowError as error:
            rejection = error
    if not cleaned:
        raise rejection
    return tuple(cleaned)


def _allowed(raw: str, max_chars: int) -> str:
    # A caption that is much too long is not worth cleaning.
    text = raw if len(raw) > 64 * max_chars else clean(raw)
    if not any(map(str.isalnum, text)):
        raise RowError(Reason.NO_CAPTION, f"caption {_quoted(raw)} has no letters or digits")
    if len(text) > max_chars:
        limit = f"at most {max_chars} are allowed (ingest.max_caption_chars)"
        raise RowError(Reason.CAPTION_TOO_LONG, f"a caption has {len(text)} characters; {limit}")
    return text


def _quoted(text: str) -> str:
    quoted = repr(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:57]}..."


def escape_surrogates(text: str) -> str:
    """Return a text that UTF-8 can encode: unpaired surrogates are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
