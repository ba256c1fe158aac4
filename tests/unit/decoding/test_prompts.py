"""When an answer with a prompt is doubted, and which of two answers is believed."""

from __future__ import annotations

import pytest

from whisper_server.services.decoding.prompts import is_doubtful, is_harmed

PROMPT = "Welcome to the lecture on Kubernetes and Istio."
SPEECH = "The first part of today is about how a service finds another one in the cluster."


@pytest.mark.parametrize(
    ("text", "duration_s", "doubtful"),
    [
        (SPEECH, 5.0, False),
        (SPEECH, 30.0, True),  # 20 bytes a second would be speech
        ("", 1.0, True),
        (" ", 0.3, True),
        ("No.", 2.0, False),  # a command with what is kept around it
        ("No.", 8.0, True),
        ("Welcome to the lecture on Kubernetes and Istio.", 3.0, True),
        (" on kubernetes and istio", 3.0, True),
        ("The elect net.", 2.0, False),  # letters of the prompt, but no words of it
        ("Istio, Kubernetes", 2.0, True),  # keywords in another order
        (f"{PROMPT} {SPEECH}", 6.0, True),
        (f"{SPEECH} {PROMPT}", 6.0, False),
        ("彼は昨日東京に行きました。", 4.0, False),
    ],
)
def test_what_is_doubted(text: str, duration_s: float, doubtful: bool) -> None:
    assert is_doubtful(text, PROMPT, duration_s) is doubtful


@pytest.mark.parametrize(
    ("text", "without", "duration_s", "harmed"),
    [
        ("", SPEECH, 5.0, True),
        ("", "", 5.0, True),
        (" .", "", 1.0, True),
        ("The first part.", SPEECH, 12.0, True),  # broke off
        ("The first part.", "The first fart.", 12.0, False),  # there is no more
        (PROMPT, "Yes.", 2.0, True),
        (PROMPT, "", 2.0, True),
        ("Kubernetes and Istio.", "Cooper Netties and east here.", 3.0, False),  # really said
        ("Istio. Istio.", "5", 2.0, False),
        ("Istio.", "", 1.0, True),
        ("Istio.", "East here.", 2.0, False),  # what keywords are for
        (f"{PROMPT} {SPEECH}", SPEECH, 6.0, True),
        (f"{PROMPT} {SPEECH}", f"Welcome to the lecture on Cooper Netties. {SPEECH}", 6.0, False),
    ],
)
def test_which_answer_is_believed(text: str, without: str, duration_s: float, harmed: bool) -> None:
    assert is_harmed(text, without, PROMPT, duration_s, is_heard=True) is harmed


@pytest.mark.parametrize(
    ("text", "without", "harmed"),
    [
        ("Istio.", "You", True),  # what models write over silence
        ("Istio.", "", True),
        (PROMPT, "Thank you for watching.", True),
        ("Kubernetes and Istio.", "Thank you for watching.", True),
        (SPEECH, "Thank you for watching.", False),  # not from the prompt: belief decides about both
    ],
)
def test_where_nobody_is_heard_to_speak_the_prompt_is_no_answer(
    text: str, without: str, harmed: bool
) -> None:
    assert is_harmed(text, without, PROMPT, 1.0, is_heard=False) is harmed
