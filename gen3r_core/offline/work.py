"""The work folder of a run: what is done is kept there, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import PARTIAL, output_error, write_json_atomic

__all__ = ["WorkFolder", "work_folder_of"]

_MANIFEST = "work.json"
_LOCK = "lock"


def work_folder_of(destination: Path) -> Path:
    """Where a run keeps its work: beside its result."""
    return destination.with_name(destination.name + ".work")


class WorkFolder:
    """Stages that are done, and their files. Use it in a ``with`` statement: one process at a time works there.

    Args:
        path: the folder; made if it is missing.
        signature: what all of the work depends on, values for JSON.
        later: what stages depend on besides, by their names and in their order. Where that has changed, the stage and
            those behind it are done again.
        resume: go on with what is there; otherwise no stage may be done there.

    A run that ends with an InputError before any stage is done takes the folder away: there is nothing to go on with.

    Raises:
        InputError: another run's work is there, or some and ``resume`` was not asked for, or something that is no work
            of a run, or a process works there.
        OutputError: it cannot be written.
    """

    def __init__(
        self, path: Path, signature: dict[str, Any], later: dict[str, Any] | None = None, *, resume: bool
    ) -> None:
        self.path = path
        self._signature: dict[str, Any] = json.loads(json.dumps(signature))
        self._later: dict[str, Any] = json.loads(json.dumps(later or {}))
        self._resume = resume
        self._lock: IO[str] | None = None
        self._done: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            self._lock = (self.path / _LOCK).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{self.path}: another process is at work here; wait for it, or name another folder"
            ) from error
        except OSError as error:
            raise output_error(self.path, error) from error
        try:
            self._take_up()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, InputError) and not self._done:
            self.remove()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def facts_of(self, stage: str) -> dict[str, Any] | None:
        """What a stage noted when it was done; None if it is not."""
        return self._done.get(stage)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Do a stage; what is put into the dictionary is noted, and that it is done, when the block ends well."""
        facts: dict[str, Any] = {}
        start = time.perf_counter()
        try:
            yield facts
        finally:
            # Of a stage that is stopped the time counts as well: a resumed run tells what all of it took.
            facts["seconds"] = self._spent(name) + time.perf_counter() - start
            self._note(name, facts)
        self._done[name] = facts
        self._write()

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage that is done, in all runs together."""
        return {name: round(facts["seconds"], 3) for name, facts in self._done.items()}

    def remove(self) -> None:
        """Give up the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    # ------------------------------------------------------------------

    def _take_up(self) -> None:
        manifest = self.path / _MANIFEST
        try:
            found = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else None
        except OSError as error:
            raise output_error(self.path, error) from error
        except ValueError:
            found = None
        same = isinstance(found, dict) and found.get("signature") == self._signature
        if not isinstance(found, dict) or not (found.get("done") or (same and self._resume)):
            self._begin()
        elif not self._resume:
            raise InputError(
                f"{self.path} holds the work of an unfinished run: add --resume to go on with it, or remove it"
            )
        elif not same:
            raise InputError(
                f"{self.path} holds the work of another run ({_difference(found.get('signature'), self._signature)}); "
                f"go on with the same recording, model and options, or remove it"
            )
        else:
            self._done = found["done"]
            self._begun = found["begun"]
            self._forget_changed(found.get("later") or {})
        for partial in self.path.rglob(f"{PARTIAL}*"):
            partial.unlink(missing_ok=True)

    def _refuse_foreign(self) -> None:
        """A folder that happens to be called so is somebody's: nothing in it is touched."""
        if (self.path / _MANIFEST).exists():
            return
        lock = self.path / _LOCK
        own = {_LOCK} if lock.is_file() and not lock.stat().st_size else set()
        names = [one.name for one in self.path.iterdir() if not (one.name in own or one.name.startswith(PARTIAL))]
        if names:
            raise InputError(
                f"{self.path} is where this run would keep its work, and holds something else ({min(names)}); move it "
                f"away, or name another --output_dir"
            )

    def _forget_changed(self, later: dict[str, Any]) -> None:
        """Of the stages that have options of their own, from the first one on whose options were others."""
        names = list(self._later)
        first = next((place for place, name in enumerate(names) if later.get(name) != self._later[name]), len(names))
        for name in names[first:]:
            self._done.pop(name, None)
            self._begun.pop(name, None)
        self._write()  # at once: their files will be others'

    def _begin(self) -> None:
        for entry in self.path.iterdir():
            if entry.name == _LOCK:
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self._done, self._begun = {}, {}
        self._write()

    def _spent(self, name: str) -> float:
        return float(self._begun.get(name, 0.0))

    def _note(self, name: str, facts: dict[str, Any]) -> None:
        self._begun[name] = facts["seconds"]
        with contextlib.suppress(Exception):  # a full disk: the error that stops the stage says so
            self._write()

    def _write(self) -> None:
        write_json_atomic(
            self.path / _MANIFEST,
            {"signature": self._signature, "later": self._later, "done": self._done, "begun": self._begun},
        )


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return "unknown"
    keys = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key} {found.get(key)} and not {wanted.get(key)}" for key in keys)
