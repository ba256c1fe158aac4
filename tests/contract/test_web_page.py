"""The web page in a real browser: files, a recording, live captions, keys, a keyboard, axe's rules."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import NANO, ROOT, SAMPLES, Sample, Server, StartServer
from tests.contract.clients import KEY, client_package, wav_of
from tests.support.audio_files import encode
from tests.support.long_audio import speak_for
from tests.support.speaker_networks import ENCODER, ENCODER_THRESHOLD
from tests.support.stand_in_hub import Hub, stand_in
from tests.support.two_voices import talk

playwright = client_package("playwright.sync_api")
axe = client_package("axe_playwright_python.sync_playwright")
expect = playwright.expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PICTURES = ROOT / "docs" / "pictures"
FOCUSED = "(({id, className, tagName}) => id || className || tagName)(document.activeElement)"
DROPPED = """([name, data]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(atob(data), (each) => each.charCodeAt())], name));
  return transfer;
}"""
WATCH_FORMS = """() => {
  window.sent = [];
  const { append } = FormData.prototype;
  FormData.prototype.append = function (name, value, ...rest) {
    sent.push([name, String(value)]);
    return append.call(this, name, value, ...rest);
  };
}"""
WATCH_STATUS = """() => {
  window.seen = [];
  new MutationObserver(() => seen.push(document.querySelector(".item-status")?.textContent))
    .observe(document.querySelector("#queue"), { childList: true, subtree: true });
}"""
MOVING = "document.getAnimations().length"
PICTURED = bool(os.environ.get("DOCS_PICTURES"))  # writes the pictures of docs/web-page.md
NAME = "downloaded-nano"
TIMEOUT_MS = 60_000  # a bound, not a wait

__all__ = ["stand_in"]  # a fixture

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    # How these packages use others is their business.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory, samples: dict[str, Sample]) -> Path:
    """What the browser's fake microphone hears, again and again."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    path.write_bytes(wav_of(samples["en-plain-000.flac"]))
    return path


