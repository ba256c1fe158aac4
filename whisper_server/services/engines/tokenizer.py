"""Prompt in; text and timestamps out. Wraps one tokenizer.json and knows Whisper's special tokens."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_server.core.errors import InvalidRequest, ModelUnavailable
from whisper_server.core.languages import NAMES
from whisper_server.core.system.memory import check_room
from whisper_server.core.types import SECONDS_PER_TIMESTAMP, Task
from whisper_server.services.engines import characters, words
from whisper_server.services.engines.model_shape import PROMPT_POSITIONS
from whisper_server.services.engines.vocabulary import Vocabulary
from whisper_server.services.engines.words import TextTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RawTokenizer

MAX_PROMPT_TOKENS = PROMPT_POSITIONS - 1  # 223: openai/whisper keeps the last ones
_KEPT_PROMPTS = 512  # more than requests at once, of at most 2 x 223 tokens each
# What it takes to read a tokenizer.json, with room to spare: base's 2.2 MB take 30 MB, library and all.
_LIBRARY_BYTES, _BYTES_PER_BYTE = 16 << 20, 20
_SPECIAL = re.compile(r"<\|[^|]*\|>")


class Tokenizer:
    """The vocabulary of one model and its special tokens; safe to share between threads."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        encoder: Callable[[], RawTokenizer],
        document: Callable[[], bytes],
        *,
        is_multilingual: bool,
    ) -> None:
        """Take the tokens, and what returns the library's tokenizer and `tokenizer.json` once needed."""
        self._vocabulary = vocabulary
        self._load_encoder = encoder
        self._read_document = document
        self._prompts: OrderedDict[bytes, tuple[tuple[int, ...], tuple[int, ...]]] = OrderedDict()
        self._prompts_lock = threading.Lock()
        self.is_multilingual = is_multilingual
        self.end = self._id("<|endoftext|>")
        self.start = self._id("<|startoftranscript|>")
        self.start_of_prompt = self._id("<|startofprev|>")
        self.no_timestamps = self._id("<|notimestamps|>")
        self.first_timestamp = self.no_timestamps + 1
        self._tasks: dict[Task, int] = {}
        self._languages: dict[str, int] = {}
        if is_multilingual:
            self._tasks = {"transcribe": self._id("<|transcribe|>"), "translate": self._id("<|translate|>")}
            ids = ((code, vocabulary.number(f"<|{code}|>")) for code in NAMES)
            self._languages = {code: token for code, token in ids if token is not None}

    @classmethod
    def from_file(cls, path: Path, *, is_multilingual: bool) -> Tokenizer:
        """Read a `tokenizer.json`; raises `ModelUnavailable` where it is missing or no Whisper vocabulary."""
        if not path.is_file():
            raise ModelUnavailable(f"The model folder {path.parent.name!r} has no {path.name}; add it.")
        vocabulary = Vocabulary.from_file(path)
        return cls(vocabulary, lambda: _encoder(path), path.read_bytes, is_multilingual=is_multilingual)

    @classmethod
    def from_raw(cls, raw: RawTokenizer, *, is_multilingual: bool) -> Tokenizer:
        """Wrap a tokenizer of the library; raises `ModelUnavailable` where it is not Whisper's."""
        try:
            vocabulary = Vocabulary(raw.get_vocab(with_added_tokens=True))
        except ValueError as error:
            raise ModelUnavailable(
                "The model's tokenizer numbers its tokens too high; it is no Whisper vocabulary."
            ) from error
        return cls(vocabulary, lambda: raw, lambda: raw.to_str().encode(), is_multilingual=is_multilingual)

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[bytes, bool]]:
        """Go to another process with what is in `tokenizer.json`, which need not lie there."""
        return _from_document, (self._read_document(), self.is_multilingual)

    def _id(self, token: str) -> int:
        found = self._vocabulary.number(token)
        if found is None:
            raise ModelUnavailable(
                f"The model's tokenizer.json has no token {token}; it is no Whisper vocabulary."
            )
        return found

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages this model knows; only English for an English-only one."""
        return tuple(self._languages) or ("en",)

    def start_sequence(self, language: str, task: Task) -> list[int]:
        """Return start-of-transcript, language and task; timestamps stay on.

        Raises:
            InvalidRequest: this model does not know the language, or cannot translate.
        """
        if not self.is_multilingual:
            if language != "en":
                raise InvalidRequest(f"This model knows English only, not {language!r}.", param="language")
            if task == "translate":
                raise InvalidRequest("This model knows English only and cannot translate.", param="model")
            return [self.start]
        if language not in self._languages:
            raise InvalidRequest(f"This model does not know the language {language!r}.", param="language")
        return [self.start, self._languages[language], self._tasks[task]]

    def prompt(self, start_sequence: Sequence[int], text: str, keywords: str = "") -> list[int]:
        """Return the tokens before the first one to decode: keywords, prompt text and start sequence.

        Both are left out where they are empty. Where there is no room for both, the first keywords and
        the end of the text stay, each with at least half of it.
        """
        (wanted, _), (_, before) = self._plain_ends(keywords), self._plain_ends(text)
        wanted = wanted[: MAX_PROMPT_TOKENS - min(len(before), MAX_PROMPT_TOKENS // 2)]
        before = before[-(MAX_PROMPT_TOKENS - len(wanted)) :] if len(wanted) < MAX_PROMPT_TOKENS else ()
        if not wanted and not before:
            return list(start_sequence)
        return [self.start_of_prompt, *wanted, *before, *start_sequence]

    def _plain_ends(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the first and the last tokens of a request's text, as many as a prompt may have.

        A request has the same text for each of its windows, and splitting it may take tenths of a second.
        Kept are digests, so that no client's text outlives its request.
        """
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._prompts_lock:
            if key in self._prompts:
                self._prompts.move_to_end(key)
                return self._prompts[key]
        tokens = tuple(self._plain(text))
        ends = tokens[:MAX_PROMPT_TOKENS], tokens[-MAX_PROMPT_TOKENS:]
        with self._prompts_lock:
            self._prompts[key] = ends
            if len(self._prompts) > _KEPT_PROMPTS:
                self._prompts.popitem(last=False)
        return ends

    def _plain(self, text: str) -> list[int]:
        """Return the tokens of a request's text, which must not act as the special tokens it spells."""
        stripped = _SPECIAL.sub(" ", text).strip()
        return self.encode(" " + stripped) if stripped else []

    def encode(self, text: str) -> list[int]:
        """Return the tokens of plain text; the first call loads what knows how to split it, and blocks.

        Raises:
            ModelUnavailable: the tokenizers library cannot read the model's tokenizer.json.
        """
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    @cached_property
    def _encoder(self) -> RawTokenizer:
        return self._load_encoder()  # two threads may load it at once; either result will do

    def is_timestamp(self, token: int) -> bool:
        """Tell a timestamp token from all others."""
        return token >= self.first_timestamp

    def seconds(self, token: int) -> float:
        """Return the window time that a timestamp token means."""
        return (token - self.first_timestamp) * SECONDS_PER_TIMESTAMP

    def text_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Drop timestamps and other special tokens."""
        return [token for token in tokens if token < self.end]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of the tokens as the model wrote it, leading space kept.

        Bytes that are no UTF-8, as those of a character cut in two, are left out.
        """
        return characters.text_of(b"".join(map(self.token_bytes, self.text_tokens(tokens))))

    def token_texts(self, tokens: Sequence[int]) -> list[str]:
        """Return what each text token adds to the text; a character counts for the token that ends it."""
        return characters.shared_out([self.token_bytes(token) for token in tokens])

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of one text token; they may be a part of a character."""
        return self._vocabulary.token_bytes(token)

    def whole_characters(self, tokens: Sequence[int]) -> list[TextTokens]:
        """Group text tokens, so that no character is spread over two groups.

        Timestamps and other special tokens are left out. A group of bytes that are no UTF-8 has no text.
        """
        groups: list[TextTokens] = []
        run: list[int] = []
        text = self.text_tokens(tokens)
        ends = characters.ends_character([self.token_bytes(token) for token in text])
        for token, is_end in zip(text, ends, strict=True):
            run.append(token)
            if is_end:
                groups.append(TextTokens(self.text(run), tuple(run)))
                run = []
        return groups

    def words_of(self, text: str) -> list[TextTokens]:
        """Return the words of a request's text with the tokens that spell them; white space alone is none.

        Raises as `encode`, whose first call takes long.
        """
        return [word for word in self.split_words(self._plain(text)) if word.text.strip()]

    def split_words(self, tokens: Sequence[int]) -> list[TextTokens]:
        """Split text tokens into words, as `words.py` does; all of them are in one, in order."""
        return words.joined(self.whole_characters(tokens))


def _from_document(document: bytes, is_multilingual: bool) -> Tokenizer:
    def encoder() -> RawTokenizer:
        return _library(len(document)).from_str(document.decode())

    vocabulary = Vocabulary.of(json.loads(document))
    return Tokenizer(vocabulary, encoder, lambda: document, is_multilingual=is_multilingual)


def _encoder(path: Path) -> RawTokenizer:
    try:
        return _library(path.stat().st_size).from_file(str(path))
    except MemoryError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise ModelUnavailable(f"The {path.name} of {path.parent.name!r} cannot be read.") from error


def _library(n_bytes: int) -> type[RawTokenizer]:
    """Return the library's class for a document of so many bytes.

    Raises:
        MemoryError: there is no memory to read it, without which Rust's allocator ends the process.
    """
    check_room(_LIBRARY_BYTES + _BYTES_PER_BYTE * n_bytes)
    from tokenizers import Tokenizer as RawTokenizer  # noqa: PLC0415  (only for prompts)

    return RawTokenizer
