"""What `realtime` measures, on a clock that only decodes turn: the same on a busy machine as on a quiet one.

    python -m bench.experiments.realtime_replay RECORDINGS MODEL [--sessions 1 2 4 8] [--seconds 45]

Everything but the clock and the cores is the server's: sessions, voice detection, the pipeline, the model.
Each decode is made alone, on one thread, and its processor time is measured; then as much work is done on
two cores of the replay, shared with the decodes of the other sessions. So sound comes in at its own speed
however long the machine takes. What is left out costs next to nothing beside a decode: sockets, and voice
detection of what comes in (1.4 ms a second of sound).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import math
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.figures import table
from bench.live import HEADER, PIECE_S, RATE, Joint, Listener, Turn, joints, row, settings
from whisper_server.core.config import Settings
from whisper_server.services.container import Services, open_services
from whisper_server.services.realtime.agreement import Agreement, Phrase
from whisper_server.services.realtime.configuration import SessionConfig
from whisper_server.services.realtime.conversation import Conversation, Means
from whisper_server.services.realtime.params import params_of
from whisper_server.services.realtime.session import Session
from whisper_server.services.realtime.turn_decoder import TurnDecoder

if TYPE_CHECKING:
    from whisper_server.core.types import Samples, TranscribeParams, Transcript
    from whisper_server.services.realtime.drafts import Stretch
    from whisper_server.services.realtime.work import Partial

CORES = 2
# Of a lone decode with both cores: 0.78 s of processor time took 0.48 s (bench/experiments/workers.md).
LONE_SPEED = 1.6
STAGGER_S = 0.37  # between the beginnings of sessions
HOLDS_S = (math.inf, 0.7, 0.5, 0.4, 0.3, 0.2)  # for the comparison of rules


class ReplayLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: its clock jumps to the next moment with something to do."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._wait: Callable[[float | None], Any] = self._selector.select  # type: ignore[attr-defined]
        self._selector.select = self._jump  # type: ignore[attr-defined]

    def time(self) -> float:
        """Return the seconds that were replayed so far."""
        return self._now_s

    def _jump(self, timeout_s: float | None) -> Any:
        if timeout_s is None:
            return self._wait(None)
        self._now_s += timeout_s
        return self._wait(0)


@dataclass(eq=False)
class Call:
    """A decode on the replayed cores."""

    left_s: float  # of processor time
    done: asyncio.Future[None]


class Cores:
    """Runs up to CORES decodes at once, the others after them in the order in which they came."""

    def __init__(self) -> None:
        self.busy_s = 0.0  # processor time
        self._waiting: list[Call] = []
        self._running: list[Call] = []
        self._since_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, work_s: float, *, goes_first: bool) -> None:
        """Do so much work; where this is cancelled before it begins it is not done, later it is."""
        call = Call(work_s, asyncio.get_running_loop().create_future())
        self._waiting.insert(0 if goes_first else len(self._waiting), call)
        self._turn()
        try:
            await call.done
        finally:
            if call in self._waiting:
                self._waiting.remove(call)

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        speed = LONE_SPEED if len(self._running) == 1 else 1.0
        for call in self._running:
            call.left_s -= speed * (loop.time() - self._since_s)
        self._since_s = loop.time()
        for call in [each for each in self._running if each.left_s <= 1e-9]:
            self._running.remove(call)
            if not call.done.done():
                call.done.set_result(None)
        while self._waiting and len(self._running) < CORES:
            self._running.append(self._waiting.pop(0))
            self.busy_s += self._running[-1].left_s
        if self._timer:
            self._timer.cancel()
        if self._running:
            speed = LONE_SPEED if len(self._running) == 1 else 1.0
            left_s = min(call.left_s for call in self._running) / speed
            self._timer = loop.call_later(left_s, self._turn)


class Workshop:
    """The real services, on an event loop of their own."""

    def __init__(self, model: Path) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self._opened = open_services(
            Settings(engine="auto", model=str(model.resolve()), offline=True, threads=1)
        )
        self.services: Services = self.do(self._opened.__aenter__())

    def do(self, work: Any) -> Any:
        """Do it there, and wait for it here."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        """Unload the model."""
        self.do(self._opened.__aexit__(None, None, None))


class ReplayedDecoder:
    """Decodes really, and takes as long as that much work takes on the replayed cores."""

    def __init__(self, workshop: Workshop, cores: Cores) -> None:
        self._workshop = workshop
        self._cores = cores
        services = workshop.services
        self._decoder = TurnDecoder(services.transcriber, services.models)

    async def turn(self, samples: Samples, params: TranscribeParams) -> Transcript:
        """Decode a whole turn."""
        return await self._replayed(self._decoder.turn(samples, params), goes_first=True)

    async def draft(self, samples: Samples, params: TranscribeParams) -> Transcript:
        """Decode an open turn."""
        return await self._replayed(self._decoder.draft(samples, params), goes_first=False)

    async def early(self, samples: Samples, params: TranscribeParams) -> Transcript:
        """Decode what may be a whole turn."""
        return await self._replayed(self._decoder.early(samples, params), goes_first=False)

    async def give_back(self) -> None:
        """Let the model go."""
        self._workshop.do(self._decoder.give_back())

    async def _replayed(self, work: Awaitable[Transcript], *, goes_first: bool) -> Transcript:
        began_s = time.process_time()
        made: Transcript = self._workshop.do(work)
        await self._cores.run(time.process_time() - began_s, goes_first=goes_first)
        return made


class AtOnce:
    """A work pool whose work takes no time of the replay."""

    async def run(self, function: Callable[..., Any], *args: object) -> Any:
        """Call the function."""
        return function(*args)


class RecordedSession(Session):
    """A session that keeps what came of its drafts."""

    def __init__(self, services: Services) -> None:
        numbers = itertools.count()
        super().__init__(
            SessionConfig(),
            partial(params_of, catalog=services.catalog),
            new_id=lambda prefix: f"{prefix}_{next(numbers)}",
            expires_at=0,
        )
        self.drafts: list[tuple[float, Stretch, Sequence[Phrase]]] = []  # seconds on the replay's clock

    def heard_partial(self, partial: Partial, phrases: Sequence[Phrase] | None, took_s: float) -> None:
        """Take a decode of the open turn."""
        if phrases is not None and not partial.stretch.is_whole:
            self.drafts.append((asyncio.get_running_loop().time(), partial.stretch, phrases))
        super().heard_partial(partial, phrases, took_s)


@dataclass
class Replay:
    """One session of the replay."""

    joint: Joint
    starts_s: float
    session: RecordedSession
    listener: Listener = field(default_factory=Listener)

    async def run(self, workshop: Workshop, cores: Cores) -> None:
        """Say the joint at its own speed."""
        services = workshop.services
        await asyncio.sleep(self.starts_s)
        with services.admission.enter() as slot:
            decoder = ReplayedDecoder(workshop, cores)
            means = Means(decoder, AtOnce(), services.metrics, slot, self._take)  # type: ignore[arg-type]
            await Conversation(self.session, means).run(self._events())

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        yield settings()
        for piece in self.joint.pieces():
            await asyncio.sleep(PIECE_S)
            yield {"type": "input_audio_buffer.append", "audio": base64.b64encode(piece).decode()}
        yield {"type": "input_audio_buffer.clear"}

    async def _take(self, event: dict[str, Any]) -> None:
        self.listener.take(event, asyncio.get_running_loop().time() - self.starts_s)

    def shown_by(self, hold_s: float) -> list[Turn]:
        """Return the turns as they would be if attention had to be so long before the end of the sound.

        A turn of which something was left out, because it had been shown, is as it was.
        """
        drafts = self.session.drafts
        long = {stretch.item_id for _, stretch, _ in drafts if stretch.start_s}
        found = []
        for item, turn in self.listener.items:
            mine = [(at_s - self.starts_s, each, said) for at_s, each, said in drafts if each.item_id == item]
            if item in long:
                found.append(turn)
                continue
            other, agreement = Turn(turn.end_s, final=turn.final), Agreement()
            for at_s, stretch, said in mine:
                if agreement.add(said, (stretch.end - stretch.start) / RATE - hold_s):
                    other.shown.append((at_s, agreement.shown))
            other.draft = next((text for at_s, text in reversed(other.shown) if at_s <= turn.end_s), "")
            found.append(other)
        return found


async def upload(services: Services, joint: Joint) -> None:
    """Let the pipeline say what it hears when it has all of the sound."""
    config = SessionConfig().updated({"audio": {"input": {"transcription": {"language": "en"}}}})
    params = replace(params_of(config, services.catalog), word_timestamps=True)
    transcript = await services.transcriber.open_samples(joint.samples, params).collect()
    joint.text = transcript.text
    joint.word_ends_s = [word.end_s for segment in transcript.segments for word in segment.words]


def replayed(workshop: Workshop, found: list[Joint]) -> tuple[list[str], list[list[str]]]:
    """Replay one session for each joint, all at once.

    Returns a line of the table, and lines of the one that compares the rules for what is shown.
    """
    replays = [
        Replay(joint, number * STAGGER_S, RecordedSession(workshop.services))
        for number, joint in enumerate(found)
    ]
    cores = Cores()

    async def all_of_them() -> None:
        await asyncio.gather(*(each.run(workshop, cores) for each in replays))

    loop = ReplayLoop()
    try:
        loop.run_until_complete(all_of_them())
    finally:
        loop.close()
    sound_s = max(joint.duration_s for joint in found)
    busy = f"{100 * cores.busy_s / CORES / sound_s:.0f} %"
    line = [*row(len(found), [(each.joint, each.listener.turns) for each in replays]), busy]
    rules = [
        [
            f"{hold_s:g} s" if hold_s < math.inf else "agreement alone",
            *row(len(found), [(each.joint, each.shown_by(hold_s)) for each in replays]),
        ]
        for hold_s in HOLDS_S
    ]
    return line, rules


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=45.0, help="of sound in each session")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("WHISPER_CACHE_DIR", folder)
        workshop = Workshop(options.model)
        found = joints(options.recordings, max(options.sessions), options.seconds)
        for joint in found:
            workshop.do(upload(workshop.services, joint))
        results = [replayed(workshop, found[:count]) for count in options.sessions]
        workshop.close()
    print(table([*HEADER, "cores busy"], [line for line, _ in results]))
    print(table(["shown before the end", *HEADER], [line for _, rules in results for line in rules]))


if __name__ == "__main__":
    main()
