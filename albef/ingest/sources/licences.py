"""What sources have in common whose works are somebody else's: they tell under which licences."""

from pydantic import Field

from albef.config import Section


class Licence(Section):
    """The terms of a work."""

    what: str = Field(min_length=1)
    """The work: pictures, captions or a list, by its name."""
    licence: str = Field(min_length=1)
    """Its licence or terms of use; "none named" where there are none."""
    attribution: str = ""
    """Whom to name."""
    url: str = ""
    """Where it is to be had, and its terms."""


class Outside(Section):
    """A source of works from outside."""

    licences: list[Licence] | None = None
    """Their licences, which data set, report and model card tell; left out, none is named."""
