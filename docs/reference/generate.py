"""Writes the reference from the code: `make docs`."""

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cli.all_settings import ALL_SETTINGS
from search_api.http.errors import ERRORS
from search_api.openapi import openapi_document
from search_api.operations.families import FAMILIES

DIRECTORY = Path(__file__).parent
NOTE = "<!-- Written by `make docs` from the code. Do not edit it here. -->"
METHODS = ("get", "post", "delete")
ABOUT_SETTINGS = """\
A setting is an environment variable, or a line of the file `.env` in the working directory. An empty value means the
default; `~` in a path is the home directory. [.env.example](../../.env.example) is a file with all of them.
"""
ABOUT_ERRORS = """\
Every error is sent as `{"error": {"code": "…", "message": "…"}}`. Programs decide by the code, which never changes its
meaning or its status; the message is for people. The [runbook](../runbook.md#errors) says what to do.
"""
ABOUT_METRICS = """\
`GET /metrics` of a search app or an embedding service, in Prometheus' format. A histogram has the series `…_bucket`,
`…_sum` and `…_count`. [Monitoring](../guides/monitoring.md) shows how to use them.
"""
ABOUT_ROUTES = """\
The same as `/docs` of a running app shows; [openapi.json](../openapi.json) is for programs. If `INTERNAL_TOKEN` is set,
every call needs it, but for `/healthz` and `/readyz`. Each route may also answer
[`unauthorized`](../runbook.md#unauthorized) or [`internal_error`](../runbook.md#internal_error).

Not listed: `GET /` (the page), `GET /docs`, `GET /openapi.json`, `GET /metrics` ([metrics](metrics.md)), and
`POST /mcp` ([agents](../guides/clients.md#agents)).
"""
LIMITS = {
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "exclusiveMinimum": "> {}",
    "exclusiveMaximum": "< {}",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
}
"""What keywords of JSON Schema mean, for people."""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; line breaks and bars in cells are escaped."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", r"\|")


def settings_page() -> str:
    """All settings, by class."""
    parts = [f"# Settings\n\n{ABOUT_SETTINGS}"]
    for settings in ALL_SETTINGS:
        words = re.findall(r"[A-Z][a-z]+", settings.__name__.removesuffix("Settings"))
        rows = (
            (f"`{name.upper()}`", _values(field.annotation), _default(field.default), field.description or "")
            for name, field in settings.model_fields.items()
        )
        parts.append(f"## {' '.join(words).capitalize()}\n\n{_paragraphs(settings)[0]}\n\n")
        parts[-1] += table(("setting", "value", "default", "meaning"), rows)
    return "\n".join(parts)


def _paragraphs(documented: object) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(documented.__doc__ or "").split("\n\n")]


