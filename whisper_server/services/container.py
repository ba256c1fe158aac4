"""Everything that lives as long as the process: opened and closed here, and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from whisper_server.core.events import Events
from whisper_server.core.shutdown import Shutdown
from whisper_server.core.system.allocator import trim_heap, tune_allocator
from whisper_server.core.system.memory import FreeMemory
from whisper_server.core.system.process import check_threads, start_thread
from whisper_server.services.admission import Admission, Limits, Throughput
from whisper_server.services.audio.decoder import LibavDecoder
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.engines.registry import remove_unfinished
from whisper_server.services.jobs.jobs import Jobs
from whisper_server.services.loaded_models.loader import ModelLoader
from whisper_server.services.loaded_models.speech_model import SpeechModel
from whisper_server.services.model_files.catalog import Catalog
from whisper_server.services.model_files.downloads import Downloads
from whisper_server.services.model_files.prepare import expected_bytes, prepare_model
from whisper_server.services.model_manager import ModelManager
from whisper_server.services.realtime.live_sessions import LiveSessions
from whisper_server.services.speaker_turns import SpeakerTurns
from whisper_server.services.speakers.loaded import SpeakerNetworks, load_networks
from whisper_server.services.transcriber import Transcriber
from whisper_server.services.warm_up import warm_up
from whisper_server.services.work_pool import WorkPool

if TYPE_CHECKING:
    from whisper_server.core.config import Settings
    from whisper_server.core.types import ModelSource


CLOSE_TIMEOUT_S = 2.0  # for a call into a native library; what takes longer is left to `process.leave`
MOST_REMOTE_MODELS = 64  # known at once; each is a name and a vocabulary here


@dataclass(frozen=True, slots=True)
class RemoteModels:
    """Models that run on other machines, where they do."""

    load: Callable[[ModelSource], SpeechModel]  # blocks
    throughput: Throughput  # of all these machines
    metrics: Events | None = None  # that knows of them


@dataclass(frozen=True, slots=True)
class Services:
    """What routes and the command line work with."""

    settings: Settings
    catalog: Catalog
    audio: AudioProcessor
    decoders: DecoderProcesses
    models: ModelManager[SpeechModel]
    pool: WorkPool
    transcriber: Transcriber
    speakers: SpeakerTurns
    admission: Admission
    metrics: Events
    downloads: Downloads
    live: LiveSessions
    jobs: Jobs
    shutdown: Shutdown

    async def warm_up(self) -> None:
        """Load what every recording needs, but for models; raises as `warm_up.warm_up` does."""
        await warm_up(self.pool, use_vad=self.settings.vad)

    def drain(self) -> None:
        """Take no new requests; those that have begun go on until they end or the services close."""
        self.shutdown.drain()
        self.downloads.drain()
        self.live.draining.set()
        self.jobs.drain()
        self.models.drain()


@contextlib.asynccontextmanager
async def open_services(
    settings: Settings,
    metrics: Events | None = None,
    shutdown: Shutdown | None = None,
    remote: RemoteModels | None = None,
) -> AsyncIterator[Services]:
    """Make the services, and close them whatever happens: work first, then models.

    Without `metrics` nothing is counted; without `shutdown` they have a state of their own; without `remote`
    models are loaded in this process.
    """
    free_memory = FreeMemory()
    tune_allocator(free_memory())  # before any of the threads below
    metrics, shutdown = metrics or Events(), shutdown or Shutdown()
    catalog = Catalog(settings)
    remove_unfinished(settings.cache_dir)
    check_threads()  # what starts them is started now
    pool, decoders, audio = _audio(settings)
    models = _remote(remote, settings, shutdown) if remote else local_models(settings, metrics, shutdown)
    networks = _networks(settings, shutdown)
    speakers = SpeakerTurns(audio, networks, pool)
    transcriber = _transcriber(settings, audio, models, pool, speakers)
    admission, live = _admission(settings, remote, free_memory), LiveSessions()
    jobs = Jobs(settings, transcriber, catalog, metrics, shutdown)
    _watch(metrics, admission, models, live, jobs)
    downloads = Downloads(lambda source, on_progress: prepare_model(source, settings, on_progress), shutdown)
    try:
        yield Services(
            settings=settings,
            catalog=catalog,
            audio=audio,
            decoders=decoders,
            models=models,
            pool=pool,
            transcriber=transcriber,
            speakers=speakers,
            admission=admission,
            metrics=metrics,
            downloads=downloads,
            live=live,
            jobs=jobs,
            shutdown=shutdown,
        )
    finally:
        shutdown.drain()
        downloads.drain()
        await jobs.close()
        await asyncio.to_thread(_close, pool, decoders, models, networks)
        shutdown.close()


def _admission(settings: Settings, remote: RemoteModels | None, free_memory: FreeMemory) -> Admission:
    return Admission(
        Limits(settings.queue_requests, float(settings.queue_seconds), settings.queue_bytes),
        throughput=remote.throughput if remote else None,
        free_bytes=free_memory,
        reclaim=partial(start_thread, trim_heap),
    )


def _audio(settings: Settings) -> tuple[WorkPool, DecoderProcesses, AudioProcessor]:
    n_decoders = settings.decoder_processes
    pool = WorkPool(settings.audio_threads, waiters=DecoderProcesses.most(n_decoders) if n_decoders else 0)
    decoders = DecoderProcesses(n_decoders, pool.waiting)
    open_decoder = decoders.open if n_decoders else LibavDecoder
    return pool, decoders, AudioProcessor(settings.max_audio_bytes, settings.max_audio_seconds, open_decoder)


def _transcriber(
    settings: Settings,
    audio: AudioProcessor,
    models: ModelManager[SpeechModel],
    pool: WorkPool,
    speakers: SpeakerTurns,
) -> Transcriber:
    return Transcriber(
        audio,
        models,
        pool,
        speakers,
        beam_size=settings.beam_size,
        use_vad=settings.vad,
        switches_language=settings.language_switching,
    )


def local_models(settings: Settings, metrics: Events, shutdown: Shutdown) -> ModelManager[SpeechModel]:
    """Return what loads models in this process, and lends them."""
    return ModelManager(
        ModelLoader(settings, metrics, shutdown),
        max_models=settings.max_models,
        max_bytes=settings.max_model_memory_mb * 2**20,
        expect_bytes=lambda source: expected_bytes(source, settings),
        idle_unload_s=settings.idle_unload_s,
        shutdown=shutdown,
    )


def _remote(remote: RemoteModels, settings: Settings, shutdown: Shutdown) -> ModelManager[SpeechModel]:
    return ModelManager(
        remote.load, MOST_REMOTE_MODELS, idle_unload_s=settings.idle_unload_s, shutdown=shutdown
    )


def _networks(settings: Settings, shutdown: Shutdown) -> ModelManager[SpeakerNetworks]:
    """Return what lends the networks for speakers: both at once, beside the models' room."""
    return ModelManager(
        lambda _: load_networks(settings), 1, idle_unload_s=settings.idle_unload_s, shutdown=shutdown
    )


