"""A recording and the text that is said in it -> when each word of the text is said.

    Transcription.decoded -> Window, Decoded   what the model hears, quickly: one greedy attempt
    GivenText.take --------> Part              which words of the text that is, with a look at the next window
    WindowStream.submit ---> Decoded           those words aligned with the same window, by cross-attention
    segments.of -----------> Word              and placed in its sound

A window is held until the next one is heard, so memory stays bounded however long the recording is. Must not
know how audio is opened, or of requests.
"""

from __future__ import annotations

import contextlib
from asyncio import wrap_future
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from whisper_server.core.errors import InvalidRequest
from whisper_server.core.types import AudioInfo, DecodeOptions, Segment, Transcript, WindowJob
from whisper_server.services.decoding import segments
from whisper_server.services.decoding.given_text import GivenText, Heard
from whisper_server.services.transcription import LeasedModel, SegmentSource, Transcription

if TYPE_CHECKING:
    from whisper_server.services.work_pool import WorkPool

QUICKLY = DecodeOptions(beam_size=1, temperatures=(0.0,))  # it only has to tell which words these may be
NOTHING_DECODED = DecodeOptions(temperatures=())
MIN_SHARE_HEARD = 0.2  # of the text's words; a text of another recording shares less


@dataclass(slots=True)
class TextAlignment(SegmentSource):
    """One recording and its text; use it once."""

    heard: Transcription  # with the options `QUICKLY`
    text: str
    _pool: WorkPool
    _language: str = field(default="", init=False)

    @property
    def info(self) -> AudioInfo:
        """What the container says of itself."""
        return self.heard.info

    @property
    def duration_s(self) -> float:
        """Seconds of the file read so far; all of it once the segments are exhausted."""
        return self.heard.duration_s

    @property
    def windows_done(self) -> int:
        """Windows heard so far."""
        return self.heard.windows_done

    @property
    def on_window(self) -> Callable[[float], None] | None:
        """What is told, after each window, the file time heard so far."""
        return self.heard.on_window

    @on_window.setter
    def on_window(self, listener: Callable[[float], None] | None) -> None:
        self.heard.on_window = listener

    @property
    def on_read(self) -> Callable[[], None] | None:
        """What is called as audio is read."""
        return self.heard.on_read

    @on_read.setter
    def on_read(self, listener: Callable[[], None] | None) -> None:
        self.heard.on_read = listener

    def transcript(self, found: tuple[Segment, ...]) -> Transcript:
        """Return the text with its times."""
        return Transcript(
            "transcribe", self._language, self.duration_s, found, shows_words=True, shows_segments=True
        )

    async def segments(self) -> AsyncGenerator[Segment, None]:
        """Produce the lines or sentences of the text, all of them once the recording was heard.

        Run it under `contextlib.aclosing`. Raises what `Transcription.segments` does, and:
            InvalidRequest: the text has no words, or too few of them are said in the recording.
        """
        try:
            async with (
                self.heard.lease() as lent,
                contextlib.aclosing(self.heard.decoded(lent)) as decoded,
            ):
                tokenizer = lent.model.engine.tokenizer
                if self.heard.params.language is not None:  # refused now, and not only where there is speech
                    tokenizer.start_sequence(self.heard.params.language, "transcribe")
                given = await self._pool.run(GivenText.of, self.text, tokenizer)
                if given.is_empty:
                    raise InvalidRequest("The text has no words.", param="text")
                held: Heard | None = None
                async for job, result in decoded:
                    here = await self._pool.run(Heard.of, job.window, result, tokenizer)
                    if not here.phrases:
                        continue
                    if held is not None:
                        await self._place(lent, given, held, here)
                    held = here
                if held is not None:
                    await self._place(lent, given, held, None)
            share = given.share_heard
            if share < MIN_SHARE_HEARD:
                raise InvalidRequest(
                    f"The text is not that of this recording: {share:.0%} of its words were heard there.",
                    param="text",
                )
            for segment in await self._pool.run(given.segments, self._language):
                yield segment
        finally:
            self.heard.audio.close()

    async def _place(self, lent: LeasedModel, given: GivenText, here: Heard, then: Heard | None) -> None:
        """Give times to what is said in a window."""
        self._language = self._language or here.language
        tokenizer = lent.model.engine.tokenizer
        parts = await self._pool.run(given.take, here, then)
        tokens, numbers = given.tokens_of(parts, tokenizer)
        if not numbers:
            return
        window = replace(here.window, voice=())  # without it every phrase is believed
        job = WindowJob(window, here.language, tokens=tuple(tokens), word_timestamps=True)
        aligned = await wrap_future(lent.stream.submit(job, NOTHING_DECODED))
        given.note(numbers, await self._pool.run(segments.of, window, aligned, tokenizer))
