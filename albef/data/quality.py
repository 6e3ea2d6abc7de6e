"""Whether a data set is fit to train on: a Great Expectations suite over its index.

The suite lies in ``suites/`` as JSON; where a value reads ``$NAME`` or ``$1-NAME`` it is taken
from :class:`ValidateConfig`. Great Expectations is imported only when it runs, since that takes
seconds; nothing of it is left on the disk.
"""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from albef.config import Section
from albef.data.guard import ImageError, decode
from albef.data.shards import Shards, describe, read_index

SUITE = "image_text"
_SAMPLE = 10  # offending rows that are named

Share = Annotated[float, Field(ge=0, le=1)]


class ValidateConfig(Section):
    """When a data set is refused."""

    max_empty_captions: Share
    """Share of captions without a word."""
    max_duplicate_images: Share
    """Share of records whose image stands in an earlier record under another image id."""
    max_caption_words: Annotated[int, Field(ge=1)]
    """Words of the longest caption."""
    min_image_side: Annotated[int, Field(ge=1)]
    """Shorter side of the smallest image in pixels."""
    max_image_side: Annotated[int, Field(ge=1)]
    """Longer side of the largest image in pixels."""
    max_aspect_ratio: Annotated[float, Field(ge=1)]
    """Longer to shorter side of the most elongated image."""
    max_decode_failures: Share
    """Share of images that cannot be decoded."""


@dataclass(frozen=True)
class Check:
    """An expectation and how the data set met it.

    Attributes:
        what: what is expected, in words.
        expectation: its name in Great Expectations.
        column: table and column that it looks at.
        passed: whether it is met.
        counted: rows looked at.
        failed: rows that do not meet it.
        allowed: share of rows that need not meet it.
        bound: the bound of a row's value, as "at most 30".
        threshold: the key in params.yaml that sets share or bound, if one does.
        sample: the first offending rows.
    """

    what: str
    expectation: str
    column: str
    passed: bool
    counted: int
    failed: int
    allowed: float
    bound: str
    threshold: str
    sample: tuple[Mapping[str, Any], ...]

    def sentence(self) -> str:
        """The outcome in words, with numbers and threshold."""
        if self.expectation.startswith("expect_table"):
            return f"there are {self.counted:,}"
        share = self.failed / self.counted if self.counted else 0.0
        allowed = f"at most {_percent(self.allowed)} may" if self.allowed else "none may"
        return f"{self.failed:,} of {self.counted:,} ({_percent(share)}) fail, {allowed}"

    def place(self) -> str:
        """The expectation and what it looks at, as Great Expectations has it."""
        bound = f" {self.bound}" if self.bound else ""
        return f"{self.expectation} of {self.column}{bound}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


@dataclass(frozen=True)
class Result:
    """The validation of a data set.

    Attributes:
        dataset: its name.
        digest: of its data.
        checks: every expectation, in the suite's order.
        statistics: numbers about the data set.
    """

    dataset: str
    digest: str
    checks: tuple[Check, ...]
    statistics: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every expectation is met."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, without times or run ids."""
        return {
            "dataset": self.dataset,
            "digest": self.digest,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "statistics": dict(self.statistics),
        }


class NotFit(ValueError):
    """A data set failed its validation; the text names what failed and where to read more."""


def check_dataset(folder: Path, config: ValidateConfig, threads: int) -> Result:
    """Validate a data set.

    Args:
        folder: of the data set.
        config: when it is refused.
        threads: that decode images; 0 takes all cores.

    Raises:
        ShardError: a part of the data set is missing or damaged.
    """
    described = describe(folder)
    index = read_index(folder).combine_chunks()
    images = _images(index)
    tables = {
        "records": _records(index, images, _undecodable(folder, described["splits"], threads)),
        "captions": _captions(index),
    }
    return Result(
        dataset=described["name"],
        digest=described["digest"],
        checks=tuple(_validate(tables, _suite(config))),
        statistics=_statistics(described, tables, images["digest"].nunique()),
    )


def _undecodable(folder: Path, splits: Iterable[str], threads: int) -> set[str]:
    """Keys of the records with an image that cannot be decoded."""
    failed: set[str] = set()
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for split in splits:
            records = Shards(folder, split)

            def fails(i: int, records: Shards = records) -> str | None:
                record = records[i]
                try:
                    for image in record.images:
                        decode(image, record.key)
                except ImageError:
                    return record.key
                return None

            failed.update(key for key in pool.map(fails, range(len(records))) if key)
            records.close()
    return failed


def _images(index: pa.Table) -> pd.DataFrame:
    """A row for each image, at the place of its record."""
    frame: pd.DataFrame = index.select(["width", "height", "digest"]).to_pandas()
    if "more" in index.column_names:
        owner = pc.list_parent_indices(index["more"]).to_numpy()
        more = pa.Table.from_struct_array(pc.list_flatten(index["more"]).combine_chunks())
        further = more.select(frame.columns.to_list()).to_pandas().set_index(owner)
        frame = pd.concat([frame, further])
    return frame


