"""`course-search migrate`: create or update the tables of the catalogue."""

import typer

from models.database import CatalogueSettings, create_catalogue_engine


def migrate() -> None:
    """Create or update the tables of the catalogue at DATABASE_URL. `up` does so by itself.

    All of it is one transaction: a failure changes nothing. Can be repeated.
    """
    from alembic.util import CommandError  # alembic takes half a second

    from migrations.revision import revision_of, upgrade

    try:
        upgrade()
    except CommandError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    engine = create_catalogue_engine(CatalogueSettings())
    try:
        typer.echo(f"The catalogue is at revision {revision_of(engine).current}")
    finally:
        engine.dispose()
