"""The page of a data set: HTML in one file, no script, no address that is fetched."""

from albef.report import figures
from albef.report.dataset import DatasetPage, Tally
from albef.report.page import environment

WORDS = {
    "malformed_row": "not what its format says",
    "missing_field": "a field is missing or of a wrong type",
    "no_caption": "nothing is said of the picture",
    "caption_too_long": "the caption is too long",
    "missing_file": "the picture is not there",
    "outside_root": "the picture lies outside its folder",
    "bad_url": "no http or https address",
    "private_address": "a private address",
    "unreachable": "no such host, or no connection",
    "timed_out": "the server did not answer in time",
    "not_found": "the server says it is gone",
    "http_error": "another error of the server",
    "opted_out": "the server asks not to be used for training",
    "too_many_bytes": "the file is too large",
    "no_image": "no picture of a known format",
    "too_many_pixels": "too many pixels",
    "undecodable": "truncated or damaged",
    "too_small": "the picture is too small",
    "too_elongated": "the picture is too elongated",
    "duplicate": "the file of an earlier picture",
    "near_duplicate": "looks like an earlier picture",
    "contamination": "is evaluated on",
    "damaged_member": "a damaged part of a file",
}
"""What a reason means, in a few words."""


def render(page: DatasetPage) -> str:
    """The page; equal contents give equal bytes."""
    template = environment().get_template("dataset.html.j2")
    return template.render(page=page, words=WORDS, bar=_bar, set_aside=_set_aside(page))


def _bar(tally: Tally, count: int) -> str:
    return figures.bar(count, tally.most, (), name=f"{count:,}")


def _set_aside(page: DatasetPage) -> int:
    return sum(aside.count for aside in page.asides)