def _records(index: pa.Table, images: pd.DataFrame, undecodable: set[str]) -> pd.DataFrame:
    """A row for each record, with the columns that the suite names."""
    frame: pd.DataFrame = index.select(["key", "split", "digest", "image_id"]).to_pandas()
    frame["captions"] = pc.list_value_length(index["captions"]).to_numpy()
    frame["image"] = np.where(frame["key"].isin(undecodable), "broken", "decoded")
    known = images["width"] > 0  # the size of an image without a readable header is not known
    sides = images[["width", "height"]].where(known)
    shorter, longer = sides.min(axis=1), sides.max(axis=1)
    frame["shorter_side"] = shorter.groupby(level=0).min()
    frame["longer_side"] = longer.groupby(level=0).max()
    frame["aspect_ratio"] = (longer / shorter).groupby(level=0).max()
    if len(images) > len(frame):  # records are repeated where all of their images are
        frame["digest"] = images["digest"].groupby(level=0).agg(" ".join)
    first = frame.drop_duplicates("digest").set_index("digest")
    twin = frame["digest"].map(first["key"])
    same = frame["digest"].map(first["image_id"]) == frame["image_id"]
    frame["twin"] = twin.where(~same, "")
    return frame


def _captions(index: pa.Table) -> pd.DataFrame:
    """A row for each caption."""
    owner = pc.list_parent_indices(index["captions"])
    return pd.DataFrame(
        {
            "key": pc.take(index["key"], owner).to_pandas(),
            "split": pc.take(index["split"], owner).to_pandas(),
            "caption": pc.list_flatten(index["captions"]).to_pandas(),
            "words": pc.list_flatten(index["caption_words"]).to_numpy(),
        }
    )


def _suite(config: ValidateConfig) -> list[dict[str, Any]]:
    """The expectations of the suite, with the thresholds of ``config``."""
    text = resources.files("albef.data").joinpath("suites", f"{SUITE}.json").read_text()
    values = config.model_dump()

    def filled(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith("$"):
            return value
        name = value.removeprefix("$").removeprefix("1-")
        return 1 - values[name] if value.startswith("$1-") else values[name]

    expectations: list[dict[str, Any]] = json.loads(text)["expectations"]
    return [
        {**item, "kwargs": {name: filled(value) for name, value in item["kwargs"].items()}}
        for item in expectations
    ]


def _validate(
    tables: Mapping[str, pd.DataFrame], suite: Sequence[Mapping[str, Any]]
) -> Iterator[Check]:
    """Run the expectations of each table; yields them in the suite's order."""
    with _quiet():
        import great_expectations as gx
        from great_expectations.core.expectation_suite import ExpectationSuite
        from great_expectations.data_context.types.base import ProgressBarsConfig
        from great_expectations.expectations.expectation_configuration import (
            ExpectationConfiguration,
        )

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(
            globally=False, metric_calculations=False
        )
        outcomes: dict[int, Mapping[str, Any]] = {}
        for name, frame in tables.items():
            places = [i for i, item in enumerate(suite) if item["meta"]["table"] == name]
            asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
            batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": frame})
            for i in places:  # one by one, so that each outcome is sure to be its own
                expectation = ExpectationConfiguration(
                    type=suite[i]["type"], kwargs=suite[i]["kwargs"], meta=suite[i]["meta"]
                ).to_domain_obj()
                outcomes[i] = batch.validate(
                    ExpectationSuite(name=f"{name}-{i}", expectations=[expectation]),
                    result_format={
                        "result_format": "SUMMARY",
                        "unexpected_index_column_names": ["key"],
                        "partial_unexpected_count": _SAMPLE,
                    },
                ).to_json_dict()["results"][0]
    for i, item in enumerate(suite):
        yield _check(item, outcomes[i], tables[item["meta"]["table"]])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Great Expectations from reporting home, and its warnings and notes off the terminal."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of its own dependencies
            yield
    finally:
        logging.disable(disabled)


def _check(item: Mapping[str, Any], outcome: Mapping[str, Any], frame: pd.DataFrame) -> Check:
    result, kwargs, meta = outcome["result"], item["kwargs"], item["meta"]
    if outcome["exception_info"].get("exception_message"):
        raise NotFit(
            f"the expectation {item['type']} cannot be computed: "
            f"{outcome['exception_info']['exception_message']}"
        )
    column = kwargs.get("column")
    offending = frame[:0]
    if column:  # a row is known by its key and by the value that offends
        found = pd.DataFrame(result.get("partial_unexpected_index_list") or [])
        names = list(dict.fromkeys(["key", column]))
        if len(found):
            offending = frame.merge(found[names].drop_duplicates(), on=names)
    shown = ["key", "split", *(name for name in ("caption", column) if name in frame)]
    shown = list(dict.fromkeys(shown))
    bounds = [
        f"at {word} {kwargs[name]:g}"
        for word, name in (("least", "min_value"), ("most", "max_value"))
        if name in kwargs
    ]
    return Check(
        what=meta["what"],
        expectation=item["type"],
        column=f"{meta['table']}.{column}" if column else meta["table"],
        passed=bool(outcome["success"]),
        counted=int(result.get("element_count", len(frame))) - int(result.get("missing_count", 0)),
        failed=int(result.get("unexpected_count", not outcome["success"])),
        allowed=round(1 - kwargs.get("mostly", 1.0), 12),
        bound=" and ".join(bounds),
        threshold=meta.get("threshold", ""),
        sample=tuple(json.loads(offending[shown][:_SAMPLE].to_json(orient="records"))),
    )


def _statistics(
    described: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], different: int
) -> dict[str, Any]:
    words, records = tables["captions"]["words"], tables["records"]
    return {
        "splits": described["splits"],
        "captions": len(words),
        "words of a caption": _spread(words),
        "shorter side in pixels": _spread(records["shorter_side"].dropna()),
        "longer side in pixels": _spread(records["longer_side"].dropna()),
        "different images": int(different),
    }


def _spread(values: "pd.Series[Any]") -> dict[str, float]:
    if values.empty:
        return {}
    return {
        "least": float(values.min()),
        "median": float(values.median()),
        "most": float(values.max()),
    }
