"""Kind ``huggingface``: a dataset of the Hugging Face Hub, or a folder with the Hub's layout.

The dataset's README names the files of each split; without it, their names do. They must be
Parquet. The files stay in the Hub's cache, which alone is used if the Hub cannot be reached.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from albef.config import ParamsError, did_you_mean
from albef.data.record import Record
from albef.data.rejection import Rejection
from albef.ingest.sources import parquet
from albef.ingest.sources.rows import Split
from albef.io import first_line
from albef.preprocessing.hub import prepare_hub

README = "README.md"
_CONVERTED = (
    "if the Hub has converted the dataset, `revision: refs/convert/parquet` has Parquet files"
)
_LAYOUTS = ("data/{split}-*", "{split}-*", "data/{split}/*", "{split}/*", "{config}/{split}/*")
"""Patterns of a split's files in a dataset whose README does not name them."""
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\b.*)")


class Config(parquet.Columns):
    """Dataset of the Hugging Face Hub."""

    dataset: str
    """Name of the dataset on the Hub, such as ``OWNER/NAME``, or a folder with its layout."""
    revision: str | None = None
    """Commit, tag or branch of the dataset; null means ``main``. ``dataset.json`` records the
    commit."""
    config: str | None = None
    """Configuration (subset) of the dataset; null chooses its default."""
    splits: Annotated[dict[Split, str], Field(min_length=1)]
    """Splits to read, and their names in the dataset, such as ``{train: train, val:
    validation}``."""

    def inputs(self) -> dict[str, Path]:
        """Return the files, by a name with the commit of the dataset."""
        folder = self.folder()
        name = f"{self.dataset}@{folder.name}" if folder != Path(self.dataset) else self.dataset
        return {f"{name}/{path.relative_to(folder)}": path for _, path in self.files(folder)}

    def evaluated(self) -> Self | None:
        """Return the source without its training split; None if nothing is left."""
        others = {split: name for split, name in self.splits.items() if split != "train"}
        return self.model_copy(update={"splits": others}) if others else None

    def folder(self) -> Path:
        """Return the local folder of the dataset, after its files are downloaded.

        Raises:
            ParamsError: the dataset cannot be downloaded, or its README is invalid.
        """
        if Path(self.dataset).is_dir():
            return Path(self.dataset)
        readme = _download(self.dataset, self.revision, (README,))
        patterns = (pattern for each in self._patterns(readme).values() for pattern in each)
        return _download(self.dataset, readme.name, (README, *patterns))

    def files(self, folder: Path) -> list[tuple[str, Path]]:
        """Return the files in the folder of the dataset, each with its split.

        Raises:
            ParamsError: a split has no Parquet file, or lacks a part.
        """
        every = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
        found = []
        for split, patterns in self._patterns(folder).items():
            names = [name for name in every if any(fnmatch(name, each) for each in patterns)]
            if not names:
                raise ParamsError(
                    f"{self.dataset} has no Parquet file {' or '.join(patterns)} for the split "
                    f"{self.splits[split]}; correct splits or config; {_CONVERTED}"
                )
            for name in names:
                if part := _PART.fullmatch(name):
                    stem, _, count, end = part.groups()
                    parts = re.compile(rf"{re.escape(stem)}-\d{{5}}-of-{count}\b.*")
                    if (have := sum(map(bool, map(parts.fullmatch, names)))) < int(count):
                        raise ParamsError(
                            f"{self.dataset} has {have} of {count} files {stem}-*-of-{count}{end}; "
                            "download the missing ones"
                        )
            found += [(split, folder / name) for name in names]
        return found

    def _patterns(self, folder: Path) -> dict[str, list[str]]:
        """Return the patterns of the files of each split."""
        named = self._named_files(folder / README)
        if named is None:
            return {
                split: [
                    _parquet(layout.format(split=name, config=self.config or "default"))
                    for layout in _LAYOUTS
                ]
                for split, name in self.splits.items()
            }
        for name in self.splits.values():
            if name not in named:
                raise ParamsError(f"{self.dataset} has no split {name}{did_you_mean(name, named)}")
        return {split: [*map(_parquet, named[name])] for split, name in self.splits.items()}

    def _named_files(self, readme: Path) -> dict[str, list[str]] | None:
        """Return the patterns of each split that a README names; None if it names none."""
        from huggingface_hub.repocard import metadata_load

        try:
            metadata: Any = (metadata_load(readme) if readme.is_file() else None) or {}
            configs = {each["config_name"]: each for each in metadata.get("configs") or ()}
            if not configs:
                return None
            default = next((n for n, each in configs.items() if each.get("default")), "default")
            chosen = self.config or (default if len(configs) > 1 else next(iter(configs)))
            if chosen not in configs:
                hint = did_you_mean(chosen, configs)
                raise ParamsError(f"{self.dataset} has no config {chosen}{hint}; set config")
            return _by_split(configs[chosen].get("data_files"))
        except ParamsError:
            raise
        except Exception as error:  # YAML's errors, and those of any other structure
            problem = f"{type(error).__name__}: {first_line(error)}"
            raise ParamsError(
                f"{readme} does not describe configs and data_files: {problem}"
            ) from None


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


def _by_split(data_files: Any) -> dict[str, list[str]]:
    """Return the patterns by split in any form of ``data_files``; without splits, all are train."""
    match data_files:
        case str() | [str(), *_]:
            data_files = {"train": data_files}
        case list():
            data_files = {each["split"]: each["path"] for each in data_files}
    return {
        str(split): [path] if isinstance(path, str) else [*map(str, path)]
        for split, path in data_files.items()
    }


def _parquet(pattern: str) -> str:
    """Return a pattern that matches only Parquet files, so that no other file is downloaded."""
    return pattern if pattern.endswith(".parquet") else f"{pattern.rstrip('*')}*.parquet"
