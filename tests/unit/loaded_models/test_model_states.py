"""Any order of requests, unloads, failures and the end: hypothesis looks for the one that breaks the manager.

The models have the fake engine. Loads run on the manager's threads and wait at a gate until a rule opens it,
so requests, unloads and the end also meet models that are on their way.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from whisper_server.core.config import Settings
from whisper_server.core.errors import ModelNotFound, ModelUnavailable, ShuttingDown, Unavailable
from whisper_server.core.types import ModelSource
from whisper_server.services.engines.base import EngineSpec
from whisper_server.services.engines.registry import load_engine
from whisper_server.services.loaded_models.loader import WhisperModel
from whisper_server.services.model_files.catalog import Catalog
from whisper_server.services.model_manager import Lease, ModelManager

LIMIT_S = 60.0  # ends a hang; no test waits for it
NAMES = st.sampled_from(["a", "b", "c", "alias"])
MAX_MODELS = 2


class Manager(RuleBasedStateMachine):
    """Every request gets an open model or one of our errors, and in the end nothing is left."""

    def __init__(self) -> None:
        super().__init__()
        names = "a=x/a,b=x/b,c=x/c,alias=x/a"
        self.catalog = Catalog(Settings(_env_file=None, models=names))
        self.manager = ModelManager(self.load, MAX_MODELS, room_timeout_s=0.0)
        self.callers = ThreadPoolExecutor(64)
        self.gate = threading.Event()
        self.gate.set()
        self.is_failing = self.has_failed = False
        self.made: list[WhisperModel] = []
        self.closed: list[WhisperModel] = []
        self.leases: list[Lease[WhisperModel]] = []
        self.waiting: list[Future[Lease[WhisperModel]]] = []

    def load(self, source: ModelSource) -> WhisperModel:
        assert self.gate.wait(LIMIT_S)
        if self.is_failing:
            self.has_failed = True
            raise OSError("no such disk")
        model = WhisperModel(
            source.name, lambda: load_engine(Path("unused"), EngineSpec("fake"), Path("unused"))
        )
        close = model.close

        def closing() -> None:
            assert model not in self.closed
            self.closed.append(model)
            close()

        model.close = closing  # type: ignore[method-assign]
        self.made.append(model)
        return model

    @rule(name=NAMES)
    def ask(self, name: str) -> None:
        """With the gate open the answer is there at once; else the caller waits for it."""
        caller = self.callers.submit(self.manager.acquire, self.catalog.resolve(name))
        self.waiting.append(caller)
        if self.gate.is_set():
            self.collect()

    @rule()
    def ask_for_what_nobody_has(self) -> None:
        try:
            self.manager.acquire(self.catalog.resolve("../../etc/passwd"))
        except ModelNotFound:
            return
        raise AssertionError

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1))).release()

    @rule(name=NAMES)
    def unload(self, name: str) -> None:
        self.manager.unload(self.catalog.resolve(name))

    @rule(is_failing=st.booleans())
    def break_or_mend_the_disk(self, is_failing: bool) -> None:
        self.is_failing = is_failing

    @rule()
    def hold_loads(self) -> None:
        self.gate.clear()

    @rule()
    def let_loads_go_on(self) -> None:
        self.gate.set()
        self.collect()

    @precondition(lambda self: not self.manager.shutdown.is_draining)
    @rule(is_near=st.integers(0, 9))
    def drain(self, is_near: int) -> None:
        if is_near == 0:  # an end at every tenth step would leave little to see
            self.manager.drain()

    def collect(self) -> None:
        """Take what the waiting callers have got."""
        waiting, self.waiting = self.waiting, []
        for caller in waiting:
            error = caller.exception(timeout=LIMIT_S)
            if error is None:
                self.leases.append(caller.result())
            else:  # a broken disk, the end, or all places are taken
                assert isinstance(error, Unavailable), error
                assert not isinstance(error, ShuttingDown) or self.manager.shutdown.is_draining
                assert not isinstance(error, ModelUnavailable) or self.has_failed

    @invariant()
    def who_has_a_model_has_an_open_one(self) -> None:
        assert not [lease for lease in self.leases if lease.model in self.closed]

    @invariant()
    def there_are_never_too_many(self) -> None:
        assert sum(one.state != "unloading" for one in self.manager.loaded()) <= MAX_MODELS

    def teardown(self) -> None:
        self.gate.set()
        self.collect()
        for lease in self.leases:
            lease.release()
        self.manager.close(LIMIT_S)
        self.callers.shutdown()
        deadline = time.monotonic() + LIMIT_S
        while self.manager.loaded() and time.monotonic() < deadline:  # loads end by themselves, after `close`
            threading.Event().wait(0.001)
        assert self.manager.loaded() == []
        assert sorted(map(id, self.closed)) == sorted(map(id, self.made))


TestManager = Manager.TestCase
TestManager.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
