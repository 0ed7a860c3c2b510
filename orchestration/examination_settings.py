"""Whether an examination may withhold a course. Imports no Dagster, so that commands that list settings start fast."""

from pydantic import Field

from models.settings import Settings


class ExaminationSettings(Settings):
    """The examination of each new generation of a course."""

    examination_blocks: bool = Field(
        True,
        description="Whether a course whose examination shows that vector or keyword search does not work is withheld: "
        "it fails, and its last generation remains searchable. Otherwise that is only a warning.",
    )
