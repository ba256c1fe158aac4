"""Damage with a plan: number `index` of a run with `seed` is always the same input, on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence

HEADER_BYTES = 200
SIZES = (1, 2, 4, 4, 8)
EDGES = (0, 1, 2, 127, 128, 255, 2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def mutated(seeds: Sequence[bytes], seed: int, index: int) -> bytes:
    """Return a seed with one to eight damages, most of them where headers are."""
    chance = random.Random(f"{seed}/{index}")
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8))):
        chance.choice(DAMAGES)(data, chance, seeds)
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """Pick a position: in the header, in the last bytes, or anywhere."""
    kind = chance.random()
    if kind < 0.6:
        return chance.randrange(min(len(data), HEADER_BYTES) + 1)
    if kind < 0.75:  # the index of an MP4 or AVI is at its end
        return max(0, len(data) - chance.randrange(1, 1200))
    return chance.randrange(len(data) + 1)


def _flip(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    at = _place(data, chance)
    if at < len(data):
        data[at] ^= 1 << chance.randrange(8)


def _noise(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    at = _place(data, chance)
    data[at : at + 8] = chance.randbytes(chance.randrange(1, 9))


def _number(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    """Write an edge of a number's range, or what was there and a little more or less."""
    at, size = _place(data, chance), chance.choice(SIZES)
    order = chance.choice(("little", "big"))
    old = int.from_bytes(data[at : at + size], order)
    value = chance.choice((chance.choice(EDGES), old + chance.choice((-1, 1, 16, -16)), -old, len(data)))
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, order)


def _cut(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    del data[_place(data, chance) :]


def _drop(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 2, 4, 16, 188, 500))]


def _repeat(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    at, size = _place(data, chance), chance.choice((1, 4, 16, 100, 600))
    data[at:at] = data[at : at + size] * chance.choice((1, 2, 20))


def _graft(data: bytearray, chance: random.Random, seeds: Sequence[bytes]) -> None:
    """Put a piece of another file in: boxes, pages and frames where they do not belong."""
    other = bytearray(chance.choice(seeds))
    first = _place(other, chance)
    at = _place(data, chance)
    data[at : at + chance.choice((0, 0, 50))] = other[first : first + chance.choice((8, 64, 400, 3000))]


def _swap(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    at, to, size = _place(data, chance), _place(data, chance), chance.choice((4, 8, 64))
    data[at : at + size], data[to : to + size] = data[to : to + size], data[at : at + size]


DAMAGES = (*[_flip, _noise] * 2, *[_number] * 4, _cut, _drop, _repeat, _graft, _swap)
