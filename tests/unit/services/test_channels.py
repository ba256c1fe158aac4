"""What channels are called, and how many there may be."""

from __future__ import annotations

import pytest

from whisper_server.core.errors import InvalidRequest
from whisper_server.services.channels import check_channels, labels


def test_labels() -> None:
    assert labels((), 3) == ("A", "B", "C")
    assert labels(("Ada",), 3) == ("Ada", "B", "C")
    assert labels(("Ada", "Bob"), 2) == ("Ada", "Bob")
    assert labels(("", "Bob"), 3) == ("A", "Bob", "C")
    assert labels(("B",), 2) == ("B", "A")
    assert labels(("C", ""), 3) == ("C", "B", "A")
    with pytest.raises(InvalidRequest) as caught:
        labels(("Ada", "Bob", "Cy"), 2)
    assert caught.value.param == "known_speaker_names"


@pytest.mark.parametrize("n_channels", [1, 9, 64])
def test_too_few_and_too_many_channels(n_channels: int) -> None:
    with pytest.raises(InvalidRequest, match=f"has (one|{n_channels}) channel") as caught:
        check_channels(n_channels)
    assert caught.value.param == "response_format"
