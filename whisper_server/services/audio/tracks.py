"""Which of a file's audio tracks is heard.

Owns the rule, on what the header says of the tracks; pure. Must not know of libav or samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whisper_server.core.errors import InvalidAudio, UnknownTrack
from whisper_server.core.language_tags import language_of_tag

if TYPE_CHECKING:
    from whisper_server.core.types import Track, TrackChoice

NO_AUDIO_TRACK = "The file has no audio track."
NO_DECODER = "The audio is in a codec that cannot be decoded here."


def listening_order(tracks: Sequence[Track], choice: TrackChoice) -> list[int]:
    """Return the numbers of the tracks: the one to hear, then those to try where it turns out silent.

    A number that was asked for stands alone. Else tracks in the asked language come before the others, and
    in either group the file's default tracks before the rest, each in the order of the file.

    Raises:
        InvalidAudio: there is no track, or none that can be decoded.
        UnknownTrack: there is none of this number, or it cannot be decoded.
    """
    if not tracks:
        raise InvalidAudio(NO_AUDIO_TRACK)
    if choice.number is not None:
        return [_asked(tracks, choice.number)]
    found = [track for track in tracks if track.codec]
    if not found:
        raise InvalidAudio(NO_DECODER)

    def rank(track: Track) -> tuple[bool, bool, int]:
        is_asked = choice.language is not None and language_of_tag(track.language) == choice.language
        return not is_asked, not track.is_default, track.index

    return [track.index for track in sorted(found, key=rank)]


def _asked(tracks: Sequence[Track], number: int) -> int:
    if not 0 <= number < len(tracks):
        has = "one audio track, number 0" if len(tracks) == 1 else _numbered(len(tracks))
        raise UnknownTrack(f"There is no audio track {number}: the file has {has}.")
    if not tracks[number].codec:
        raise UnknownTrack(f"Audio track {number} is in a codec that cannot be decoded here.")
    return number


def _numbered(n_tracks: int) -> str:
    return f"{n_tracks} audio tracks, numbered from 0 to {n_tracks - 1}"
