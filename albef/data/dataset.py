"""The section of a data set, whole: for the check of a params file before the first stage.

A stage reads only the part that it depends on: ingest ``sources`` and ``shard_mb``, training
``augment``.
"""

from albef.data.sources import SourcesConfig
from albef.data.transforms import AugmentConfig


class DatasetConfig(SourcesConfig):
    """A data set: what it is made of and how training may change its pictures."""

    augment: AugmentConfig
    """What training may do to a picture without making its captions false."""
