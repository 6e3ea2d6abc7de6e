"""Croissant metadata of a dataset for search engines and dataset loaders.

The format is version 1.0 of https://docs.mlcommons.org/croissant.
"""

import json
import os
from pathlib import Path
from typing import Any

from albef.data.shards import SCHEMA, describe
from albef.io import file_digest
from albef.report.wording import training_first

_CONTEXT = {  # the standard context, since readers compare it
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs", "column": "cr:column", "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "extract": "cr:extract",
    "field": "cr:field", "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
    "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex",
    "repeated": "cr:repeated", "replace": "cr:replace", "separator": "cr:separator",
    "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "equivalentProperty": "cr:equivalentProperty", "samplingRate": "cr:samplingRate",
    "rai": "http://mlcommons.org/croissant/RAI/",
}  # fmt: skip
_FIELDS = {
    "key": "Name of the record in its shard.",
    "shard": "Tar file with the image.",
    "offset": "Offset of the image's first byte in the tar.",
    "size": "Size of the image in bytes.",
    "split": "Split of the record.",
    "source": "Source of the record.",
    "image_id": "Equal for records that show the same image.",
    "captions": "Captions of the image.",
    "width": "Width of the image in pixels.",
    "height": "Height of the image in pixels.",
    "digest": "SHA-256 of the image file.",
}


def render(folder: Path, target: Path) -> str:
    """Return the metadata of a dataset as JSON-LD, for a file in the folder ``target``.

    Raises:
        ShardError: the folder has no such dataset.
    """
    described = describe(folder)
    name, digest = described["name"], described["digest"]
    index = folder / "index.parquet"
    owner = described.get("shards_of")
    shards = f"shards/SHARD of dataset {owner}" if owner else "shards/SHARD"
    sizes = ", ".join(
        f"{count:,} in {split}" for split, count in training_first(described["splits"]).items()
    )
    fields = [_field(column, text) for column, text in _FIELDS.items()]
    values = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "version": f"1.0.0+{digest[:16]}",
        "description": f"Images with {described['captions']:,} captions; records: {sizes}. "
        f"An image is stored in a WebDataset tar ({shards}) at its offset.",
        "license": [entry["url"] or entry["licence"] for entry in described["licences"]],
        "creator": [
            {"@type": "sc:Organization", "name": creator}
            for creator in dict.fromkeys(entry["attribution"] for entry in described["licences"])
            if creator
        ],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "index",
                "name": "index",
                "contentUrl": os.path.relpath(index, target),
                "encodingFormat": "application/x-parquet",
                "sha256": file_digest(index),
            }
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "records", "name": "records",
                       "key": {"@id": "records/key"}, "field": fields}],
    }  # fmt: skip
    return json.dumps(values, indent=2, ensure_ascii=False)


def _field(column: str, text: str) -> dict[str, Any]:
    kind = SCHEMA.field(column).type
    return {
        "@type": "cr:Field",
        "@id": f"records/{column}",
        "name": column,
        "description": text,
        "dataType": "sc:Integer" if str(kind).startswith("int") else "sc:Text",
        **({"repeated": True} if column == "captions" else {}),
        "source": {"fileObject": {"@id": "index"}, "extract": {"column": column}},
    }
