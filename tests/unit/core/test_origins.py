"""Which origins match which settings."""

from __future__ import annotations

import pytest

from whisper_server.core.settings.origins import DEFAULT_ORIGINS, as_browsers_write_them, matcher

OTHERS = [
    "https://evil.example",
    "http://localhost.evil.example",
    "http://evil.localhost.example:80",
    "null",
    "",
]


def matches(origins: tuple[str, ...], origin: str) -> bool:
    return matcher(as_browsers_write_them(origins)).fullmatch(origin) is not None


@pytest.mark.parametrize(
    "origin",
    [
        *("http://localhost:5173", "http://localhost", "https://localhost:8443", "http://127.0.0.1:3000"),
        *("http://[::1]:3000", "tauri://localhost", "http://tauri.localhost", "https://tauri.localhost"),
        *("app://obsidian.md", "capacitor://localhost", "ionic://localhost", "vscode-webview://1a2b-3c"),
    ],
)
def test_pages_of_this_machine_are_let_in_by_default(origin: str) -> None:
    assert matches(DEFAULT_ORIGINS, origin)
    assert matches(("default",), origin)
    assert matches(("https://my.example", "Default"), origin)


@pytest.mark.parametrize(
    "origin",
    [
        *OTHERS,
        *(
            "chrome-extension://abc",
            "file://",
            "http://localhost:",
            "http://localhost:80/x",
            "http://127.0.0.1.x",
        ),
        *(
            "http://u@localhost",
            "http://localhost@evil.example",
            "app://a/b",
            "tauri://evil",
            "http://1127.0.0.1",
        ),
    ],
)
def test_others_are_not(origin: str) -> None:
    assert not matches(DEFAULT_ORIGINS, origin)


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("https://App.Example.org/", "https://app.example.org"),
        ("https://*.example.org", "https://a.b.example.org"),
        ("https://*.example.org:*", "https://a.example.org:8443"),
        ("chrome-extension://*", "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb"),
        ("moz-extension://*", "moz-extension://2a5e-11"),
        ("null", "null"),
        ("*", "https://anything.example"),
        ("*", "null"),
    ],
)
def test_patterns(written: str, origin: str) -> None:
    assert matches((written,), origin)


@pytest.mark.parametrize(
    "written", ["https://*.example.org", "chrome-extension://*", "null", "http://localhost:3000"]
)
@pytest.mark.parametrize(
    "origin", ["https://example.org", "https://a.example.org.evil", "https://a.example.org:1", "x"]
)
def test_patterns_match_nothing_else(written: str, origin: str) -> None:
    assert not matches((written,), origin)


@pytest.mark.parametrize(
    "written", ["localhost", "http://", "http://a b", "http://a/b", "a,b", "http://x:*1"]
)
def test_what_is_no_origin_ends_the_start(written: str) -> None:
    with pytest.raises(ValueError, match="is no origin such as"):
        as_browsers_write_them((written,))
