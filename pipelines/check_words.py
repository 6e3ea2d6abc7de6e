"""What ``albef data check`` found, in words."""

import json
from collections.abc import Mapping
from typing import Any

_MIB = 2**20


def told(result: Mapping[str, Any]) -> str:
    """The result in words."""
    lines = []
    for name, own in result["sources"].items():
        of = f" of about {own['total']:,}" if own["total"] not in (None, own["rows"]) else ""
        whole = "all" if own["total"] == own["rows"] else "the first"
        lines.append(f"{name} ({own['kind']}): {whole} {own['rows']:,} rows{of}")
        lines.append(f"  kept {own['kept']:,} ({_percent(own['kept'], own['rows'])})")
        for reason, why in own["set_aside"].items():
            lines.append(f"  set aside {why['count']:,} ({_percent(why['count'], own['rows'])}): "
                         f"{reason}")  # fmt: skip
            lines.append(f"    first: {_place(why)}{_short(why['detail'])}")
    again = result["repeated"]
    if again["exact"] or again["near"]:
        lines.append(
            f"repeated: {again['exact']:,} equal pictures, {again['near']:,} that look alike; "
            f"duplicates: {again['rule']} drops {again['dropped']:,} of them"
        )
    if result["kept"]:
        mean = result["stored"]["picture_bytes"] / result["kept"] / 1024
        lines.append(f"stored: {mean:.1f} KiB of pictures a record")
    if result["whole"]:
        whole = result["whole"]
        shards = f"{whole['shards']:,} shard{'s' * (whole['shards'] > 1)}"
        lines.append(
            f"the whole, if it is like this: about {whole['kept']:,} records, "
            f"{whole['shard_bytes'] / _MIB:,.1f} MiB in {shards}"
        )
    elif result["kept"]:
        lines.append("how many rows there are in all is not known before they are read")
    for path in result["not_compared"]:
        lines.append(f"not compared with {path}, which is not made yet (albef run --only heldout)")
    share = _percent(result["kept"], result["rows"])
    if result["stops"]:
        lines.append(
            f"ingest would stop: {share} kept, ingest.min_yield is {result['min_yield']:g}"
        )
    else:
        lines.append(
            f"ingest would go on: {share} kept, ingest.min_yield is {result['min_yield']:g}"
        )
    if "suggested" in result:
        lines += [
            "",
            "To take it, write under datasets in params.yaml:",
            *_yaml(result["suggested"]),
        ]
    return "\n".join(lines)


_REST = (
    "    accepted: profiles/none.json",
    "    augment: {flip: true, crop: [0.5, 1.0], randaugment: 7}",
    "    window: null",
    "    max_damaged_records: 0.001",
    "    max_damaged_shards: 0.01",
)
"""What ingest does not read of a data set's section."""


def _yaml(suggested: Mapping[str, Any]) -> list[str]:
    [(name, section)] = suggested.items()
    asks = any(own["kind"] == "urls" for own in section["sources"].values())
    lines = ["  # user_agent: say who asks and how to reach you"] if asks else []
    lines += [f"  {name}:", "    sources:"]
    lines += [f"      {own}: {_flow(values)}" for own, values in section["sources"].items()]
    rest = {key: value for key, value in section.items() if key != "sources"}
    lines += [f"    {key}: {_flow(value)}" for key, value in rest.items()]
    return [*lines, *_REST]


def _flow(value: Any) -> str:
    """A value as YAML on one line; keys of ours need no quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(own)}" for key, own in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.3g} %"


def _place(why: Mapping[str, Any]) -> str:
    return f"row {why['line']}" + (f", {_short(why['key'])}: " if why["key"] else ": ")


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."
