"""Whether a prompt did harm: it emptied an answer, cut it short, or came back as one; pure.

A prompt is text that the model takes for what was said before. Sometimes it then writes nothing more, or
breaks off; over little speech it may write the prompt itself. An answer that looks like that is decoded again
without prompt and keywords, and the two answers tell which one to believe: a doubt costs a decode, no word.
"""

from __future__ import annotations

import unicodedata

from whisper_server.core.types import MIN_VOICE_S

# In UTF-8, so that one number fits all scripts: speech has 12 to 20 bytes a second, in any language.
MIN_BYTES_PER_S = 4.0
PAUSE_S = 2.0  # of a voice: between phrases, and around them where it was not looked for
MIN_PROMPT_CHARS = 15  # of a prompt before other text: with fewer, people do begin like that
MUCH_LONGER = 2.0  # times as long: from there on two answers do not say the same


def is_doubtful(text: str, prompt: str, voice_s: float) -> bool:
    """Tell whether the answer to `prompt` is far too short for the voice in it, or made of the prompt."""
    return _is_short(text, voice_s) or _is_echo(text, prompt)


def is_harmed(text: str, without: str, prompt: str, voice_s: float, *, is_heard: bool) -> bool:
    """Tell whether a doubtful answer is worse than the one `without` the prompt.

    `is_heard`: that somebody speaks is known without the prompt, by voice detection or by the model.
    """
    if not _plain(text):  # a lone full stop, too: a list of keywords ends with one
        return True
    if _is_short(text, voice_s) and len(without.encode()) >= MUCH_LONGER * len(text.encode()):
        return True
    said, heard, given = _plain(text), _plain(without), _plain(prompt)
    if _starts_with(said, given):  # the prompt, and then what was said
        return len(said) - len(heard) > len(given) / 2
    # Words of the prompt that take as long as what is heard without it were said, and are spelled right now.
    # One word tells little where there is speech: "five" may be heard as "5".
    if not _is_echo(text, prompt) or (heard and is_heard and len(set(said.split())) == 1 and said.isascii()):
        return False
    if not is_heard:
        return True
    shorter, longer = sorted((len(said), len(heard)))
    return longer > MUCH_LONGER * shorter


def _is_short(text: str, voice_s: float) -> bool:
    least = MIN_BYTES_PER_S * max(0.0, voice_s - PAUSE_S)
    return (not text.strip() and voice_s >= MIN_VOICE_S) or len(text.strip().encode()) < least


def _is_echo(text: str, prompt: str) -> bool:
    """Tell whether the text has nothing that is not in the prompt, or begins with all of it."""
    said, given = _plain(text), _plain(prompt)
    if not given:
        return False
    return _starts_with(said, given) or set(said.split()) <= set(given.split()) or _is_within(said, given)


def _is_within(said: str, given: str) -> bool:
    """Tell whether the prompt has the text as it is, also where no spaces are written."""
    return f" {said} " in f" {given} " or (said in given and not said.isascii())


def _starts_with(said: str, given: str) -> bool:
    return len(given) >= MIN_PROMPT_CHARS and said.startswith(given + " ")


def _plain(text: str) -> str:
    """Return the words, without case and punctuation, a space between two."""
    bare = (c if unicodedata.category(c)[0] in "LMN" else " " for c in text.casefold())
    return " ".join("".join(bare).split())
