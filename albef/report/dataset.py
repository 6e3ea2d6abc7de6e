"""What the page of a data set shows, as plain values; texts are not trusted.

An empty tuple or text stands for what is not known.
"""

from dataclasses import dataclass

from albef.report.figures import Chart
from albef.report.origins import Dataset
from albef.report.results import Picture


@dataclass(frozen=True)
class Intake:
    """What became of the rows of a source."""

    source: str
    rows: int
    kept: int


@dataclass(frozen=True)
class Pair:
    """A picture beside the one that it repeats, or that is evaluated on.

    Attributes:
        picture: the later one.
        of: the one that was there.
        dataset: of that one, where it is another one.
        exact: whether their files are equal.
        distance: bits of 64 between their perceptual hashes; None where none was taken.
        dropped: whether the later one was.
    """

    picture: Picture
    of: Picture
    dataset: str
    exact: bool
    distance: int | None
    dropped: bool


@dataclass(frozen=True)
class Row:
    """A row that was set aside: its place, what names it, what was wrong, its picture."""

    source: str
    line: int
    key: str
    detail: str
    picture: Picture | None


@dataclass(frozen=True)
class Aside:
    """The rows that were set aside for a reason.

    Attributes:
        reason: of the fixed list.
        sources: how many of each source.
        rows: the first ones.
    """

    reason: str
    sources: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(count for _, count in self.sources)


@dataclass(frozen=True)
class Tally:
    """What is most frequent of something.

    Attributes:
        title: of what.
        aside: how many there are in all, in words.
        entries: (text, how often), the most frequent first.
    """

    title: str
    aside: str
    entries: tuple[tuple[str, int], ...]

    @property
    def most(self) -> int:
        """How often the first one is there."""
        return self.entries[0][1] if self.entries else 0


@dataclass(frozen=True)
class DatasetPage:
    """Everything on the page of a data set.

    Attributes:
        data: what the main page shows of it too.
        intakes: by source, in order.
        repeated: pictures of the training split that repeat an earlier one: equal files, and those
            that look alike.
        pairs: some of them.
        contaminated: some training pictures that are evaluated on.
        contamination: the first rows that were set aside for it: their name and what they show.
        asides: by reason, the most frequent first.
        histograms: of captions and pictures.
        tallies: of captions, words and labels.
        counted: of how many records histograms and tallies are.
    """

    data: Dataset
    intakes: tuple[Intake, ...] = ()
    repeated: tuple[int, int] = (0, 0)
    pairs: tuple[Pair, ...] = ()
    contaminated: tuple[Pair, ...] = ()
    contamination: tuple[tuple[str, str], ...] = ()
    asides: tuple[Aside, ...] = ()
    histograms: tuple[Chart, ...] = ()
    tallies: tuple[Tally, ...] = ()
    counted: int = 0
