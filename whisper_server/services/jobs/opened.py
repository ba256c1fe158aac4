"""What there is once the database is open, and what takes more than one part of it. Blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whisper_server.core.settings.jobs import job_database
from whisper_server.services.jobs.owners import Owners
from whisper_server.services.jobs.schema import open_database, sqlite_url
from whisper_server.services.jobs.states import LEASE_S, Job
from whisper_server.services.jobs.store import JobStore
from whisper_server.services.jobs.uploads import DatabaseUploads, FolderUploads, Uploads


@dataclass(frozen=True, slots=True)
class Opened:
    """The store, the uploads, and the servers that share them."""

    store: JobStore
    uploads: Uploads
    owners: Owners

    def claim(self) -> Job | None:
        """Take the next job that nobody is at, or nobody any more; None where there is none."""
        dead = self.owners.dead(self.store.owners())
        return self.store.claim(self.owners.name, LEASE_S, dead)

    def sweep(self, keep_s: float, disk_bytes: int) -> list[str]:
        """Remove what is old or too much, and what belongs to nothing; return the jobs that have expired."""
        swept = self.store.sweep(keep_s, disk_bytes)
        for job_id in swept.expired:
            self.uploads.remove(job_id)
        here = self.uploads.ids()
        for job_id in set(here) - self.store.existing(here):
            self.uploads.remove(job_id)
        self.owners.tidy(self.store.owners())
        return swept.expired

    def close(self) -> None:
        """Give everything back."""
        self.owners.close()
        self.store.close()


def open_store(folder: Path, url: str) -> Opened:
    """Open the database of a URL, the embedded one in the folder where there is none.

    Raises:
        ConfigError: it cannot be opened.
        OSError: nothing can be written to the folder.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = open_database(url or sqlite_url(job_database(folder)))
    is_embedded = engine.dialect.name == "sqlite"
    uploads = FolderUploads(folder / "uploads") if is_embedded else DatabaseUploads(engine, folder / "lent")
    return Opened(JobStore(engine), uploads, Owners(folder / "servers"))
