"""Parses the form of an upload while it arrives: a field `course_id` and one file, whose content is passed on."""

import re
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from search_api.http.errors import InvalidRequestError

COURSE, FILE = "course_id", "file"
MAX_HEADER_BYTES = 16 * 1024
MAX_FIELD_BYTES = 16 * 1024
_EXTENDED_NAME = re.compile(r"filename\*=(?:utf-8)?'[^']*'([^;\s]+)", re.IGNORECASE)
"""How some HTTP libraries send a name that is not ASCII, although the standard of forms knows only `filename`."""


class UploadForm:
    """The parts of the form, in any order.

    Args:
        content_type: The header of the request.

    Raises:
        InvalidRequestError: The header is not usable.
    """

    def __init__(self, content_type: str) -> None:
        self._fields: dict[str, str] = {}
        self._content = bytearray()
        self._part = ""
        self._header_name = self._header_value = self._disposition = b""
        self._value = bytearray()
        self._is_complete = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise InvalidRequestError("The header Content-Type has no boundary: let the HTTP library set the header")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._read_header_name,
                    "on_header_value": self._read_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._read_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
                max_header_size=MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise InvalidRequestError(f"The header Content-Type is not valid: {error}") from None

    def feed(self, piece: bytes) -> None:
        """Parse the next piece of the body.

        Raises:
            InvalidRequestError: This is not a form, or not the form of an upload.
        """
        try:
            self._parser.write(piece)
        except FormParserError:
            raise InvalidRequestError("The body is not a valid form (multipart/form-data)") from None

    @property
    def waiting(self) -> int:
        """How much content of the file `take` would return, in bytes."""
        return len(self._content)

    def take(self) -> bytes:
        """The content of the file that was parsed since the last call."""
        content = bytes(self._content)
        self._content.clear()
        return content

    def finish(self) -> tuple[str, str]:
        """The course id, and the file's name as it was sent.

        Raises:
            InvalidRequestError: The form is not complete.
        """
        if not self._is_complete:
            raise InvalidRequestError("The form is not complete: it does not end with its boundary")
        for name in (COURSE, FILE):
            if name not in self._fields:
                raise InvalidRequestError(f"{name}: is missing in the form")
        return self._fields[COURSE], self._fields[FILE]

    def _begin_part(self) -> None:
        self._disposition = b""
        self._value.clear()

    def _read_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _read_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._part = options.get(b"name", b"").decode(errors="replace")
        if self._part not in (COURSE, FILE):
            raise InvalidRequestError(f"The form has a field besides {COURSE} and {FILE}")
        if self._part in self._fields:
            raise InvalidRequestError(f"{self._part}: only one per request")
        if self._part == FILE:
            name = options.get(b"filename", b"").decode(errors="replace").replace("%22", '"')  # as browsers send it
            if extended := _EXTENDED_NAME.search(self._disposition.decode(errors="replace")):
                name = unquote(extended[1])
            if not name:
                raise InvalidRequestError(f"{FILE}: has no file name")
            self._fields[FILE] = name

    def _read_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == FILE:
            self._content += data[start:end]
        elif len(self._value) + end - start > MAX_FIELD_BYTES:
            raise InvalidRequestError(f"{self._part}: is too long")
        else:
            self._value += data[start:end]

    def _end_part(self) -> None:
        if self._part == COURSE:
            try:
                self._fields[COURSE] = self._value.decode()
            except UnicodeDecodeError:
                raise InvalidRequestError(f"{COURSE}: must be UTF-8") from None

    def _end(self) -> None:
        self._is_complete = True
