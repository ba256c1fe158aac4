"""Prompts in, text and timestamps out, on the real multilingual vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from whisper_server.core.errors import InvalidRequest, ModelUnavailable
from whisper_server.services.tokenizer import MAX_PROMPT_TOKENS, Tokenizer

NANO = Path(__file__).parents[2] / "models" / "nano-whisper"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(NANO / "tokenizer.json", is_multilingual=True)


def test_special_tokens_are_where_openai_put_them(tokenizer: Tokenizer) -> None:
    assert tokenizer.end == 50257
    assert tokenizer.first_timestamp == 50364
    assert tokenizer.start_sequence("en", "transcribe") == [50258, 50259, 50359]
    assert tokenizer.start_sequence("fr", "translate") == [50258, 50265, 50358]
    assert tokenizer.seconds(50364) == 0.0
    assert tokenizer.seconds(50364 + 1500) == pytest.approx(30.0)
    assert len(tokenizer.languages) == 99  # "yue" came with large-v3


def test_prompt_comes_before_the_start_sequence(tokenizer: Tokenizer) -> None:
    start = tokenizer.start_sequence("en", "transcribe")
    prompt = tokenizer.prompt(start, "4 0 2")
    assert prompt[0] == 50361
    assert prompt[-3:] == start
    assert tokenizer.text(prompt) == " 4 0 2"
    assert tokenizer.prompt(start, "") == start
    assert tokenizer.prompt(start, "   ") == start


def test_a_long_prompt_keeps_its_last_tokens(tokenizer: Tokenizer) -> None:
    start = tokenizer.start_sequence("en", "transcribe")
    prompt = tokenizer.prompt(start, "zero " * 500 + "last words")
    assert len(prompt) == 1 + MAX_PROMPT_TOKENS + len(start)
    assert tokenizer.text(prompt).endswith("last words")


def test_keywords_come_before_the_prompt_and_both_get_room(tokenizer: Tokenizer) -> None:
    start = tokenizer.start_sequence("en", "transcribe")
    assert tokenizer.text(tokenizer.prompt(start, "the prompt", "key word")) == " key word the prompt"
    assert tokenizer.prompt(start, "", "key")[0] == 50361
    assert tokenizer.prompt(start, "", "<|de|> ") == start
    for text, keywords in [("zero " * 500 + "last", "first" + " one" * 500), ("", "first" + " one" * 500)]:
        prompt = tokenizer.prompt(start, text, keywords)
        assert len(prompt) == 1 + MAX_PROMPT_TOKENS + len(start)
        assert tokenizer.text(prompt).startswith(" first one")
        assert tokenizer.text(prompt).endswith("last" if text else "one")
    assert tokenizer.text(tokenizer.prompt(start, "zero " * 500, "key")).startswith(" key zero")


def test_special_tokens_in_a_prompt_are_not_obeyed(tokenizer: Tokenizer) -> None:
    start = tokenizer.start_sequence("en", "transcribe")
    prompt = tokenizer.prompt(start, "a<|endoftext|>b <|startoftranscript|><|de|><|translate|> c")
    assert prompt.count(50258) == 1
    assert all(token < tokenizer.end for token in prompt[1:-3])
    assert tokenizer.prompt(start, "<|startoftranscript|>") == start


def test_text_drops_timestamps_and_keeps_the_leading_space(tokenizer: Tokenizer) -> None:
    tokens = [50364, *tokenizer.encode(" fenêtre rouge"), 50400]
    assert tokenizer.text(tokens) == " fenêtre rouge"


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        (" fenêtre rouge", "fr", [" fenêtre", " rouge"]),
        (" Hello, world!", "en", [" Hello,", " world!"]),
        (" a well-known man's $3.50", "en", [" a", " well-known", " man's", " $3.50"]),
        (" ¿Qué? «Sí» (no) !", "es", [" ¿Qué?", " «Sí»", " (no) !"]),
        (" - Qui ? - « Moi »", "fr", [" - Qui ?", " - « Moi »"]),
        ("\N{IDEOGRAPHIC COMMA}", "ja", ["\N{IDEOGRAPHIC COMMA}"]),
        ("今日は雨です", "ja", None),
        (" unbelievably 🙂 good", "en", [" unbelievably", " 🙂", " good"]),
    ],
)
def test_words(tokenizer: Tokenizer, text: str, language: str, words: list[str] | None) -> None:
    tokens = tokenizer.encode(text)
    split = tokenizer.split_words(tokens, language)
    assert "".join(word.text for word in split) == text
    assert [token for word in split for token in word.tokens] == tokens
    if words is not None:
        assert [word.text for word in split] == words
    else:
        assert len(split) > 1


@pytest.mark.parametrize(
    "text", [" fenêtre rouge", "今日は雨です", " 🙂\n\t\x00 ~¡\xad", "".join(map(chr, range(256)))]
)
def test_the_bytes_of_tokens_join_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))).decode() == text


def test_an_english_only_model_refuses_what_it_cannot_do() -> None:
    english = Tokenizer.from_file(NANO / "tokenizer.json", is_multilingual=False)
    assert english.start_sequence("en", "transcribe") == [50258]
    assert english.languages == ("en",)
    with pytest.raises(InvalidRequest, match="English only"):
        english.start_sequence("de", "transcribe")
    with pytest.raises(InvalidRequest, match="cannot translate"):
        english.start_sequence("en", "translate")


def test_a_language_that_this_model_lacks(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="yue"):
        tokenizer.start_sequence("yue", "transcribe")


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"version":"1.0","model":{"type":"WordLevel"}}'])
def test_missing_or_broken_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json"):
        Tokenizer.from_file(path, is_multilingual=True)


def test_a_vocabulary_that_is_not_whispers(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as RawTokenizer
    from tokenizers.models import WordLevel

    path = tmp_path / "tokenizer.json"
    RawTokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(path))
    with pytest.raises(ModelUnavailable, match="no Whisper vocabulary"):
        Tokenizer.from_file(path, is_multilingual=True)
