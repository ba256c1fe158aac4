"""Texts that are hard to cut into characters, for readers and for the time that it takes."""

from __future__ import annotations

FAMILY = "👩\u200d👩\u200d👧\u200d👦"
SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
ODD = (
    "a1é\u0301\u0600\u200d\u200c\ufe0f\u20e3\r\n \u1112\u1161\u11ab각カ\u3099กำเ\u0915\u094d\u093f\u093c"
    "\u1000\u1039\u102c\u103a\u1780\u17d2🇩🇪👍👩🏽❤🏴\U000e0067\U000e007f、本"
)

HOSTILE = {
    "regional indicators": "🇩",
    "flags with marks": "🇩🇪\u0301",
    "joiners": "\u200d",
    "marks": "\u0301",
    "women who are joined": "👩\u200d",
    "women with marks": "👩\u0301",
    "skin tones": "🏽",
    "prefixes": "\u0600",
    "viramas": "क\u094d",
    "linkers": "\u094d",
    "jamo": "\u1112",
    "keycaps": "1\ufe0f\u20e3",
}
