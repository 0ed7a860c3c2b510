"""JSON from files of other people."""

import json
from typing import Any

from documents.document import UnreadableFileError


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        UnreadableFileError: It is none, or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise UnreadableFileError("The JSON in the file is nested too deep. Export the file again.") from None
    except ValueError as error:
        raise UnreadableFileError(
            f"The file is no valid JSON, perhaps because it is cut off ({error}). Export or copy it again."
        ) from error
