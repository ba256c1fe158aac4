"""Who goes for whom: as pure functions, over any memory there can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.services.loaded_models.eviction import Occupant, Room, victims


def there(*sizes: int, held: str = "") -> list[Occupant[str]]:
    return [Occupant(name, size, name not in held) for name, size in zip("abcdefgh", sizes, strict=False)]


@pytest.mark.parametrize(
    ("occupants", "room", "size_bytes", "going"),
    [
        (there(), Room(1), 5, []),
        (there(5), Room(2), 5, []),
        (there(5, 5), Room(2), 5, ["a"]),  # the least recently used
        (there(5, 5, held="a"), Room(2), 5, ["b"]),  # that may go
        (there(5, 5, held="ab"), Room(2), 5, None),
        (there(5, 5), Room(9, 15), 5, []),
        (there(5, 5), Room(9, 14), 5, ["a"]),
        (there(5, 5, 5), Room(9, 15), 10, ["a", "b"]),
        (there(1, 9), Room(9, 10), 10, ["a", "b"]),
        (there(5, 5, held="b"), Room(9, 14), 10, None),  # "a" does not go in vain
        (there(5), Room(9, 10), 11, None),
        (there(5, 5), Room(1, 99), 0, ["a", "b"]),  # the setting was lowered, so to speak
    ],
)
def test_cases(occupants: list[Occupant[str]], room: Room, size_bytes: int, going: list[str] | None) -> None:
    assert victims(occupants, room, size_bytes) == going


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=8),
    st.integers(1, 8),
    st.integers(0, 60),
    st.integers(0, 30),
)
def test_the_rules_hold_for_any_memory(
    occupants: list[tuple[int, bool]], places: int, limit_bytes: int, size_bytes: int
) -> None:
    everybody = [Occupant(index, *one) for index, one in enumerate(occupants)]
    room = Room(places, limit_bytes)
    going = victims(everybody, room, size_bytes)

    def fits_without(gone: set[int]) -> bool:
        left = [one for one in everybody if one.key not in gone]
        return room.holds(len(left) + 1, sum(one.size_bytes for one in left) + size_bytes)

    may_go = [one.key for one in everybody if one.may_go]
    assert (going is not None) == fits_without(set(may_go))
    if going is not None:
        assert going == may_go[: len(going)]  # in order, and none that is held
        assert fits_without(set(going))
        assert not going or not fits_without(set(going[:-1]))  # no more than needed