def _values(annotation: Any) -> str:
    """The kind of a value, for people."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    names = {bool: "`true`, `false`", int: "integer", float: "number", Path: "path"}
    kinds = [kind for kind in (*get_args(annotation), annotation) if kind in names]
    return names[kinds[0]] if kinds else "text"


def _default(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Path) and not value.is_absolute():
        return f"`./{value}`"
    return f"`{value:g}`" if isinstance(value, float) and value < 1e6 else f"`{value}`"


def errors_page() -> str:
    """All error codes."""
    rows = (
        (str(error.status), f"[`{code}`](../runbook.md#{code})", error.meaning())
        for code, error in sorted(ERRORS.items(), key=lambda item: item[1].status)
    )
    return f"# Errors\n\n{ABOUT_ERRORS}\n{table(('status', 'code', 'meaning'), rows)}"


def metrics_page() -> str:
    """All metrics at `/metrics`."""
    rows = (
        (
            f"`{family.name}`",
            family.kind,
            "; ".join(f"`{label}`: {meaning}" for label, meaning in (family.labels or {}).items()),
            family.meaning + ("" if family.only_in_search_app else " Embedding services have it, too."),
        )
        for family in FAMILIES
    )
    return f"# Metrics\n\n{ABOUT_METRICS}\n{table(('metric', 'type', 'labels', 'meaning'), rows)}"


def commands_page() -> str:
    """All commands, as Typer documents them."""
    command = [
        sys.executable,
        "-m",
        "typer",
        "cli.main",
        "utils",
        "docs",
        "--name",
        "course-search",
        "--title",
        "Commands",
    ]
    done = subprocess.run(command, cwd=DIRECTORY.parents[1], capture_output=True, text=True, check=True)
    text = re.sub(r"^\* `--help`: Show this message and exit\.\n", "", done.stdout, flags=re.MULTILINE)
    text = re.sub(r"\*\*Options\*\*:\n\n(?=\n|\*\*|#|\Z)", "", text)
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .+\n)+", "", text)  # their descriptions are cut; the sections follow
    text = text.replace("```console\n$ ", "```text\n")
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def routes_page() -> str:
    """All routes with their fields and errors."""
    document = json.loads(openapi_document())
    schemas: Mapping[str, Any] = document["components"]["schemas"]
    used: dict[str, None] = {}
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method in METHODS:
            if operation := methods.get(method):
                groups.setdefault(operation["tags"][0], []).append(_route(method, path, operation, used))
    objects = "\n".join(_objects(schemas, used))
    routes = "\n".join(f"## {tag.capitalize()}\n\n" + "\n".join(texts) for tag, texts in groups.items())
    return f"# Routes\n\n{ABOUT_ROUTES}\n{routes}\n## Objects\n\n{objects}"


def _route(method: str, path: str, operation: Mapping[str, Any], used: dict[str, None]) -> str:
    lines = [f"### {method.upper()} {path}\n", f"**{operation['summary']}.** {operation['description']}\n"]
    if parameters := operation.get("parameters"):
        rows = ((f"`{p['name']}`", p["in"], _type(p["schema"], used), p.get("description", "")) for p in parameters)
        lines.append(table(("parameter", "in", "type", "meaning"), rows))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        lines.append(f"Body (`{kind}`): {_type(schema, used)}\n")
        if "properties" in schema:
            lines.append(_fields(schema, used))
    errors: list[str] = []
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            answers = [_type(content.get("schema", {}), used) for content in response.get("content", {}).values()]
            lines.append(f"Answer {status}: {', '.join(answers) or 'empty'}\n")
        elif status not in ("401", "500", "default"):
            codes = (code for content in response.get("content", {}).values() for code in content.get("examples", ()))
            errors += (f"{status} [`{code}`](../runbook.md#{code})" for code in codes)
    if errors:
        lines.append(f"Errors: {', '.join(errors)}\n")
    return "\n".join(lines)


def _objects(schemas: Mapping[str, Any], used: dict[str, None]) -> Iterator[str]:
    """The objects that were referred to, and those that these refer to."""
    done = 0
    while done < len(used):
        name = list(used)[done]
        done += 1
        schema = schemas[name]
        text = f"### {name}\n\n{' '.join(schema.get('description', '').split())}\n\n"
        if "enum" in schema:
            text += _type(schema, used) + "\n"
        yield text + (_fields(schema, used) if schema.get("properties") else "")


def _fields(schema: Mapping[str, Any], used: dict[str, None]) -> str:
    required = schema.get("required", ())
    rows = (
        (
            f"`{name}`" + (", required" if name in required and "default" not in field else ""),
            _type(field, used),
            f"`{json.dumps(field['default'], ensure_ascii=False)}`" if "default" in field else "",
            field.get("description", ""),
        )
        for name, field in schema["properties"].items()
    )
    return table(("field", "type", "default", "meaning"), rows)


def _type(schema: Mapping[str, Any], used: dict[str, None]) -> str:
    """The type of a value, for people."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        used.setdefault(name)
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option, used) for option in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    limits = [text.format(f"{schema[key]:g}") for key, text in LIMITS.items() if key in schema]
    kind = schema.get("type", "any value")
    if kind == "array":
        kind = f"list of {_type(schema.get('items', {}), used)}"
    elif isinstance(schema.get("additionalProperties"), dict) and schema["additionalProperties"]:
        kind = f"object of {_type(schema['additionalProperties'], used)}"
    return ", ".join([{"string": "text"}.get(kind, kind), *limits])


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "routes.md": routes_page,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
    "commands.md": commands_page,
}


def outdated() -> dict[str, str]:
    """The pages that do not say what the code says, with the content that they should have."""
    pages = {name: f"{NOTE}\n\n{write()}" for name, write in PAGES.items()}
    paths = {name: DIRECTORY / name for name in PAGES}
    return {
        name: text for name, text in pages.items() if not paths[name].exists() or paths[name].read_text("utf-8") != text
    }


if __name__ == "__main__":
    for name, text in outdated().items():
        (DIRECTORY / name).write_text(text, "utf-8")
