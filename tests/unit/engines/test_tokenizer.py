"""Prompts in, text and timestamps out, on the real multilingual vocabulary."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import WordLevel

from tests.support.real_models import real_model
from whisper_server.core.errors import InvalidRequest, ModelUnavailable
from whisper_server.services.engines.tokenizer import MAX_PROMPT_TOKENS, Tokenizer
from whisper_server.services.engines.vocabulary import Vocabulary

MARK = "\N{REPLACEMENT CHARACTER}"
NANO = Path(__file__).parents[3] / "models" / "nano-whisper"
BROKEN = ["", "{", "[" * 100_000, '{"version":"1.0","model":{"type":"WordLevel"}}', '{"model":{"vocab":[]}}']
BROKEN += [json.dumps({"model": {"vocab": {"a": number}}}) for number in (-1, 1 << 40, 0.5, "1", None)]


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
    ("text", "words"),
    [
        (" fenêtre rouge", [" fenêtre", " rouge"]),
        (" Hello, world!", [" Hello,", " world!"]),
        (" a well-known man's $3.50", [" a", " well-known", " man's", " $3.50"]),
        (" word(s) (well) … \N{EN DASH} no", [" word(s)", " (well) …", " \N{EN DASH} no"]),
        (" ¿Qué? «Sí» (no) !", [" ¿Qué?", " «Sí»", " (no) !"]),
        (" - Qui ? - « Moi »", [" - Qui ?", " - « Moi »"]),
        # Quotes that look alike on both sides belong to what they are written with.
        (' He said, "Hello." "Bye"', [" He", " said,", ' "Hello."', ' "Bye"']),
        (" Hola, ¿qué tal? ¡Sí!", [" Hola,", " ¿qué", " tal?", " ¡Sí!"]),
        (" Es sei „gut“ so", [" Es", " sei", " „gut“", " so"]),
        (
            " said ...and. \N{RIGHT SINGLE QUOTATION MARK}Tis",
            [" said", " ...and.", " \N{RIGHT SINGLE QUOTATION MARK}Tis"],
        ),
        ("\N{IDEOGRAPHIC COMMA}", ["\N{IDEOGRAPHIC COMMA}"]),
        (" 그는, 길", [" 그는,", " 길"]),
        # Where no spaces are written, words end where tokens do.
        ("今日は雨です", None),
        ("「東京」、(笑)。", ["「東", "京」、", "(笑)。"]),
        ("検索で「はい」。", ["検", "索", "で", "「はい」。"]),
        ("說\N{FULLWIDTH COLON}“你好”", ["說\N{FULLWIDTH COLON}", "“你好”"]),
        # In all languages: a window may have two of them.
        (" I'm 好的 Google検索2023年50%", [" I'm", " 好", "的", " Google", "検", "索", "2023", "年", "50%"]),
        ("怎麼樣?How do", ["怎麼樣?", "How", " do"]),
        ("です.OK。Go", ["です.", "OK。", "Go"]),
        # A sign that a reader takes for a part of a character begins no word.
        ("မင်္ဂလာ", ["မ", "င်္", "ဂ", "လာ"]),
        (
            " 👨\u200d👩\u200d👧 unbelievably 🙂 good",
            [" 👨\u200d👩\u200d👧", " unbelievably", " 🙂", " good"],
        ),
    ],
)
def test_words(tokenizer: Tokenizer, text: str, words: list[str] | None) -> None:
    tokens = tokenizer.encode(text)
    split = tokenizer.split_words(tokens)
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


@cache
def _library() -> RawTokenizer:
    return RawTokenizer.from_file(str(NANO / "tokenizer.json"))


# Tokens in any order, and those of a single byte more often than chance would have them.
TOKENS = st.lists(st.integers(0, 50256) | st.integers(0, 255), max_size=12)


@settings(deadline=None)  # the first example loads the library's tokenizer
@given(tokens=TOKENS)
def test_tokens_in_any_order_have_the_text_that_the_library_gives_them(
    tokenizer: Tokenizer, tokens: list[int]
) -> None:
    written = _library().decode(tokens, skip_special_tokens=False)
    # No token is a U+FFFD, but three may spell one; all others are the library's, for bytes that are none.
    spelled = b"".join(map(tokenizer.token_bytes, tokens)).decode(errors="ignore")
    assert tokenizer.text(tokens) == spelled
    assert tokenizer.text(tokens).replace(MARK, "") == written.replace(MARK, "")


@given(tokens=TOKENS)
def test_tokens_in_any_order_make_words_of_whole_characters(tokenizer: Tokenizer, tokens: list[int]) -> None:
    text = tokenizer.text(tokens)
    assert "".join(tokenizer.token_texts(tokens)) == text
    assert "".join(group.text for group in tokenizer.whole_characters(tokens)) == text
    split = tokenizer.split_words(tokens)
    assert "".join(word.text for word in split) == text
    assert all(word.text for word in split) or len(split) == 1
    assert [token for word in split for token in word.tokens] == tokens


@pytest.mark.real
@given(tokens=TOKENS)
def test_so_do_those_of_the_real_model(tokens: list[int]) -> None:
    real = _real_tokenizer()
    data = b"".join(map(real.token_bytes, tokens))
    assert real.text(tokens) == "".join(word.text for word in real.split_words(tokens))
    assert real.text(tokens) == data.decode(errors="ignore")


@cache
def _real_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(real_model("base") / "tokenizer.json", is_multilingual=True)


@given(st.lists(st.integers(-5, 1 << 40), max_size=3))
def test_an_unknown_token_says_nothing(tokens: list[int]) -> None:
    vocabulary = Vocabulary({"a": 0, "é": 3, "<|en|>": 5})
    known = {0: b"a", 3: b"\xe9", 5: b"<|en|>"}
    assert [vocabulary.token_bytes(token) for token in tokens] == [known.get(t, b"") for t in tokens]
    assert (vocabulary.number("<|en|>"), vocabulary.number("<|de|>")) == (5, None)


def test_text_needs_no_library_and_the_first_prompt_loads_it() -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from whisper_server.services.engines.tokenizer import Tokenizer;"
        f"t = Tokenizer.from_file(Path({str(NANO / 'tokenizer.json')!r}), is_multilingual=True);"
        "text = t.text([50364, 286, 478]); before = 'tokenizers' in sys.modules;"
        "print([text, before, t.encode(text), 'tokenizers' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[" I\'m", False, [286, 478], True]'


class _Counting:
    """The library's tokenizer, and the texts that it was asked to split."""

    def __init__(self) -> None:
        self._raw = _library()
        self.split: list[str] = []

    def encode(self, text: str, **options: bool) -> object:
        self.split.append(text)
        return self._raw.encode(text, **options)