@pytest.fixture(scope="module")
def chromium(microphone: Path) -> Iterator[Any]:
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(
            executable_path=CHROMIUM,
            chromium_sandbox=os.geteuid() != 0,  # it refuses to run as root
            args=[
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A fresh tab that fails the test for what its console calls an error."""
    context = chromium.new_context(permissions=["microphone"], accept_downloads=True)
    context.set_default_timeout(TIMEOUT_MS)
    expect.set_options(timeout=TIMEOUT_MS)
    tab = context.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda line: is_fault(line) and errors.append(line.text))
    yield tab
    context.close()
    assert errors == []


def is_fault(line: Any) -> bool:
    """Whether a line of the console is an error; the browser also calls refusals errors."""
    return line.type == "error" and not re.search(r"status of (4\d\d|503)", line.text)


def choose(page: Any, *names: str) -> None:
    page.set_input_files("#files", [str(SAMPLES / name) for name in names])


def saved(page: Any, item: Any, form: str) -> str:
    page.select_option("#format", form)
    with page.expect_download() as download:
        item.locator(".save").click()
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_files_queue_and_become_text(nano: Server, page: Any, samples: dict[str, Sample]) -> None:
    names = ["en-plain-000.flac", "de-plain-018.flac"]
    page.goto(nano.url)
    choose(page, *names)
    items = page.locator(".item")
    for number, name in enumerate(names):
        item = items.nth(number)
        expect(item.locator("h3")).to_have_text(name)
        expect(item.locator(".item-status")).to_have_text("Done.")
        assert " ".join(item.locator("[role=textbox]").all_inner_texts()) == samples[name].text


def test_files_can_be_dropped_and_are_sent_as_the_options_say(
    nano: Server, page: Any, samples: dict[str, Sample]
) -> None:
    sample = samples["de-plain-018.flac"]
    page.goto(nano.url)
    page.select_option("#language", "de")
    data = base64.b64encode(sample.data).decode()
    dropped = page.evaluate_handle(DROPPED, [sample.name, data])
    page.evaluate(WATCH_FORMS)
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    expect(page.locator(".item h3")).to_have_text(sample.name)
    expect(page.locator(".item-status")).to_have_text("Done.")
    assert " ".join(page.locator("[role=textbox]").all_inner_texts()) == sample.text
    fields = dict(page.evaluate("sent"))
    assert fields["language"] == "de"
    assert fields["model"] == page.locator("#model").input_value()


def test_a_long_file_shows_how_much_is_done_and_how_long_the_rest_takes(
    nano: Server, page: Any, tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(speak_for(70))
    page.goto(nano.url)
    page.evaluate(WATCH_STATUS)
    page.set_input_files("#files", str(path))
    expect(page.locator(".item-status")).to_have_text("Done.")
    said = page.evaluate("seen")
    shown = [match for text in said if (match := re.fullmatch(r"\d:(\d\d) of 1:\d\d, \d+:\d\d left\.", text))]
    done = [int(match[1]) for match in shown]
    assert len(set(done)) > 1
    expect(page.locator(".item progress")).to_be_hidden()


def test_a_transcription_can_be_cancelled_and_the_next_one_is_made(
    nano: Server, page: Any, speech: Sample, tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(speak_for(600))
    page.goto(nano.url)
    page.set_input_files("#files", [str(path), str(SAMPLES / speech.name)])
    items = page.locator(".item")
    items.nth(0).get_by_role("button", name="Cancel").click()
    expect(items.nth(0).locator(".item-status")).to_have_text("Cancelled.")
    expect(items.nth(1).locator(".item-status")).to_have_text("Done.")


def test_every_form_to_save_has_the_text_as_it_was_edited(nano: Server, page: Any, speech: Sample) -> None:
    page.goto(nano.url)
    choose(page, speech.name)
    item = page.locator(".item")
    expect(item.locator(".item-status")).to_have_text("Done.")
    text = item.locator("[role=textbox]").first
    text.fill("edited <words>")
    assert saved(page, item, "txt") == "edited <words>\n"
    assert saved(page, item, "srt").startswith("1\n00:00:0")
    assert "edited <words>\n" in saved(page, item, "srt")
    assert saved(page, item, "vtt").startswith("WEBVTT\n\n00:00:0")
    assert "edited &lt;words>" in saved(page, item, "vtt")
    data = json.loads(saved(page, item, "json"))
    assert data["text"] == "edited <words>"
    assert 0 <= data["segments"][0]["start"] < data["segments"][0]["end"]


def test_a_click_on_a_word_plays_from_there_and_it_is_marked(nano: Server, page: Any, speech: Sample) -> None:
    page.goto(nano.url)
    choose(page, speech.name)
    expect(page.locator(".item-status")).to_have_text("Done.")
    words = page.locator(".transcript [role=textbox] span")
    expect(words).to_have_count(len(speech.text.split()))
    words.last.click()
    assert page.locator("audio").evaluate("audio => audio.currentTime") > speech.duration_s / 3
    expect(page.locator(".spoken")).to_have_text(speech.text.split()[-1])


def test_a_file_that_is_no_audio_says_so_and_the_next_one_is_done(
    nano: Server, page: Any, speech: Sample, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.mp3"
    wrong.write_text("no audio")
    page.goto(nano.url)
    page.set_input_files("#files", [str(wrong), str(SAMPLES / speech.name)])
    items = page.locator(".item")
    expect(items.nth(0).locator(".item-status.wrong")).to_be_visible()
    expect(items.nth(1).locator(".item-status")).to_have_text("Done.")


def test_a_file_that_is_chosen_before_the_models_are_known_waits_for_them(
    nano: Server, page: Any, speech: Sample
) -> None:
    held: list[Any] = []
    page.route("**/v1/models", lambda route: held.append(route))  # noqa: PLW0108  (playwright marks what it gets)
    with page.expect_request("**/v1/models"):
        page.goto(nano.url)
    choose(page, speech.name)
    expect(page.locator(".item")).to_have_count(1)
    (route,) = held
    route.continue_()
    expect(page.locator(".item-status")).to_have_text("Done.")


def test_who_speaks_is_said_where_it_is_asked_for(
    start_contract_server: StartServer, nano_cache: Path, page: Any, tmp_path: Path
) -> None:
    server = start_contract_server(
        "--model",
        str(NANO),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
        WHISPER_OFFLINE="true",
        WHISPER_SPEAKER_ENCODER=str(ENCODER),
        WHISPER_SPEAKER_SEGMENTATION="none",
        WHISPER_SPEAKER_THRESHOLD=str(ENCODER_THRESHOLD),
    )
    path = tmp_path / "talk.wav"
    path.write_bytes(encode(talk()))
    page.goto(server.url)
    page.get_by_label("Say who speaks").check()
    page.set_input_files("#files", str(path))
    item = page.locator(".item")
    expect(item.locator(".item-status")).to_have_text("Done.")
    names = [name for name, _ in itertools.groupby(item.locator(".speaker").all_inner_texts())]
    assert len(names) == 3
    assert names[0] != names[1]  # whether the third is the first again, the network of the tests is not sure
    assert f"{names[1]}: " in saved(page, item, "srt")


def test_speakers_that_cannot_be_told_apart_are_said_to_be(nano: Server, page: Any, speech: Sample) -> None:
    page.goto(nano.url)
    page.get_by_label("Say who speaks").check()
    choose(page, speech.name)
    expect(page.locator(".item-status.wrong")).to_contain_text("speaker")


def test_jobs_are_listed_saved_and_removed(nano: Server, page: Any, speech: Sample) -> None:
    sent = {"files": {"file": speech.data}, "data": {"background": "true"}}
    job = httpx.post(f"{nano.url}/v1/audio/transcriptions", **sent, timeout=60).json()
    page.goto(nano.url)
    row = page.locator("#jobs-list .item")
    expect(row.locator(".item-status")).to_contain_text("Done")
    assert saved(page, row, "txt") == f"{speech.text}\n"
    row.locator(".cancel").click()
    expect(row).to_have_count(0)
    assert httpx.get(f"{nano.url}/v1/jobs/{job['id']}").status_code == 404


def test_a_recording_of_the_microphone_becomes_text(nano: Server, page: Any, speech: Sample) -> None:
    page.goto(nano.url)
    page.get_by_role("button", name="Record", exact=True).click()
    stop = page.get_by_role("button", name="Stop recording")
    expect(stop).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(1_000 * (speech.duration_s + 1))  # the recording itself, in its own time
    stop.click()
    expect(page.locator(".item-status")).to_have_text("Done.")
    assert page.locator(".transcript").inner_text().strip()


def caption_live(page: Any, speech: Sample) -> None:
    """Let the page show what the microphone hears, until the clip's first word is there."""
    page.get_by_role("button", name="Live captions").click()
    # The microphone may begin anywhere in the clip, which it hears again and again.
    expect(page.get_by_role("log", name="Live captions")).to_contain_text(speech.text.split()[0])


def test_live_captions_show_what_is_said(nano: Server, page: Any, speech: Sample) -> None:
    sockets: list[Any] = []
    kinds: list[str] = []

    def watch(socket: Any) -> None:
        sockets.append(socket)
        socket.on("framereceived", lambda frame: kinds.append(json.loads(frame)["type"]))

    page.on("websocket", watch)
    page.goto(nano.url)
    caption_live(page, speech)
    assert axe.Axe().run(page).violations_count == 0
    [socket] = sockets
    with socket.expect_event("close", timeout=TIMEOUT_MS / 2):  # long before the page would lose its patience
        page.get_by_role("button", name="Stop live captions").click()
    expect(page.get_by_role("button", name="Live captions")).to_have_attribute("aria-pressed", "false")
    n_texts = sum(kind.endswith(".completed") for kind in kinds)
    assert kinds.count("input_audio_buffer.committed") == n_texts > 0
    expect(page.locator("#captions-text .open")).to_have_count(0)


def test_live_captions_where_a_key_is_set(
    start_contract_server: StartServer, nano_cache: Path, page: Any, speech: Sample
) -> None:
    server = start_contract_server(
        *("--model", str(NANO), "--threads", "1"),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
        WHISPER_OFFLINE="true",
        WHISPER_API_KEY=KEY,
    )
    asked: list[str] = []
    sockets: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.goto(server.url)
    page.get_by_label("Key", exact=True).fill(KEY)
    page.get_by_label("Key", exact=True).press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    caption_live(page, speech)
    # The server's own key never stands in an address or a handshake: a short-lived one does.
    assert f"{server.url}/v1/realtime/client_secrets" in asked
    assert sockets == [f"{server.url}/v1/realtime".replace("http", "ws", 1)]


def test_the_first_visit_shows_how_far_the_download_is(
    stand_in: Hub, start_contract_server: StartServer, page: Any, speech: Sample, tmp_path: Path
) -> None:
    stand_in.gate = threading.Semaphore(2)
    server = start_contract_server(
        WHISPER_ENGINE="ctranslate2",
        WHISPER_THREADS="1",
        WHISPER_MODEL=NAME,
        WHISPER_MODELS=f"{NAME}=someone/nano",
        WHISPER_CACHE_DIR=str(tmp_path),
    )
    page.goto(server.url)
    choose(page, speech.name)
    progress = page.get_by_role("progressbar", name="Downloading the model")
    expect(progress).to_be_visible()
    expect(page.locator("#download-text")).to_have_text(re.compile(r"^\d+ of \d+ MB$"))
    assert 0 <= progress.evaluate("bar => bar.value") < 1
    assert axe.Axe().run(page).violations_count == 0
    if PICTURED:
        page.screenshot(path=PICTURES / "first-visit.png")
    stand_in.gate.release(1_000)
    expect(page.locator(".item-status")).to_have_text("Done.")
    expect(progress).to_be_hidden()


def test_a_model_that_cannot_be_had_is_said_where_the_file_is(
    stand_in: Hub, start_contract_server: StartServer, page: Any, speech: Sample, tmp_path: Path
) -> None:
    stand_in.refuse = 404
    server = start_contract_server(
        WHISPER_ENGINE="ctranslate2",
        WHISPER_MODEL=NAME,
        WHISPER_MODELS=f"{NAME}=someone/nano",
        WHISPER_CACHE_DIR=str(tmp_path),
    )
    page.goto(server.url)
    choose(page, speech.name)
    expect(page.locator(".item-status.wrong")).to_be_visible()


def test_a_key_is_asked_for_and_kept_for_the_tab(locked: Server, page: Any, speech: Sample) -> None:
    page.goto(locked.url)
    field = page.get_by_label("Key", exact=True)
    field.fill("wrong")
    field.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    field.fill(KEY)
    field.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    choose(page, speech.name)
    expect(page.locator(".item-status")).to_have_text("Done.")
    page.reload()
    expect(page.locator("#model option").first).to_be_attached()
    assert page.evaluate("localStorage.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (360, 740)])
def test_everybody_can_use_it(
    nano: Server, page: Any, speech: Sample, scheme: str, size: tuple[int, int]
) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(nano.url)
    choose(page, speech.name)
    expect(page.locator(".item-status")).to_have_text("Done.")
    # axe runs as a script of the test's, which the page's own policy would not allow.
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(MOVING) == 0
    if PICTURED and (scheme, size[0]) in {("light", 1280), ("dark", 360)}:
        page.screenshot(path=PICTURES / f"page-{scheme}.png")


def test_a_keyboard_reaches_everything(nano: Server, page: Any, speech: Sample) -> None:
    page.goto(nano.url)
    choose(page, speech.name)
    expect(page.locator(".item-status")).to_have_text("Done.")
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(FOCUSED))
    assert {"files", "record", "live", "language", "model", "format", "save", "AUDIO"} <= reached


def test_other_clients_get_what_they_got(start_contract_server: StartServer, nano: Server) -> None:
    import httpx

    assert httpx.get(nano.url, timeout=60).json()["name"] == "whisper-server"
    reply = httpx.get(nano.url, headers={"accept": "text/html"}, timeout=60)
    assert "script-src 'self'" in reply.headers["content-security-policy"]
    assert "<script>" not in reply.text
    without = start_contract_server(WHISPER_WEB="false")
    plain = httpx.get(without.url, headers={"accept": "text/html"}, timeout=60)
    assert plain.json()["name"] == "whisper-server"
    assert httpx.get(f"{without.url}/web/app.js", timeout=60).status_code == 404
