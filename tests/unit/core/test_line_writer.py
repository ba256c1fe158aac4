"""The log's queue: who logs never waits, what is lost is counted and told, and the end never hangs."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import ROOT
from whisper_server.core.logging import LineFormatter, WriterHandler
from whisper_server.core.system.line_writer import LineStream, LineWriter, line_bytes, writer_to

PATIENCE_S = 30


class Sink:
    """Writes to a list once its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.has_begun = threading.Event()
        self.lines: list[bytes] = []
        self.failure: Exception | None = None

    def write(self, line: bytes) -> None:
        self.has_begun.set()
        assert self.gate.wait(PATIENCE_S)
        if self.failure is not None:
            raise self.failure
        self.lines.append(line)


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.gate.set()


def writer_of(sink: Sink, max_lines: int = 4, max_bytes: int = 1000) -> LineWriter:
    return LineWriter(sink.write, lambda n: b"%d missing" % n, max_lines, max_bytes)


def test_lines_come_in_order(sink: Sink) -> None:
    writer = writer_of(sink, max_lines=1000, max_bytes=10_000)
    sink.gate.set()
    lines = [b"%d" % i for i in range(1000)]
    for line in lines:
        writer.put(line)
    assert writer.flush(PATIENCE_S)
    assert sink.lines == lines
    assert writer.n_dropped == 0


def test_the_end_writes_the_rest_and_ends_the_thread(sink: Sink) -> None:
    before = set(threading.enumerate())
    writer = writer_of(sink)
    (thread,) = set(threading.enumerate()) - before
    writer.put(b"last")
    writer.close(0.01)  # blocked: the thread is left to its write
    assert thread.is_alive()
    sink.gate.set()
    writer.close(PATIENCE_S)
    assert not thread.is_alive()
    assert sink.lines == [b"last"]


def test_a_full_queue_drops_counts_and_says_so_where_the_lines_are_missing(sink: Sink) -> None:
    writer = writer_of(sink)
    for i in range(10):
        writer.put(b"%d" % i)
    assert writer.n_dropped == 6
    sink.gate.set()
    assert writer.flush(PATIENCE_S)
    writer.put(b"next")
    assert writer.flush(PATIENCE_S)
    assert sink.lines == [b"0", b"1", b"2", b"3", b"6 missing", b"next"]
    assert writer.n_dropped == 6


def test_the_queue_is_bounded_in_bytes(sink: Sink) -> None:
    writer = writer_of(sink, max_lines=1000, max_bytes=100)
    for _ in range(10):
        writer.put(b"x" * 30)
    assert writer.n_dropped == 7
    sink.gate.set()
    assert writer.flush(PATIENCE_S)
    assert sink.lines == [b"x" * 30] * 3 + [b"7 missing"]


def test_a_line_longer_than_the_queue(sink: Sink) -> None:
    writer = writer_of(sink)
    sink.gate.set()
    writer.put(b"x" * 1001)
    writer.put(b"next")
    assert writer.flush(PATIENCE_S)
    assert sink.lines == [b"1 missing", b"next"]


def test_a_flush_ends_although_nobody_reads(sink: Sink) -> None:
    writer = writer_of(sink)
    writer.put(b"line")
    assert not writer.flush(0.0)
    assert sink.has_begun.wait(PATIENCE_S)
    assert not writer.flush(0.01)


@pytest.mark.parametrize("failure", [BrokenPipeError(), OSError(28, "full"), ValueError("closed")])
def test_what_cannot_be_written_is_counted_and_the_next_line_is_tried(sink: Sink, failure: Exception) -> None:
    writer = writer_of(sink)
    sink.gate.set()
    sink.failure = failure
    writer.put(b"lost")
    assert writer.flush(PATIENCE_S)
    sink.failure = None
    writer.put(b"next")
    assert writer.flush(PATIENCE_S)
    assert (sink.lines, writer.n_dropped) == ([b"next"], 1)


