"""Download a published checkpoint into a folder of plain files; a killed download goes on where it stopped.

Beside the checkpoint's files the folder gets ``.gen3r-fetch/``: ``record.json`` says what the
folder is and which files are complete, ``<digest>.part`` is a file on its way. A file appears
under its own name only when it is whole and its digest is right.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gen3r_core.checkpoint.hub import RemoteCheckpoint, RemoteFile, look_up, transfer
from gen3r_core.checkpoint.licences import PartLicence, licence_notice, licences_of
from gen3r_core.errors import CheckpointError, OutputError
from gen3r_core.io.atomic import check_free_space, output_error, write_json_atomic

if TYPE_CHECKING:
    from tqdm import tqdm

_STATE = ".gen3r-fetch"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class FetchReport:
    """What :func:`fetch_checkpoint` did.

    Attributes:
        repo_id: the repository on the hub.
        commit: full hash of the revision that the folder now holds.
        folder: where the files lie, as given.
        files: their paths relative to the folder, sorted.
        total_bytes: size of all files.
        received_bytes: how much came over the network this time.
        licence: what the model card says, None where it says nothing.
        parts: licences of the parts that the checkpoint holds.
    """

    repo_id: str
    commit: str
    folder: Path
    files: tuple[str, ...]
    total_bytes: int
    received_bytes: int
    licence: str | None
    parts: tuple[PartLicence, ...]


def fetch_checkpoint(
    repo_id: str,
    folder: Path,
    *,
    revision: str | None = None,
    progress: bool = True,
    endpoint: str | None = None,
    announce: Callable[[str], None] | None = None,
) -> FetchReport:
    """Download every file of a repository, or the rest of them, and check each one's digest.

    Args:
        repo_id: ``owner/name`` on the hub.
        folder: destination; absent, empty, or begun by an earlier call for the same repository.
        revision: branch, tag or commit; the main branch where None. Files of an earlier
            revision are replaced, and removed where the new one lacks them.
        progress: show a bar on standard error, if that is a terminal.
        endpoint: address of another hub than ``HF_ENDPOINT`` or the public one.
        announce: called once with the licence notice, before any file is downloaded.

    Raises:
        CheckpointError: nothing to fetch there, no access, no network, or wrong bytes.
        OutputError: the folder holds something else, is in use, cannot be written or is too small.
    """
    folder = Path(folder)
    store = _Folder(folder, repo_id)
    store.read_record()
    remote = look_up(repo_id, revision, endpoint)
    paths = tuple(file.path for file in remote.files)
    parts = licences_of(paths)
    if announce is not None:
        announce(licence_notice(repo_id, remote.licence, parts))
    with _write_errors(folder):
        check_free_space(folder, store.missing_bytes(remote))
        with store.locked():
            store.read_record()
            store.begin(remote)
            received = 0
            with _bar(remote.size, remote.size - store.missing_bytes(remote), progress) as bar:
                for file in store.missing(remote):
                    received += store.fetch(remote, file, bar)
            store.finish(remote)
    return FetchReport(repo_id, remote.commit, folder, paths, remote.size, received, remote.licence, parts)


@dataclass
class _Folder:
    """The destination and its record."""

    folder: Path
    repo_id: str
    complete: dict[str, str] = field(default_factory=dict)  # path -> digest of files that are whole

    @property
    def state(self) -> Path:
        return self.folder / _STATE

    def read_record(self) -> None:
        """Take over what an earlier call left, or refuse a folder that is not ours. Changes nothing on disk."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise OutputError(f"{self.folder} is a file, not a folder; choose another name")
        record_path = self.state / "record.json"
        try:
            others = sorted(path.name for path in self.folder.iterdir() if path.name != _STATE)
            text = record_path.read_text(encoding="utf-8") if record_path.exists() else None
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be read: {error.strerror}; choose another folder") from error
        if text is None:
            if others:
                raise OutputError(
                    f"{self.folder} holds something else ({', '.join(others[:3])}{', ...' if others[3:] else ''}); "
                    f"give an empty or a new folder"
                )
            return
        try:
            record = json.loads(text)
            repo_id, complete = str(record["repo_id"]), dict(record["complete"])
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{record_path} is damaged ({error!r}); remove {self.folder} and start anew") from error
        if repo_id != self.repo_id:
            raise OutputError(f"{self.folder} holds {repo_id!r}, not {self.repo_id!r}; give an empty or a new folder")
        self.complete = {str(path): str(digest) for path, digest in complete.items()}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes from fetching into it."""
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(f"another process is fetching into {self.folder}; wait for it") from error
            yield

    def has(self, file: RemoteFile) -> bool:
        """Whether the file is whole. One that is not on record (killed just before) is read to find out."""
        path = self.folder / file.path
        if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            return False
        if self.complete.get(file.path) != file.digest and digest_of(path, file) != file.digest:
            return False
        self.complete[file.path] = file.digest
        return True

    def missing(self, remote: RemoteCheckpoint) -> list[RemoteFile]:
        """Files that are not whole yet."""
        return [file for file in remote.files if not self.has(file)]

    def missing_bytes(self, remote: RemoteCheckpoint) -> int:
        """Bytes still to come: what is missing, less the parts that have arrived."""
        return sum(file.size - self.part_size(file) for file in self.missing(remote))

    def part(self, file: RemoteFile) -> Path:
        return self.state / f"{file.digest}.part"

    def part_size(self, file: RemoteFile) -> int:
        """Bytes of the file that have arrived; a part that is too long is discarded."""
        part = self.part(file)
        if not part.is_file():
            return 0
        size = part.stat().st_size
        if size > file.size:
            part.unlink()
            return 0
        return size

    def begin(self, remote: RemoteCheckpoint) -> None:
        """Remove what another revision left behind, and say on disk what this folder is."""
        wanted = {file.path for file in remote.files}
        for path in set(self.complete) - wanted:
            (self.folder / path).unlink(missing_ok=True)
            del self.complete[path]
        digests = {f"{file.digest}.part" for file in remote.files}
        for part in self.state.glob("*.part"):
            if part.name not in digests:
                part.unlink()
        self._write_record(remote)

    def fetch(self, remote: RemoteCheckpoint, file: RemoteFile, bar: tqdm[None]) -> int:
        """Download one file, or the rest of it, check it, and put it in its place. Returns the bytes received."""
        part, received = self.part(file), 0
        bar.set_postfix_str(file.path)
        while True:
            offset = self.part_size(file)
            counted = bar.n - offset

            def on_bytes(count: int) -> None:
                nonlocal received
                received += count
                bar.update(count)

            with part.open("ab") as target:
                transfer(remote, file, target, offset, on_bytes)
                target.flush()
                os.fsync(target.fileno())
            bar.n = counted + file.size  # right again where a hub ignored the range
            if digest_of(part, file) == file.digest:
                break
            part.unlink()
            bar.n = counted
            if offset == 0:
                raise CheckpointError(
                    f"{file.path} of {self.repo_id!r} arrived with the wrong content (its digest is not "
                    f"{file.digest}); run the same command again, and suspect a proxy if it happens again"
                )
        destination = self.folder / file.path
        destination.parent.mkdir(parents=True, exist_ok=True)
        part.replace(destination)
        self.complete[file.path] = file.digest
        self._write_record(remote)
        return received

    def finish(self, remote: RemoteCheckpoint) -> None:
        """Leave only the record beside the checkpoint's files."""
        self._write_record(remote)
        for part in self.state.glob("*.part"):
            part.unlink()

    def _write_record(self, remote: RemoteCheckpoint) -> None:
        record = {"repo_id": self.repo_id, "commit": remote.commit, "complete": self.complete}
        write_json_atomic(self.state / "record.json", record)


def digest_of(path: Path, like: RemoteFile) -> str:
    """Return the digest of a file on disk, of the kind that ``like`` has (SHA-256, or git's SHA-1 of a blob)."""
    if len(like.digest) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _bar(total: int, initial: int, progress: bool) -> tqdm[None]:
    from tqdm import tqdm

    # disable=None: shown on a terminal only, so that logs stay readable.
    shown = None if progress else True
    return tqdm(total=total, initial=initial, unit="B", unit_scale=True, disable=shown, desc="fetch")


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(Path(error.filename or folder), error) from error
