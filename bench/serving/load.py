"""The load generator, a process of its own: closed loop, open loop, or a probe of /health.

    python -m bench.serving.load http://127.0.0.1:8089 --clips mix --clients 16 --requests 48
    python -m bench.serving.load http://127.0.0.1:8089 --clips mix --rate 1.5 --requests 30 --seed 1
    sleep 5 | python -m bench.serving.load http://127.0.0.1:8089 --probe

Prints one JSON object. In the open loop a request's time runs from when it was due, whether
or not the generator was late (no coordinated omission). Every text is compared with what is said in the
clip. The probe asks every 50 ms until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import httpx

from bench import audio
from bench.audio import Clip
from bench.figures import arrivals_s, word_errors, words

PROBE_EVERY_S = 0.05
ROUTE = "/v1/audio/transcriptions"


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one request."""

    clip: str
    latency_s: float
    status: int  # 0: no answer in time
    wrong_words: int
    n_words: int
    heard: str  # only where it is wrong


@dataclass(frozen=True, slots=True)
class Load:
    """How requests are sent."""

    model: str
    language: bool  # whether clients say which it is
    timeout_s: float


async def send(client: httpx.AsyncClient, clip: Clip, load: Load, due_at: float) -> Reply:
    """Send one clip; its time runs from `due_at`."""
    form = {"model": load.model, **({"language": clip.language} if load.language else {})}
    files = {"file": (f"{clip.name}.wav", clip.data, "audio/wav")}
    status, heard = 0, ""
    try:
        posted = client.post(ROUTE, data=form, files=files)
        response = await asyncio.wait_for(posted, load.timeout_s)
        status = response.status_code
        heard = response.json()["text"] if status == 200 else ""
    except (TimeoutError, httpx.HTTPError):
        pass
    latency_s = time.perf_counter() - due_at
    n_wrong = word_errors(clip.text, heard) if status == 200 else 0
    return Reply(clip.name, latency_s, status, n_wrong, len(words(clip.text)), heard if n_wrong else "")


async def closed(
    client: httpx.AsyncClient, clips: Iterator[Clip], load: Load, n_clients: int, n_requests: int
) -> list[Reply]:
    """Let clients send one after the other until `n_requests` are sent; return what became of them."""
    left = iter(range(n_requests))
    replies: list[Reply] = []

    async def one() -> None:
        for _ in left:
            reply = await send(client, next(clips), load, time.perf_counter())
            replies.append(reply)

    await asyncio.gather(*(one() for _ in range(n_clients)))
    return replies


async def opened(
    client: httpx.AsyncClient, clips: Iterator[Clip], load: Load, due_s: Sequence[float]
) -> list[Reply]:
    """Send requests when they are due, however many are under way."""
    start, tasks = time.perf_counter(), list[asyncio.Task[Reply]]()
    for at_s in due_s:
        await asyncio.sleep(max(0.0, start + at_s - time.perf_counter()))
        tasks.append(asyncio.create_task(send(client, next(clips), load, start + at_s)))
    return list(await asyncio.gather(*tasks))


async def probe(client: httpx.AsyncClient) -> list[float]:
    """Ask /health at fixed intervals; return the times, from when each was due."""
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    start, times = time.perf_counter(), list[float]()
    for number in itertools.count():
        due_at = start + number * PROBE_EVERY_S
        await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
        if ended.done():
            return times
        (await client.get("/health")).raise_for_status()
        times.append(time.perf_counter() - due_at)
    raise AssertionError


async def run(args: argparse.Namespace) -> dict[str, object]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=args.url, timeout=None, limits=limits, trust_env=False) as client:
        if args.probe:
            return {"probe_s": await probe(client)}
        kinds: dict[str, Callable[[], list[Clip]]] = {
            "mix": audio.mix,
            "short": lambda: [audio.short()],
            "window": lambda: [audio.window()],
        }
        chosen = kinds[args.clips]() if args.clips in kinds else [audio.long(args.minutes)]
        offset = args.seed % len(chosen)
        clips = itertools.cycle([*chosen[offset:], *chosen[:offset]])
        load = Load(args.model, args.language, args.timeout)
        start, busy_s = time.perf_counter(), time.process_time()
        if args.rate:
            due_s = arrivals_s(args.rate, args.requests, args.seed)
            replies = await opened(client, clips, load, due_s)
        else:
            replies = await closed(client, clips, load, args.clients, args.requests)
        times = {"wall_s": time.perf_counter() - start, "processor_s": time.process_time() - busy_s}
        return {**times, "replies": [asdict(reply) for reply in replies]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--model", default="whisper-1", help="the name that is sent")
    parser.add_argument("--clips", default="mix", choices=("mix", "short", "window", "long"))
    parser.add_argument("--minutes", type=float, default=10.0, help="of the long clip")
    parser.add_argument("--language", action="store_true", help="say the language of each clip")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0: closed loop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that a client waits")
    parser.add_argument("--probe", action="store_true", help="ask /health instead")
    json.dump(asyncio.run(run(parser.parse_args())), sys.stdout)


if __name__ == "__main__":
    main()