def test_many_threads_lose_nothing_uncounted(sink: Sink) -> None:
    writer = writer_of(sink, max_lines=50)
    sink.gate.set()

    def put(name: int) -> None:
        for i in range(500):
            writer.put(b"%d %d" % (name, i))

    threads = [threading.Thread(target=put, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert writer.flush(PATIENCE_S)
    missing = [int(line.split()[0]) for line in sink.lines if line.endswith(b"missing")]
    assert sum(missing) == writer.n_dropped
    assert len(sink.lines) - len(missing) + writer.n_dropped == 2000
    for name in range(4):
        mine = [
            int(line.split()[1])
            for line in sink.lines
            if line.startswith(b"%d " % name) and line[-1:] != b"g"
        ]
        assert mine == sorted(mine)


def test_a_line_that_is_put_while_another_is(sink: Sink) -> None:
    """As by a finalizer that the garbage collector calls in the middle of a `put`."""
    sink.gate.set()
    writer: LineWriter

    class Line(bytes):
        def __len__(self) -> int:
            if not nested:
                nested.append(True)
                writer.put(b"inner")
            return super().__len__()

    nested: list[bool] = []
    writer = writer_of(sink)
    writer.put(Line(b"outer"))
    assert writer.flush(PATIENCE_S)
    assert sorted(sink.lines) == [b"inner", b"outer"]


def test_records_are_formatted_where_they_are_logged(sink: Sink) -> None:
    handler = WriterHandler(writer_of(sink), str.encode)
    handler.setFormatter(LineFormatter())
    changing = ["before"]
    handler.handle(logging.LogRecord("n", logging.INFO, "", 1, "%s\n", (changing,), None))
    changing[0] = "after"
    sink.gate.set()
    handler.flush()
    (line,) = sink.lines
    assert line.endswith(b"INFO n ['before']\\n\n")


def test_what_is_printed_goes_line_by_line() -> None:
    put: list[str] = []
    stream = LineStream(io.TextIOWrapper(io.BytesIO(), encoding="ascii"), put.append)
    print("a", 1, file=stream)
    print("b\nc\nd", end="", file=stream)
    assert put == ["a 1\n", "b\nc\n"]
    stream.flush()
    stream.flush()
    assert put[2:] == ["d"]
    stream.write("x" * 10_000)  # it would grow until the line ends
    assert put[3:] == ["x" * 10_000]
    assert stream.encoding == "ascii"
    assert not stream.isatty()


def test_what_the_encoding_lacks_is_escaped() -> None:
    assert line_bytes(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"), "é€\n") == b"\xe9\\u20ac" + (
        os.linesep.encode()
    )


def test_streams_without_a_descriptor() -> None:
    text = io.StringIO()
    writer_to(text)(b"line\n")
    assert text.getvalue() == "line\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
def test_a_pipe_that_is_set_not_to_block_is_waited_for() -> None:
    reader, descriptor = os.pipe()
    os.set_blocking(descriptor, False)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream, os.fdopen(reader, "rb") as read:
        line = b"x" * 300_000 + b"\n"
        thread = threading.Thread(target=writer_to(stream), args=(line,))
        thread.start()
        assert read.readline() == line
        thread.join(PATIENCE_S)


LOGGING = """
    import logging, os, sys
    from whisper_server.core.logging import configure_logging, dropped_lines, flush_log
    from whisper_server.core.system.process import ensure_streams, leave
    ensure_streams()
    configure_logging("INFO")
    log = logging.getLogger("n")
"""


@pytest.fixture
def script() -> Callable[..., list[str]]:
    def make(code: str) -> list[str]:
        return [sys.executable, "-c", textwrap.dedent(LOGGING) + textwrap.dedent(code)]

    return make


Script = Callable[[str], list[str]]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=60, check=False, **options
    )


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("sys.exit(3)", 3),
        ("leave(3)", 3),
        ("import threading; threading.Thread(target=threading.Event().wait, name='whisper-x',"
         " daemon=True).start(); leave(3)", 3),
        ("1 / 0", 1),
        ("pass", 0),
    ],
)  # fmt: skip
def test_nothing_is_lost_at_the_end(script: Script, end: str, code: int) -> None:
    done = run(
        script(f"for i in range(3000): log.info('line %d', i)\nprint('printed', file=sys.stderr)\n{end}")
    )
    assert done.returncode == code
    lines = done.stderr.splitlines()
    assert [line.split()[-1] for line in lines[:3000]] == [str(i) for i in range(3000)]
    assert lines[3000] == "printed"
    assert ("ZeroDivisionError" in done.stderr) == (end == "1 / 0")