def _counted() -> tuple[Tokenizer, _Counting]:
    counting = _Counting()
    vocabulary = Vocabulary(_library().get_vocab(with_added_tokens=True))
    tokenizer = Tokenizer(vocabulary, lambda: cast("RawTokenizer", counting), bytes, is_multilingual=True)
    return tokenizer, counting


def test_keywords_and_prompt_of_a_request_are_split_once_for_all_its_windows() -> None:
    """The largest take tenths of a second, in which windows of others wait for the same thread."""
    tokenizer, counting = _counted()
    keywords = ", ".join(f"{number}{'é' * 997}" for number in range(100))
    prompts = [tokenizer.prompt([1, 2], "the end", keywords) for _ in range(50)]
    assert counting.split == [f" {keywords}", " the end"]
    assert all(prompt == prompts[0] for prompt in prompts)
    assert len(prompts[0]) == 1 + MAX_PROMPT_TOKENS + 2
    assert tokenizer.prompt([3], "the end", keywords) == [*prompts[0][:-2], 3]
    assert tokenizer.prompt([1, 2], keywords, "the end") != prompts[0]
    assert len(counting.split) == 2


def test_what_was_split_is_forgotten_and_is_no_text() -> None:
    """Those that were used last are kept, as tokens of a prompt and a digest: never a request's words."""
    tokenizer, counting = _counted()
    for number in range(2000):
        tokenizer.prompt([], f"prompt {number}", "busy")
    assert counting.split.count(" busy") == 1
    before = len(counting.split)
    tokenizer.prompt([], "prompt 1999", "busy")
    assert len(counting.split) == before
    tokenizer.prompt([], "prompt 0", "busy")
    assert len(counting.split) == before + 1
    kept = tokenizer._prompts
    assert len(kept) <= 512
    assert all(isinstance(key, bytes) and len(key) == 16 for key in kept)
    assert all(len(end) <= MAX_PROMPT_TOKENS for ends in kept.values() for end in ends)


def test_a_file_that_only_the_library_cannot_read_fails_at_the_prompt(tmp_path: Path) -> None:
    document = json.loads((NANO / "tokenizer.json").read_bytes())
    document["model"]["merges"] = "none"
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json", is_multilingual=True)
    assert tokenizer.text([286, 478]) == " I'm"
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json"):
        tokenizer.prompt([], "a prompt")


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


@pytest.mark.parametrize("content", [None, *BROKEN])
def test_missing_or_broken_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json"):
        Tokenizer.from_file(path, is_multilingual=True)


def test_a_vocabulary_that_is_not_whispers(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    RawTokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(path))
    with pytest.raises(ModelUnavailable, match="no Whisper vocabulary"):
        Tokenizer.from_file(path, is_multilingual=True)


@pytest.mark.parametrize("number", [0, 1 << 24])
def test_a_tokenizer_of_the_library_that_is_not_whispers(number: int) -> None:
    raw = RawTokenizer(WordLevel({"a": number}, unk_token="a"))
    with pytest.raises(ModelUnavailable, match="no Whisper vocabulary"):
        Tokenizer.from_raw(raw, is_multilingual=True)
