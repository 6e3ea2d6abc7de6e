"""Kind ``huggingface``: a dataset of the Hugging Face Hub, or a folder with the Hub's layout.

The names of its Parquet files tell their split. The files stay in the Hub's cache, which alone is
used if the Hub cannot be reached.
"""

import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from albef.config import ParamsError
from albef.data.record import Record
from albef.data.rejection import Rejection
from albef.ingest.sources import parquet
from albef.ingest.sources.rows import Split
from albef.io import first_line
from albef.preprocessing.hub import prepare_hub

_LAYOUTS = ("data/{}-*", "{}-*", "data/{}/*", "{}/*", "default/{}-*", "default/{}/*")
"""Patterns of a split's files in a dataset with one configuration."""


class Config(parquet.Columns):
    """Dataset of the Hugging Face Hub."""

    dataset: str
    """Name of the dataset on the Hub, such as ``OWNER/NAME``, or a folder with its layout."""
    revision: str | None = None
    """Commit, tag or branch of the dataset; null means ``main``. ``dataset.json`` records the
    commit."""
    config: str | None = None
    """Configuration (subset) of the dataset: the folder of its files; null if there is only one."""
    splits: Annotated[dict[Split, str], Field(min_length=1)]
    """Splits to read, and their names in the dataset, such as ``{train: train, val: validation}``,
    or patterns of their files, such as ``{train: "plain/*.parquet"}``."""

    def inputs(self) -> dict[str, Path]:
        """Return the files, by a name with the commit of the dataset."""
        folder = self.folder()
        name = f"{self.dataset}@{folder.name}" if folder != Path(self.dataset) else self.dataset
        return {f"{name}/{path.relative_to(folder)}": path for _, path in self.files(folder)}

    def all_splits(self) -> set[str]:
        """Return the splits that are read."""
        return set(self.splits)

    def evaluated(self) -> Self | None:
        """Return the source without its training split; None if nothing is left."""
        others = {split: name for split, name in self.splits.items() if split != "train"}
        return self.model_copy(update={"splits": others}) if others else None

    def folder(self) -> Path:
        """Return the local folder of the dataset, after its files are downloaded.

        Raises:
            ParamsError: the dataset cannot be downloaded.
        """
        if Path(self.dataset).is_dir():
            return Path(self.dataset)
        patterns = (pattern for name in self.splits.values() for pattern in self._patterns(name))
        return _download(self.dataset, self.revision, tuple(patterns))

    def files(self, folder: Path) -> list[tuple[str, Path]]:
        """Return the files in the folder of the dataset, each with its split.

        Raises:
            ParamsError: a split has no Parquet file, or lacks a part.
        """
        every = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
        found = []
        for split, named in self.splits.items():
            patterns = self._patterns(named)
            names = [name for name in every if any(fnmatch(name, each) for each in patterns)]
            if not names:
                raise ParamsError(
                    f"{self.dataset} has no Parquet file {' or '.join(patterns)} for the split "
                    f"{named}; correct config, or set splits to the pattern of its files; if the "
                    "Hub has converted the dataset, set `revision: refs/convert/parquet`"
                )
            parts = Counter(
                # Each part of an older dataset ends with a hash of its own.
                re.sub(r"-\d{5}-of-(\d{5}).*", r"-*-of-\1*.parquet", name)
                for name in names
            )
            for pattern, count in parts.items():
                whole = re.search(r"-\*-of-(\d{5})", pattern)
                if whole and count < int(whole[1]):
                    raise ParamsError(
                        f"{self.dataset} has {count} of {int(whole[1])} files {pattern}; "
                        "download the missing ones"
                    )
            found += [(split, folder / name) for name in names]
        return found

    def _patterns(self, name: str) -> list[str]:
        if "*" in name or "/" in name:
            layouts: tuple[str, ...] = (name,)
        elif self.config:
            layouts = (f"{self.config}/{name}-*", f"{self.config}/{name}/*")
        else:
            layouts = tuple(layout.format(name) for layout in _LAYOUTS)
        # No file of another format is downloaded.
        return [f"{each.removesuffix('.parquet')}.parquet" for each in layouts]


def records(config: Config, seed: int) -> Iterator[Record | Rejection]:
    """Yield the rows of all files, in order."""
    return parquet.read(config, config.files(config.folder()))


@cache  # A branch may move meanwhile, but one ingest reads one commit.
def _download(dataset: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Download some files of a dataset and return the folder of its commit in the cache."""
    from huggingface_hub import constants, errors, snapshot_download

    prepare_hub()
    page = f"{constants.ENDPOINT}/datasets/{dataset}"
    options: Any = {"repo_type": "dataset", "revision": revision}
    try:
        return Path(snapshot_download(dataset, allow_patterns=list(patterns), **options))
    except errors.GatedRepoError:
        problem = f"needs your consent: accept its terms at {page}, then set HF_TOKEN"
    except errors.RevisionNotFoundError:
        problem = f"has no revision {revision or 'main'}; see {page}/refs"
    except errors.RepositoryNotFoundError:
        problem = f"is neither a folder nor at {page}; correct it, or set HF_TOKEN if it is private"
    except errors.HFValidationError:
        problem = "is neither a folder nor a name OWNER/NAME"
    except errors.LocalEntryNotFoundError:
        problem = (
            f"is not complete in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} "
            "does not answer; run ingest once with a network"
        )
    except Exception as error:  # The HTTP library depends on the version.
        problem = f"cannot be downloaded from {page}: {first_line(error)}"
    raise ParamsError(f"dataset {dataset} {problem}")
