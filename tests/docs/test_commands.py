"""The commands, requests and code in the documentation are what the programs and the API accept."""

import ast
import importlib.util
import json
import re
from argparse import ArgumentError, ArgumentParser
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.main import get_command
from uvicorn.main import main as uvicorn_command

from cli.main import app
from search_api.openapi import openapi_document
from tests.docs.pages import ROOT, WRITTEN, Page

COMMANDS: Mapping[str, Any] = getattr(get_command(app), "commands")  # noqa: B009 - a Typer group, whose type lacks it
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
API: dict[str, Any] = json.loads(openapi_document())
OTHER_PATHS = {"/", "/docs", "/metrics", "/mcp", "/openapi.json"}
OF_OTHERS = {
    *("cd", "cp", "rm", "mkdir", "echo", "printf", "sed", "head", "df", "git", "pip", "promtool", "honcho"),
    *("dagster-webserver", ".venv/bin/python", "/opt/course-search/bin/pip"),
    *("docker", "helm", "kubectl", "install", "ln", "systemctl", "systemd-run", "systemd-sysusers"),
}
"""Programs whose arguments are not checked."""
pages = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.path)


@pages
def test_commands_in_blocks_exist(page: Page) -> None:
    for words in page.commands:
        problem = problem_with(words)
        assert not problem, f"{' '.join(words)}: {problem}"


@pages
def test_commands_within_lines_exist(page: Page) -> None:
    """A mention may lack arguments, and name files that are not here."""
    for words in page.mentions:
        problem = problem_with(words)
        assert not problem or re.match("MissingParameter|.* does not exist", problem), f"{' '.join(words)}: {problem}"


@pages
def test_routes_within_lines_exist(page: Page) -> None:
    for code in page.code:
        if match := re.fullmatch(r"(GET|POST|DELETE|PUT) (/\S*)", code):
            assert not problem_with_request(match[1], match[2].replace("…", "x")), code


@pages
def test_code_in_blocks_is_valid(page: Page) -> None:
    for language, content in page.blocks:
        match language:
            case "python":
                ast.parse(content)
            case "json":
                json.loads(content)
            case "yaml":
                yaml.safe_load(content)
            case _:
                assert language in {"console", "sh", "bash", "text", ""}, language


def test_mistakes_are_found() -> None:
    """The checks above see what they should."""
    for command in (
        "course-search nothing",
        "course-search status --wacht",
        "course-search forget",
        "make nothing",
        "frobnicate",
        "python -m search_api.nothing",
        "uvicorn --root-pth x search_api.app:create_app",
        "alembic nothing",
        "curl localhost:8000/nothing",
        "curl -X POST localhost:8000/courses/x/embedding_status",
        "curl localhost:8000/courses?serach=x",
        "curl --nothing localhost:8000/courses",
    ):
        assert problem_with(command.split()), command
    for body in ('{"qurey": "x"}', '{"query": 3}', "{}", "query"):
        assert problem_with(["curl", "localhost:8000/courses/x/search", "-d", body]), body
    assert problem_with(["curl", "localhost:8000/resources", "-F", "file=@x.pdf"])


def problem_with(words: Sequence[str]) -> str:  # noqa: PLR0911 - a case per program
    """What is wrong with a command; empty if nothing is."""
    program, arguments = words[0].removeprefix(".venv/bin/"), list(words[1:])
    match program:
        case "course-search":
            if arguments and arguments[0] in COMMANDS:
                return parsing_problem(COMMANDS[arguments[0]], arguments[1:])
            return "there is no such command"
        case "make":
            unknown = {word for word in arguments if "=" not in word} - TARGETS
            return f"no targets: {unknown}" if unknown else ""
        case "curl":
            return problem_with_curl(arguments)
        case "uvicorn":
            return parsing_problem(uvicorn_command, [word for word in arguments if word != "…"])
        case "python" if arguments[:1] == ["-m"]:
            return "" if importlib.util.find_spec(arguments[1]) else "there is no such module"
        case "alembic":
            return "" if arguments[:1] in (["upgrade"], ["downgrade"]) else "there is no such command"
        case _:
            return "" if {program, words[0]} & OF_OTHERS else "an unknown program"


def parsing_problem(command: Any, arguments: Sequence[str]) -> str:
    try:
        command.make_context(command.name, list(arguments))
    except Exception as error:  # noqa: BLE001 - Typer and Click raise errors of their own kinds
        return f"{type(error).__name__}: {error}"
    return ""


class CurlParser(ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(message)


def problem_with_curl(arguments: Sequence[str]) -> str:
    parser = CurlParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d", dest="body")
    parser.add_argument("-F", dest="form", action="append", default=[])
    parser.add_argument("-s", action="store_true")
    try:
        options = parser.parse_args(list(arguments))
    except (ArgumentError, ValueError) as error:
        return str(error)
    url = re.sub(r"^(localhost:8000|\$\w+)", "http://host", options.url)
    method = options.method or ("POST" if options.body or options.form else "GET")
    return problem_with_request(method, url.removeprefix("http://host"), options.body, options.form, options.H)


def problem_with_request(  # noqa: PLR0911 - in the order of the checks
    method: str, url: str, body: str | None = None, form: Sequence[str] = (), headers: Sequence[str] = ()
) -> str:
    """What is wrong with a request, by the OpenAPI document. Without a body, the body is not checked."""
    address = urlsplit(url)
    if address.path in OTHER_PATHS:
        return ""
    # a path without placeholders first: /courses/x/search is no id `courses`
    for path, methods in sorted(API["paths"].items(), key=lambda item: item[0].count("{")):
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))
        if re.fullmatch(pattern, address.path) and method.lower() in methods:
            operation = methods[method.lower()]
            break
    else:
        return "there is no such route"
    parameters = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"}
    if unknown := parse_qs(address.query).keys() - parameters:
        return f"no parameters: {unknown}"
    if form:
        schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        return problem_with_fields({field.partition("=")[0] for field in form}, schema)
    if body is None:
        return ""
    if "Content-Type: application/json" not in headers:
        return "the header Content-Type is missing"
    try:
        value = json.loads(body)
    except ValueError as error:
        return str(error)
    [name] = operation["requestBody"]["content"]["application/json"]["schema"].values()
    schema = API["components"]["schemas"][name.rpartition("/")[2]]
    errors = Draft202012Validator({**schema, "components": API["components"]}).iter_errors(value)
    return next((error.message for error in errors), "") or problem_with_fields(value.keys(), schema)


def problem_with_fields(names: Any, schema: Mapping[str, Any]) -> str:
    missing, unknown = set(schema.get("required", ())) - set(names), set(names) - schema["properties"].keys()
    return f"missing: {missing}, unknown: {unknown}" if missing or unknown else ""
