"""One file of a form, handed on while it comes in, so that nothing of it is kept; whatever its size.

The parser is fed a chunk of the body when a piece of the file is asked for; other parts are forgotten.
The size of the whole body is the middleware's business. Must not know what the file holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Mapping

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from whisper_server.api.asgi import Message
from whisper_server.api.disconnect import ClientDisconnected
from whisper_server.api.requests.parts import PartReader
from whisper_server.core.errors import InvalidRequest


class ArrivingBody:
    """The body of a request while it comes in, and what comes after it."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_complete = asyncio.Event()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes in; raises `ClientDisconnected` where the client leaves before."""
        try:
            async for chunk in self._request.stream():
                yield chunk
        except ClientDisconnect as error:
            raise ClientDisconnected from error
        self._is_complete.set()

    async def receive_after(self) -> Message:
        """Return the next message after the body, for `until_disconnect`; before, `chunks` takes them."""
        await self._is_complete.wait()
        return await self._request.receive()


class StreamedPart:
    """The file part of one form; read it once, to its end or not."""

    def __init__(self, content_type: str, name: str) -> None:
        """Take the request's content type and the name of the part.

        Raises:
            InvalidRequest: the body is no form.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind.lower() != b"multipart/form-data" or not boundary:
            raise InvalidRequest(f"Send a form (multipart/form-data) with the file {name!r}.", param=name)
        self.filename = ""  # as the client writes it, once the part has begun
        self._boundary = boundary
        self._name = name

    async def chunks(self, body: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the file, cut anywhere; the body is read to its end.

        Raises:
            InvalidRequest: the form is malformed, breaks off, has no such file or more than one.
        """
        reader = _Reader(self._name)
        try:
            parser = MultipartParser(self._boundary, reader.callbacks())
            async for chunk in body:
                parser.write(chunk)
                self.filename = reader.filename
                if reader.pieces:
                    pieces, reader.pieces = reader.pieces, []
                    yield b"".join(pieces)
            parser.finalize()
        except FormParserError as error:
            raise InvalidRequest(f"The form cannot be read: {error}.") from error
        if reader.is_in_part:
            raise InvalidRequest("The form breaks off before the end of its last part.")
        if not reader.has_file:
            raise InvalidRequest(f"The form has no file. Send the audio in {self._name!r}.", param=self._name)


class _Reader(PartReader):
    """Collects the pieces of one part until they are taken; the parser calls it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.filename = ""
        self.has_file = False
        self._wanted = name.encode()
        self._is_wanted = False

    def begin_data(self, options: Mapping[bytes, bytes]) -> None:
        self._is_wanted = options.get(b"name") == self._wanted
        if not self._is_wanted:
            return
        if self.has_file:
            raise InvalidRequest(
                "The form has more than one file. Send one per request.", param=self._wanted.decode()
            )
        self.has_file = True
        self.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_wanted:
            self.pieces.append(data[start:end])
