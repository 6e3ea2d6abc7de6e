"""Markdown of docstrings."""

import re


def plain(text: str) -> str:
    """Return a docstring's text as Markdown: roles and double backticks become code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def cell(text: str) -> str:
    """Return a docstring's text as one Markdown table cell."""
    return plain(" ".join(text.split())).replace("|", "\\|")


def anchor(heading: str) -> str:
    """Return the anchor of a heading, equal on the site and where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
