"""The reference of the server's calls, from OpenAPI."""

from collections import Counter
from typing import Any

from fastapi import FastAPI

from albef.serving.routes import calls, compatible, indexes, server
from docs.generate.text import cell


def http_page() -> str:
    """Return the reference of the server's calls, from OpenAPI."""
    app = FastAPI(title="ALBEF", version="1")
    for part in (calls, compatible, indexes, server):
        app.include_router(part.router)
    schema = app.openapi()
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    usual = Counter(map(_errors, operations)).most_common(1)[0][0]
    parts = [f"Other statuses than 200 are {usual}, unless a call names its own."]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts += [f"## `{method.upper()} {path}`", operation.get("description", "")]
            content = operation.get("requestBody", {}).get("content", {})
            for media_type, body in content.items():
                fields = _fields(body["schema"], schema)
                parts.append(f"Body, `{media_type}`:\n\n{fields}" if fields else "")
            answer = operation["responses"].get("200", {}).get("content", {})
            fields = _fields(answer.get("application/json", {}).get("schema", {}), schema)
            parts.append(f"Answer:\n\n{fields}" if fields else "")
            statuses = _errors(operation)
            parts.append(f"Other statuses: {statuses}." if statuses not in (usual, "") else "")
    return "\n\n".join(filter(None, parts))


def _errors(operation: dict[str, Any]) -> str:
    return ", ".join(sorted(set(operation["responses"]) - {"200"}))


def _resolve(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in part:
        found: dict[str, Any] = schema["components"]["schemas"][part["$ref"].rsplit("/", 1)[-1]]
        return found
    return part


def _fields(part: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return a table of an object's fields."""
    resolved = _resolve(part, schema)
    rows = [
        f"| `{name}` | {_json_type(field, schema)} | "
        f"{'yes' if name in resolved.get('required', ()) else ''} | "
        f"{cell(field.get('description', ''))} |"
        for name, field in resolved.get("properties", {}).items()
    ]
    return "\n".join(
        ["| field | type | required | meaning |", "|---|---|---|---|", *rows] if rows else []
    )


def _json_type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    resolved = _resolve(field, schema)
    if "anyOf" in resolved:
        return " or ".join(dict.fromkeys(_json_type(each, schema) for each in resolved["anyOf"]))
    if resolved.get("type") == "array":
        return f"list of {_json_type(resolved.get('items', {}), schema)}"
    is_file = resolved.get("format") == "binary" or "contentMediaType" in resolved
    return "file" if is_file else str(resolved.get("type", "value"))
