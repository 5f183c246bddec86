"""Writing results so that a file under its final name is always whole.

Everything is first written beside its destination, on the same file system, and renamed when
it is complete (``os.replace``, which either happens or does not). Errors of the operating
system become :class:`~gen3r_core.errors.OutputError` here, with the space that is left.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gen3r_core.errors import OutputError

PARTIAL = ".partial-"
"""What the names of unfinished files and folders begin with."""

# Errors that writing brings about even where they name no file.
_WRITE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
_ADVICE = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EFBIG: "the file system or a limit of this process (ulimit -f) does not allow a file this large",
    errno.EROFS: "the file system is mounted read-only: choose another folder",
    errno.EACCES: "check who may write there, or choose another folder",
    errno.EPERM: "check who may write there, or choose another folder",
    errno.ENOTDIR: "a part of this path is a file and not a folder: choose another one",
    errno.EEXIST: "a file of this name is in the way: choose another one",
    errno.EISDIR: "a folder of this name is in the way: choose another one",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """Translates an error of the operating system: what, where, how much space is left, what to do."""
    reason = error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0, "check the path and the disk")
    try:
        space = f"{_bytes(_free_space(path))} free there"
    except OSError:
        space = "free space unknown"
    return OutputError(f"cannot write {path}: {reason} ({space}); {advice}")


def check_free_space(path: Path, needed_bytes: int) -> None:
    """Checks before a long job that its results will fit.

    Args:
        path: file or folder that will be written; it need not exist yet.
        needed_bytes: an upper bound of what will be written.

    Raises:
        OutputError: naming what is needed and what is free, if it will not fit or cannot be told.
    """
    try:
        free = _free_space(path)
    except OSError as error:
        raise output_error(path, error) from error
    if free < needed_bytes:
        raise OutputError(
            f"cannot write {path}: {_bytes(needed_bytes)} are needed and {_bytes(free)} are free there; "
            f"free some space or choose another folder"
        )


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside a file, which becomes the file when the block ends well.

    Args:
        path: final name; its folder must exist. The temporary name has the same suffix, as
            writers choose their format by it.

    Yields:
        The path to write to. It is removed if the block raises anything, interrupts included.

    Raises:
        OutputError: for errors of the operating system about this file.
    """
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(8)}{path.suffix}")
    try:
        partial.touch(exist_ok=False)  # tempfile would make it private; results get the usual permissions
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield partial
        _finish(partial, path)
    except OSError as error:
        if not _is_about(error, partial):
            raise
        raise output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all.

    Raises:
        OutputError: if it cannot be written, or is not JSON (NaN, infinity, other types).
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise OutputError(f"cannot write {path}: the value is not valid JSON: {error}") from error
    write_text_atomic(path, text + "\n")


class OutputFolder:
    """A folder that gets all of a job's files or none.

    .. code-block:: python

        with OutputFolder(Path("results/garden")) as out:
            write_video(out.path("rgb.mp4"), frames, 12)
            write_ply(out.path("points.ply"), cloud)

    Inside the block the files lie in a hidden folder within the destination. When the block
    ends well they are renamed into place, over older ones of the same names; if that fails
    half-way, the older ones are put back. When it raises anything (interrupts included) the
    hidden folder is removed, and so is every folder that was created for it.

    Args:
        destination: the folder; created with its parents if it is missing.

    Raises:
        OutputError: on entry, in the block or at its end, for errors of the operating system
            that concern the folder. Other errors pass through unchanged.
    """

    def __init__(self, destination: Path) -> None:
        self.destination = Path(destination)
        self._partial: Path | None = None
        self._created: list[Path] = []

    def __enter__(self) -> Self:
        try:
            missing = [folder for folder in (self.destination, *self.destination.parents) if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                self._created.insert(0, folder)
            self._partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self.destination))
        except OSError as error:
            self._remove_created()
            raise output_error(self.destination, error) from error
        return self

    def path(self, name: str) -> Path:
        """Where to write the file that shall be called ``destination / name``.

        Args:
            name: relative to the destination; sub-folders (``"images/0001.png"``) are created.

        Raises:
            OutputError: if the name leaves the destination, the folder is not open, or a
                sub-folder cannot be created.
        """
        if self._partial is None:
            raise OutputError(f"the output folder {self.destination} is not open: use it in a with statement")
        relative = Path(name)
        if relative.is_absolute() or ".." in relative.parts or relative == Path():
            raise OutputError(f"the output file name {name!r} does not stay within {self.destination}")
        target = self._partial / relative
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self.destination / relative.parent, error) from error
        return target

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        partial, self._partial = self._partial, None
        if partial is None:
            return
        done = False
        try:
            if isinstance(error, OSError) and _is_about(error, partial):
                raise output_error(self.destination, error) from error
            if error is None:
                self._commit(partial)
                done = True
        except OSError as failure:
            raise output_error(self.destination, failure) from failure
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if not done:
                self._remove_created()

    def _commit(self, partial: Path) -> None:
        files = sorted(file for file in partial.rglob("*") if not file.is_dir())
        older = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=partial))
        undo: list[tuple[Path, Path | None]] = []
        try:
            for number, file in enumerate(files):
                target = self.destination / file.relative_to(partial)
                for folder in reversed(target.parents[: len(target.relative_to(self.destination).parts) - 1]):
                    if not folder.exists():
                        folder.mkdir(exist_ok=True)
                        self._created.insert(0, folder)
                backup = older / str(number) if target.exists() else None
                if backup is not None:
                    _keep(target, backup)
                undo.append((target, backup))
                _finish(file, target)
        except BaseException:
            for target, backup in reversed(undo):
                with contextlib.suppress(OSError):
                    if backup is None:
                        target.unlink(missing_ok=True)
                    else:
                        backup.replace(target)
            raise

    def _remove_created(self) -> None:
        for folder in self._created:
            with contextlib.suppress(OSError):  # somebody else has put a file there
                folder.rmdir()
        self._created.clear()


def _finish(partial: Path, path: Path) -> None:
    """Brings a file's data to the disk (full network disks say so only then) and gives it its name."""
    handle = os.open(partial, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    partial.replace(path)


def _keep(path: Path, backup: Path) -> None:
    try:
        backup.hardlink_to(path)
    except OSError:  # a folder in the way (the replacement will say so), or no hard links on this file system
        if path.is_file():
            shutil.copy2(path, backup)


def _is_about(error: OSError, partial: Path) -> bool:
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
    if any(Path(name).is_relative_to(partial) for name in names):
        return True
    return not names and error.errno in _WRITE_ERRNOS


def _free_space(path: Path) -> int:
    path = path.absolute()
    folder = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return shutil.disk_usage(folder).free


def _bytes(count: int) -> str:
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
