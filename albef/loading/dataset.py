"""The section of a data set, whole: for the check of a params file before the first stage.

A stage reads only the part that it depends on: training ``augment`` and how it reads, validation
``accepted`` and ``evaluated_on``, ingest the rest.
"""

from albef.ingest.config import RowsConfig
from albef.loading.reading import ReadingConfig
from albef.preprocessing.transforms import AugmentConfig


class DatasetConfig(RowsConfig, ReadingConfig):
    """A data set: what it is made of, how training reads it and may change its pictures."""

    augment: AugmentConfig
    """What training may do to a picture without making its captions false."""
    accepted: str
    """Path of the accepted profile that a new version is held against; ``profiles/none.json``
    expects nothing. ``albef data accept NAME`` makes one."""
    evaluated_on: str
    """Path of the accepted profile of another data set, whose evaluation splits the training split
    is held against; ``profiles/none.json`` leaves it at its own."""
