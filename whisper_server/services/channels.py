"""Recordings with one speaker per channel: a transcription per channel, merged by time.

Owns what a channel is called; `audio.channel_survey` measures whether channels differ. Must not know how a
channel becomes text: a `Transcription` per channel does that, as for any file.
"""

from __future__ import annotations

import contextlib
import string
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from whisper_server.core.errors import InvalidRequest, NotByChannel
from whisper_server.core.types import AudioInfo, Segment, Transcript
from whisper_server.services.audio.channel_survey import Survey
from whisper_server.services.transcription import SegmentSource, Transcription

if TYPE_CHECKING:
    from whisper_server.services.audio_processor import AudioStream
    from whisper_server.services.work_pool import WorkPool

MAX_CHANNELS = 8  # files that one request may keep open

_NEEDS = f"diarized_json needs a recording with one speaker per channel, 2 to {MAX_CHANNELS} channels"


def check_channels(n_channels: int) -> None:
    """Refuse recordings that have no channel per speaker, or too many.

    Raises:
        NotByChannel: they are fewer than two or more than eight.
    """
    if not 2 <= n_channels <= MAX_CHANNELS:
        has = "one channel" if n_channels == 1 else f"{n_channels} channels"
        raise NotByChannel(f"{_NEEDS}. This one has {has}.", param="response_format")


def measured(stream: AudioStream, survey: Survey) -> Generator[None, None, None]:
    """Feed the whole file to the survey, a piece per step; runs on the pool and closes the stream.

    Raises:
        NotByChannel: all channels carry the same sound.
    """
    with stream:
        for planes in stream.planes():
            survey.add(planes)
            yield
    survey.finish()
    if survey.is_one_signal:
        raise NotByChannel(
            f"{_NEEDS}. All channels of this one carry the same sound.", param="response_format"
        )


def labels(names: Sequence[str], n_channels: int) -> tuple[str, ...]:
    """Return what the channels are called: the names in order; A, B, ... by position where there is none.

    Raises:
        InvalidRequest: there are more names than channels.
    """
    if len(names) > n_channels:
        raise InvalidRequest(
            f"There are {len(names)} known_speaker_names, but the recording has {n_channels} channels; the "
            "names are those of the channels, in order.",
            param="known_speaker_names",
        )
    found = [*names, *[""] * (n_channels - len(names))]
    for channel, letter in enumerate(string.ascii_uppercase[:n_channels]):
        if not found[channel]:
            free = (each for each in string.ascii_uppercase if each not in found)
            found[channel] = letter if letter not in found else next(free)
    return tuple(found)


async def open_channels(
    stream: AudioStream,
    names: Sequence[str],
    pool: WorkPool,
    open_one: Callable[[int], Awaitable[Transcription]],
    on_read: Callable[[float], None],
) -> ByChannel:
    """Read the stream to its end to compare its channels, then open each of them; closes `stream`.

    `on_read` is told how many seconds have been read; what it raises is raised here.

    Raises:
        NotByChannel: there are too few channels or too many, or all carry the same sound.
        InvalidRequest: there are more names than channels.
    """
    n_channels = stream.info.channels
    with contextlib.ExitStack() as opened:
        opened.callback(stream.close)
        check_channels(n_channels)
        speakers = labels(names, n_channels)
        survey = Survey(n_channels)
        steps = pool.iterate(measured(stream, survey))
        async with contextlib.aclosing(steps):  # type: ignore[type-var]
            async for _ in steps:
                on_read(survey.duration_s)
        channels = []
        for channel in range(n_channels):
            channels.append(await open_one(channel))
            opened.callback(channels[-1].audio.close)
        opened.pop_all()
    return ByChannel(tuple(channels), speakers, survey)


@dataclass(slots=True)
class ByChannel(SegmentSource):
    """One recording on its way through a pipeline per channel; use it once."""

    channels: tuple[Transcription, ...]
    speakers: tuple[str, ...]  # one per channel
    survey: Survey
    on_window: Callable[[float], None] | None = field(default=None, init=False)
    on_read: Callable[[], None] | None = field(default=None, init=False)
    _decoded_s: dict[int, float] = field(default_factory=dict, init=False)  # of channels not yet at their end

    @property
    def info(self) -> AudioInfo:
        """What the container says of itself."""
        return self.channels[0].info

    @property
    def duration_s(self) -> float:
        """Seconds of the file read so far; all of it once the segments are exhausted."""
        return max(channel.duration_s for channel in self.channels)

    @property
    def windows_done(self) -> int:
        """Windows decoded so far, of all channels."""
        return sum(channel.windows_done for channel in self.channels)

    def transcript(self, found: tuple[Segment, ...]) -> Transcript:
        """Return the transcript of these segments, in the language of most of them if none was given."""
        return replace(self.channels[0].transcript(found), duration_s=self.duration_s)

    async def segments(self) -> AsyncGenerator[Segment, None]:
        """Produce the segments of all channels by their start, each with its speaker.

        Run it under `contextlib.aclosing`. Raises what `Transcription.segments` does.
        """
        async with contextlib.AsyncExitStack() as stack:
            for number, channel in enumerate(self.channels):
                stack.callback(channel.audio.close)  # one that never begins does not close its file itself
                channel.on_window = partial(self._note, number)
                channel.on_read = self.on_read
                self._decoded_s[number] = 0.0
            # One lease for all: a channel that began later might find the model unloaded by then, or the
            # server shutting down, and all of them are one request's share of the device.
            lease = await stack.enter_async_context(self.channels[0].lease())
            produced = [
                await stack.enter_async_context(contextlib.aclosing(channel.segments(lease)))
                for channel in self.channels
            ]
            upcoming = {number: await self._next(number, each) for number, each in enumerate(produced)}
            while waiting := {number: segment for number, segment in upcoming.items() if segment is not None}:
                number = min(waiting, key=lambda each: (waiting[each].start_s, each))
                segment = waiting[number]
                upcoming[number] = await self._next(number, produced[number])
                if not self.survey.is_bleed(number, segment.start_s, segment.end_s):
                    yield replace(segment, speaker=self.speakers[number])

    async def _next(self, number: int, produced: AsyncGenerator[Segment, None]) -> Segment | None:
        """Return the next segment of a channel; None after the last, which ends its say in the progress."""
        segment = await anext(produced, None)
        if segment is None:
            self._decoded_s.pop(number, None)
        return segment

    def _note(self, number: int, decoded_s: float) -> None:
        """Tell up to where the file is decoded: as far as the channel that is behind all others."""
        self._decoded_s[number] = decoded_s
        if self.on_window is not None:
            self.on_window(min(self._decoded_s.values()))