@pytest.mark.parametrize("end", ["sys.exit(3)", "leave(3)", "1 / 0"])
def test_a_pipe_that_nobody_reads_delays_the_end_by_a_moment(script: Script, end: str) -> None:
    code = f"""
        for i in range(30_000): log.info('line %d', i)
        assert dropped_lines() > 10_000
        print("printed", file=sys.stderr, flush=True)
        os.write(1, b'x')
        {end}
    """
    with subprocess.Popen(script(code), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        assert process.wait(10) == (1 if "/" in end else 3)


def test_a_reader_who_comes_late_is_told_how_much_is_missing(script: Script) -> None:
    code = """
        for i in range(30_000): log.info('line %d', i)
        os.write(1, b'x')
        sys.stdin.read()
        flush_log()
        log.info('line 30000')
    """
    with subprocess.Popen(
        script(code), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        _, written = process.communicate(timeout=60)
    lines = re.findall(r" INFO n line (\d+)$", written.decode(), re.MULTILINE)
    told = re.findall(r" WARNING whisper_server.core.logging (\d+) lines of the log were", written.decode())
    assert [int(line) for line in lines[:-1]] == list(range(len(lines) - 1))
    assert lines[-1] == "30000"
    assert len(lines) + sum(map(int, told)) == 30_001


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pipe cannot be opened twice")
def test_native_code_does_not_wait_for_a_reader_either(script: Script) -> None:
    code = """
        import faulthandler, signal
        assert os.get_blocking(2) != os.get_blocking(1)  # the parent's end of the same pipe
        faulthandler.enable(2)
        while not dropped_lines():
            log.info('x' * 1000)
        os.kill(os.getpid(), signal.SIGSEGV)  # which first says where it happened
    """
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "wb") as end:
        done = subprocess.run(script(code), cwd=ROOT, stdout=end, stderr=end, timeout=20, check=False)
        assert done.returncode == -signal.SIGSEGV
        assert os.get_blocking(end.fileno())
        assert pipe.read1().startswith(b"20")


def test_a_pipe_that_is_closed_is_no_reason_to_end(script: Script) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "for i in range(100): log.info('line %d', i)\nflush_log(); sys.exit(dropped_lines() == 100 and 5)"
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(script(code), cwd=ROOT, stderr=closed, timeout=60, check=False)
    assert done.returncode == 5


def test_no_standard_error_at_all(script: Script) -> None:
    code = "for i in range(100): log.info('line %d', i)\nflush_log(); sys.exit(dropped_lines() == 0 and 5)"
    command = "import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", command, *script(code)[1:]], cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 5


def test_unbuffered_and_not_unbuffered_is_the_same(script: Script) -> None:
    python, *rest = script("log.info('line')")
    assert run([python, "-u", *rest]).stderr.endswith(" INFO n line\n")


def test_an_end_of_descriptors_does_not_end_the_log(script: Script) -> None:
    pytest.importorskip("resource")
    code = """
        import asyncio, resource  # as the server has it, with what a traceback needs
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        try: open(os.devnull)
        except OSError: log.exception('\\x1b')
    """
    done = run(script(code))
    assert done.returncode == 0
    assert " ERROR n \\x1b\n    Traceback " in done.stderr
    assert "Too many open files" in done.stderr
    assert "Logging error" not in done.stderr