def _watch(
    metrics: Events,
    admission: Admission,
    models: ModelManager[SpeechModel],
    live: LiveSessions,
    jobs: Jobs,
) -> None:
    """Show what is admitted and in memory, as it is at the moment of each look."""
    metrics.gauge("whisper_queue_requests", lambda: admission.state().requests)
    metrics.gauge("whisper_queue_audio_seconds", lambda: admission.state().audio_s)
    metrics.gauge("whisper_queue_upload_bytes", lambda: admission.state().upload_bytes)
    limits = admission.state().limits
    metrics.gauge("whisper_queue_limit_requests", lambda: limits.requests)
    metrics.gauge("whisper_queue_limit_audio_seconds", lambda: limits.audio_s)
    metrics.gauge("whisper_queue_limit_upload_bytes", lambda: limits.upload_bytes)
    watch_models(metrics, models)
    metrics.gauge("whisper_realtime_sessions", lambda: live.count)
    metrics.gauge("whisper_jobs_running", lambda: jobs.running)


def watch_models(metrics: Events, models: ModelManager[SpeechModel]) -> None:
    """Show what is in memory, as it is at the moment of each look."""
    metrics.gauge("whisper_models_loaded", lambda: sum(each.state == "ready" for each in models.loaded()))
    metrics.gauge("whisper_models_bytes", lambda: sum(each.memory_bytes for each in models.loaded()))


def _close(
    pool: WorkPool,
    decoders: DecoderProcesses,
    models: ModelManager[SpeechModel],
    networks: ModelManager[SpeakerNetworks],
) -> None:
    """End what is left; requests were given their time to end before the services close."""
    deadline = time.monotonic() + CLOSE_TIMEOUT_S
    pool.close(CLOSE_TIMEOUT_S)
    decoders.close()
    models.close(max(0.0, deadline - time.monotonic()))
    networks.close(max(0.0, deadline - time.monotonic()))
