"""A folder that is replaced as a whole: readers find the old one or the new one, never a mixture.

Unlike :class:`gen3r_core.io.atomic.OutputFolder`, which adds files to a folder that may hold others.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from gen3r_core.errors import OutputError
from gen3r_core.io.atomic import PARTIAL, output_error

__all__ = ["is_leftover", "is_movable", "replaced_folder", "swap_entries"]

_EARLIER = ".earlier-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def replaced_folder(destination: Path) -> Iterator[Path]:
    """Gives a new folder beside a destination, which takes its place when the block ends well.

    What processes that were killed have left there is removed on the way.

    Args:
        destination: need not exist; its parents are made. If it is a folder, it is replaced with all that is in it.

    Yields:
        The folder to write to. It is removed if the block raises anything, interrupts included.

    Raises:
        OutputError: a file is in the way, or an error of the operating system about these folders.
    """
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - links stay what they are
    if destination.is_symlink() and destination.is_dir():
        destination = destination.resolve()
    # A mounted folder, such as a container's volume, cannot be renamed, nor one whose parent belongs to others: there
    # the new files lie within until they are whole.
    begin = f"{PARTIAL}{destination.name}-"
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.exists() and not destination.is_dir():
            raise OutputError(f"cannot write {destination}: it is a file and not a folder; choose another one")
        within = destination.is_dir() and not is_movable(destination)
        place = destination if within else destination.parent
        _remove_stale(place, begin)
        partial = place / f"{begin}{secrets.token_hex(8)}"
        partial.mkdir()
        lock = _lock(partial)
    except OSError as error:
        raise output_error(destination, error) from error
    try:
        yield partial
        _flush(partial)
        if within:
            swap_entries(partial, destination)
        else:
            _put_in_place(partial, destination)
    except OSError as error:
        if not _is_about(error, destination.parent):
            raise
        raise output_error(destination, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # by now the old one, if all went well
        if lock is not None:
            os.close(lock)


def is_leftover(name: str) -> bool:
    """Whether an entry of a folder may be what a process that was killed left while it replaced the folder."""
    return name.startswith((PARTIAL, _EARLIER))


def is_movable(folder: Path) -> bool:
    """Whether a folder may be renamed: a mounted one cannot, nor one whose parent belongs to others."""
    return not folder.is_mount() and os.access(folder.parent, os.W_OK | os.X_OK)


def swap_entries(partial: Path, destination: Path) -> None:
    """Brings the new entries into a folder that itself stays; the old ones come back if that fails.

    Args:
        partial: folder with the new entries, on the same file system; it is empty afterwards.
        destination: folder whose entries are removed, but for leftovers (:func:`is_leftover`).

    Raises:
        OSError: an entry cannot be moved; all are back where they were.
    """
    earlier = destination / f"{_EARLIER}{destination.name}-{secrets.token_hex(4)}"
    earlier.mkdir()
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in ((destination, earlier), (partial, destination)):
            for entry in sorted(source.iterdir(), key=lambda entry: (entry.is_file(), entry)):
                if not is_leftover(entry.name):
                    entry.rename(target / entry.name)
                    done.append((entry, target / entry.name))
    except BaseException:
        for before, now in reversed(done):
            with contextlib.suppress(OSError):
                now.rename(before)
        with contextlib.suppress(OSError):
            earlier.rmdir()
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _put_in_place(partial: Path, destination: Path) -> None:
    """Renames, at once where the system can exchange two names."""
    if not destination.exists():
        partial.rename(destination)
        return
    try:
        _exchange(partial, destination)
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}:
            raise
        # For a moment neither is there; the old one is not called "partial", so that nobody clears it away.
        earlier = destination.with_name(f"{_EARLIER}{destination.name}-{secrets.token_hex(4)}")
        destination.rename(earlier)
        try:
            partial.rename(destination)
        except OSError:
            earlier.rename(destination)
            raise
        shutil.rmtree(earlier, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Swaps two names (renameat2 of Linux).

    Raises:
        OSError: the file system or the C library cannot, or another reason.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(one))
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one))


def _remove_stale(parent: Path, begin: str) -> None:
    for folder in parent.iterdir():
        if folder.name.startswith(begin) and folder.is_dir() and not folder.is_symlink():
            with contextlib.suppress(OSError):
                lock = _lock(folder)
                if lock is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    os.close(lock)


def _lock(folder: Path) -> int | None:
    """Tells other processes that this folder is in use, as long as this one lives; None if another has it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}:
            return None
        raise
    return handle


def _flush(folder: Path) -> None:
    """Brings all files to the disk: full network disks say so only then."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _is_about(error: OSError, parent: Path) -> bool:
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
    inside = any(Path(name).is_relative_to(parent) for name in names)
    return inside or (not names and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
