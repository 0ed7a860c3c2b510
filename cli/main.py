"""Assembles the command line `course-search`."""

import sys
from importlib.metadata import version

import typer
from pydantic import ValidationError

from cli.commands.add import add
from cli.commands.backup import backup
from cli.commands.demo import demo
from cli.commands.doctor import doctor
from cli.commands.embed import embed
from cli.commands.embedding_service import embedding_service
from cli.commands.fetch_model import fetch_model
from cli.commands.forget import forget
from cli.commands.load import load
from cli.commands.mcp import mcp
from cli.commands.migrate import migrate
from cli.commands.questions import questions
from cli.commands.rebuild import rebuild
from cli.commands.restore import restore
from cli.commands.search_app import search_app
from cli.commands.status import status
from cli.commands.up import up
from cli.commands.vector_store import vector_store
from cli.commands.worker import worker

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(*, value: bool) -> None:
    if value:
        typer.echo(f"course-search {version('course-search')}")
        raise typer.Exit


@app.callback()
def course_search(
    *,
    _version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Make courses searchable: run the pipeline and the search app, load courses, download models."""


app.command()(up)
app.command()(demo)
app.command()(add)
app.command()(load)
app.command()(status)
app.command()(embed)
app.command()(rebuild)
app.command()(forget)
app.command()(questions)
app.command()(doctor)
app.command()(migrate)
app.command()(backup)
app.command()(restore)
app.command()(fetch_model)
app.command()(vector_store)
app.command()(embedding_service)
app.command()(search_app)
app.command()(worker)
app.command()(mcp)


def main() -> None:
    """Run the command line. An invalid setting is reported in one line, without a traceback."""
    try:
        app(prog_name="course-search")
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"]).upper()
            typer.echo(f"{name}: {problem['msg']} (from the environment or .env)", err=True)
        sys.exit(1)
