"""The parts of a form, as the parser finds them: which part it is in, and what the part says of itself.

What becomes of their data is for the readers of forms: `form` keeps fields, `streamed_part` hands a file on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from python_multipart.multipart import parse_options_header

from whisper_server.core.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 200


class PartReader(ABC):
    """Follows the parts of one form; the parser calls it."""

    def __init__(self) -> None:
        self.is_in_part = False
        self._n_parts = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""

    def callbacks(self) -> MultipartCallbacks:
        """Return what the parser is to call."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self.add_data,
            "on_part_end": self._end_part,
        }

    @abstractmethod
    def begin_data(self, options: Mapping[bytes, bytes]) -> None:
        """Take the options of a part's content disposition: its name, and the name of a file."""

    @abstractmethod
    def add_data(self, data: bytes, start: int, end: int) -> None:
        """Take the next bytes of the part, `data[start:end]`."""

    def end_data(self) -> None:  # noqa: B027  (not every reader wants to know)
        """Note that the part is complete."""

    def _begin_part(self) -> None:
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise InvalidRequest(f"The form has more than {MAX_PARTS} parts.")
        self.is_in_part = True
        self._disposition = b""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        self.begin_data(parse_options_header(self._disposition)[1])

    def _end_part(self) -> None:
        self.is_in_part = False
        self.end_data()
