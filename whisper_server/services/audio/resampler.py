"""Decoded frames of any rate, format and layout -> float32 at 16 kHz, mixed or by channel, by libswresample.

Must not know where the frames come from. Samples are bytes: NumPy is left to what needs numbers.
Libav's filter graph is used directly, because `av.AudioResampler` starts a pool of threads per file and
cannot be told how to mix channels.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from whisper_server.core.errors import InvalidAudio
from whisper_server.core.types import SAMPLE_RATE

if TYPE_CHECKING:
    from typing import TypeAlias

    import av
    from av.filter import Graph

    Channel: TypeAlias = int | Literal["mix", "each"]  # one of them, all as one, or all side by side

# Outside of these a header is forged or broken: at 1 Hz one packet would swell to hours of output.
MIN_RATE_HZ = 2_000
MAX_RATE_HZ = 768_000
MAX_CHANNELS = 64  # of libswresample
QUEUED_SAMPLES = 1 << 18  # samples x channels pushed between two pulls: 1 MB of float, 5 s at 48 kHz mono
QUEUED_FRAMES = 512  # a frame of one sample takes a kilobyte
PULLED_SAMPLES = SAMPLE_RATE  # 1 s per array, not the 20 ms of a codec's frame


def check_source(rate_hz: int, channels: int) -> None:
    """Refuse what no recording has.

    Raises:
        InvalidAudio: the sample rate or the number of channels is absurd.
    """
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise InvalidAudio(
            f"Unsupported sample rate: {rate_hz} Hz (supported: {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz)."
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidAudio(f"Unsupported number of channels: {channels} (supported: 1 to {MAX_CHANNELS}).")


class Piece(NamedTuple):
    """Samples of a stretch of the file: of one channel, of each beside the others, or of the mix of them.

    A mix of several channels has them beside it, for one who notices that they cancel.
    """

    n_channels: int  # in `data`; of a mix with c channels beside it: 1 + c
    # float32 at 16 kHz; not looked at, so it may hold what is no number. [n, n_channels]; with channels
    # beside a mix: the mix [n], the channels [n, c], and the gain of each in the mix [c].
    data: bytes


class Resampler:
    """Converts the frames of one stream; a change of their format in mid-stream is no problem.

    Libav errors pass through: the caller knows whether they are the end of the file.
    """

    def __init__(self, channel: Channel = "mix", on_graph: Callable[[], None] = lambda: None) -> None:
        """Call `on_graph` before a filter graph is made; what it raises, `push` raises."""
        self._channel: Channel = channel
        self._on_graph = on_graph
        self._graph: Graph | None = None
        self._beside: Graph | None = None  # all channels, beside a mix of several
        self._gains = b""  # float32, of each of them in the mix
        self._source: tuple[int, str, str] | None = None
        self._queued = 0
        self._queued_frames = 0
        self._n_channels = 0
        self._made = 0  # samples of the output so far

    def push(self, frame: av.AudioFrame) -> Iterator[Piece]:
        """Take a frame; yield samples where enough has come together.

        Raises:
            InvalidAudio: the frame's sample rate or number of channels is absurd, or lacks the channel.
        """
        source = (frame.sample_rate, frame.format.name, frame.layout.name)
        if self._graph is None or source != self._source:
            yield from self.flush()
            check_source(frame.sample_rate, frame.layout.nb_channels)
            self._on_graph()
            self._graph, self._source = _graph(frame, self._channel), source
            self._n_channels = frame.layout.nb_channels
            if self._channel == "mix" and self._n_channels > 1:
                self._beside, self._gains = _graph(frame, "each"), _gains(frame)
        frame.pts = None  # when it is heard is the caller's business (`silence`)
        self._graph.push(frame)
        if self._beside is not None:
            self._beside.push(frame)
        self._queued += frame.samples * frame.layout.nb_channels
        self._queued_frames += 1
        if self._queued >= QUEUED_SAMPLES or self._queued_frames >= QUEUED_FRAMES:
            yield from self._pull(self._graph, self._beside)

    def flush(self) -> Iterator[Piece]:
        """Yield what is left; the next frame starts afresh."""
        graph, self._graph = self._graph, None
        beside, self._beside = self._beside, None
        if graph is not None:
            graph.push(None)
            if beside is not None:
                beside.push(None)
            yield from self._pull(graph, beside)

    def silence(self, until: int, n_channels: int) -> Iterator[Piece]:
        """Yield silence up to a sample of the output, after a flush, a second at a time."""
        n_channels = n_channels if self._channel == "each" else 1
        while (n_samples := min(until - self._made, PULLED_SAMPLES)) > 0:
            self._made += n_samples
            yield Piece(n_channels, bytes(4 * n_samples * n_channels))

    def _pull(self, graph: Graph, beside: Graph | None) -> Iterator[Piece]:
        """Yield what has come together; both graphs make as many samples of the same frames."""
        self._queued = self._queued_frames = 0
        n_channels = self._n_channels if self._channel == "each" else 1
        while data := _pulled(graph, n_channels):
            self._made += len(data) // (4 * n_channels)
            if beside is None:
                yield Piece(n_channels, data)
            else:
                planes = _pulled(beside, self._n_channels).ljust(self._n_channels * len(data), b"\0")
                yield Piece(1 + self._n_channels, data + planes + self._gains)


def _pulled(graph: Graph, n_channels: int) -> bytes:
    """Return the next second of samples; empty where the graph has no more now."""
    while True:
        try:
            frame = cast("av.AudioFrame", graph.pull())
        except (BlockingIOError, EOFError):  # libav's "give me more" and "that was all"
            return b""
        # A plane may be longer than its samples.
        if data := bytes(memoryview(frame.planes[0])[: 4 * frame.samples * n_channels]):
            return data


def live_graph(frame: av.AudioFrame) -> Graph:
    """Build the graph of a live source: as that of a file, but each frame comes out as soon as it can."""
    return _graph(frame, "mix", frame_samples=0)


def _graph(frame: av.AudioFrame, channel: Channel, frame_samples: int = PULLED_SAMPLES) -> Graph:
    """Build abuffer -> [pan ->] aresample -> aformat -> abuffersink for frames like this one."""
    from av.filter import Graph  # noqa: PLC0415  (PyAV is loaded with the first file)

    graph = Graph()
    if hasattr(graph, "threads"):  # older PyAV keeps a pool of idle threads per file instead
        graph.threads = 1  # before the first filter: the caller's pool bounds the CPU
    n_channels = frame.layout.nb_channels
    source = {
        "sample_rate": str(frame.sample_rate),
        "sample_fmt": frame.format.name,
        "channel_layout": frame.layout.name,
        "time_base": f"1/{frame.sample_rate}",
    }
    chain = [graph.add("abuffer", **source)]
    if isinstance(channel, int):
        if channel >= n_channels:
            raise InvalidAudio("The number of channels changes within the recording.")
        chain.append(graph.add("pan", f"mono|c0=c{channel}"))
    elif channel == "mix" and not _has_positions(frame.layout.name):
        # No channel is known to be the centre: all count the same ("<" makes the sum 1).
        terms = "+".join(f"c{each}" for each in range(n_channels))
        chain.append(graph.add("pan", f"mono|c0<{terms}"))
    # rematrix_maxval=1: the gains of a downmix add up to 1, so it never clips (float would allow 1.4).
    chain.append(graph.add("aresample", f"{SAMPLE_RATE}:rematrix_maxval=1.0"))
    # Channels side by side come interleaved: PyAV reads past the end of 8 planes or more, and crashes.
    formats = {"sample_fmts": "flt", "sample_rates": str(SAMPLE_RATE)}
    if channel != "each":
        formats["channel_layouts"] = "mono"
    chain.append(graph.add("aformat", **formats))
    chain.append(graph.add("abuffersink"))
    for left, right in pairwise(chain):
        left.link_to(right)
    graph.configure()
    if frame_samples:
        graph.set_audio_frame_size(frame_samples)
    return graph


def _gains(like: av.AudioFrame) -> bytes:
    """Return by how much each channel of such frames counts in their mix, float32 [n_channels].

    Libswresample does not tell the matrix of a layout, so a sample of 1 in each channel goes through it.
    """
    import av  # noqa: PLC0415

    n_channels = like.layout.nb_channels
    frame = av.AudioFrame("flt", like.layout.name, n_channels)
    frame.sample_rate = SAMPLE_RATE
    ones = array("f", bytes(4 * n_channels * n_channels))
    for each in range(n_channels):
        ones[each * n_channels + each] = 1.0
    frame.planes[0].update(bytes(ones).ljust(frame.planes[0].buffer_size, b"\0"))
    graph = _graph(frame, "mix")
    graph.push(frame)
    graph.push(None)
    return _pulled(graph, 1)


def _has_positions(layout_name: str) -> bool:
    """Tell whether libav knows where the channels are: "stereo", "5.1(side)", not "9 channels"."""
    return "channels" not in layout_name and not layout_name.startswith("ambisonic")
