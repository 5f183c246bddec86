"""The network side of fetching a checkpoint: what a hub offers, and the bytes of one file.

This and :mod:`gen3r_core.checkpoint.fetch` are the only modules that reach the network. The
protocol is that of the Hugging Face hub, spoken by ``huggingface_hub``; its own file cache is
not used, because since 1.32 it throws away what an interrupted download had received.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from gen3r_core.errors import CheckpointError

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LOOK_UP_SECONDS = 30.0
_NOT_WANTED = {".gitattributes"}


@dataclass(frozen=True)
class RemoteFile:
    """One file on the hub.

    Attributes:
        path: relative to the repository's root, forward slashes, never leading out of it.
        size: in bytes.
        digest: in hexadecimal: the SHA-256 of the content (64 digits; large files), else
            git's SHA-1 of the blob (40 digits).
    """

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class RemoteCheckpoint:
    """A repository on the hub at one commit.

    Attributes:
        repo_id: ``owner/name``.
        commit: the full hash that the revision stands for.
        licence: what the model card calls it, None where it says nothing.
        files: all files, sorted by path.
        endpoint: address of the hub, without a trailing slash.
    """

    repo_id: str
    commit: str
    licence: str | None
    files: tuple[RemoteFile, ...]
    endpoint: str

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def look_up(repo_id: str, revision: str | None = None, endpoint: str | None = None) -> RemoteCheckpoint:
    """Ask the hub for a repository's files and licence; nothing is downloaded.

    Args:
        repo_id: ``owner/name``.
        revision: branch, tag or commit; the main branch where None.
        endpoint: address of another hub than ``HF_ENDPOINT`` or the public one.

    Raises:
        CheckpointError: the repository or revision does not exist or is not open to us, the
            hub cannot be reached, or it answers with something else than a file list.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint.rstrip("/") if endpoint else None, library_name="gen3r")
    with hub_errors(repo_id, revision, api.endpoint):
        try:
            info = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=_LOOK_UP_SECONDS)
            listed = [
                (entry.rfilename, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
                for entry in info.siblings or []
                if entry.rfilename not in _NOT_WANTED
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if type(error).__module__.startswith("huggingface_hub"):
                raise
            raise CheckpointError(
                f"{api.endpoint} did not answer as a hub does when asked about {repo_id!r} ({error!r}); "
                f"check HF_ENDPOINT and any proxy"
            ) from error
    if not listed:
        raise CheckpointError(f"{repo_id!r} at {api.endpoint} holds no files; check its name and revision")
    if info.sha is None or not _DIGEST.fullmatch(info.sha):
        raise CheckpointError(f"{api.endpoint} names no valid commit for {repo_id!r} (got {info.sha!r})")
    files = tuple(sorted((_checked(repo_id, *entry) for entry in listed), key=lambda file: file.path))
    return RemoteCheckpoint(repo_id, info.sha, _card_licence(info.card_data), files, api.endpoint)


def transfer(
    remote: RemoteCheckpoint, file: RemoteFile, target: BinaryIO, offset: int, on_bytes: Callable[[int], None]
) -> None:
    """Append the bytes of ``file`` from ``offset`` on to ``target``, asking the hub for that range only.

    A dropped connection is taken up again a few times. A hub that ignores the range makes
    the file start anew (``target`` is truncated).

    Args:
        remote: the repository the file belongs to.
        file: the file.
        target: open for writing, positioned at ``offset``, its end.
        offset: number of bytes that are already there.
        on_bytes: called with the number of bytes received, many times.

    Raises:
        CheckpointError: the hub refuses, cannot be reached any more, or sends too little.
        OSError: the bytes cannot be written.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not re-exported
    from tqdm import tqdm

    class Forward(tqdm):  # type: ignore[misc]
        """Hands what http_get reports to ``on_bytes`` instead of showing a bar of its own."""

        def __init__(self, *_args: object, **_kwargs: object) -> None:
            super().__init__(disable=True)

        def update(self, n: float | None = 1) -> None:
            on_bytes(int(n or 0))

    url = hf_hub_url(remote.repo_id, file.path, revision=remote.commit, endpoint=remote.endpoint)
    # A compressed answer would make ranges and sizes meaningless.
    headers = {**build_hf_headers(library_name="gen3r"), "Accept-Encoding": "identity"}
    with hub_errors(remote.repo_id, remote.commit, remote.endpoint, file.path):
        http_get(url, target, resume_size=offset, headers=headers, expected_size=file.size, tqdm_class=Forward)


@contextmanager
def hub_errors(repo_id: str, revision: str | None, endpoint: str, path: str | None = None) -> Iterator[None]:
    """Translate what ``huggingface_hub`` and its HTTP client raise into errors with a next step."""
    from huggingface_hub import errors as hub

    what = f"{repo_id!r}" if path is None else f"{path} of {repo_id!r}"
    page = f"{endpoint}/{repo_id}"
    log_in = "set HF_TOKEN to a token of yours (or run `hf auth login`)"
    again = "run the same command again: it goes on where it stopped"
    try:
        yield
    except hub.HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is not the name of a repository (owner/name): {error}") from error
    except hub.OfflineModeIsEnabled as error:
        raise CheckpointError(f"cannot fetch {what}: HF_HUB_OFFLINE is set; unset it and run again") from error
    except hub.GatedRepoError as error:
        raise CheckpointError(f"{repo_id!r} is gated: accept its terms at {page}, {log_in}, and run again") from error
    except hub.RevisionNotFoundError as error:
        raise CheckpointError(f"{repo_id!r} has no revision {revision!r}; see {page}/commits/main") from error
    except hub.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no repository {repo_id!r} at {endpoint}, or it is private; check the name, or {log_in}"
        ) from error
    except hub.HfHubHTTPError as error:
        status = error.response.status_code
        if status in {401, 403}:
            advice = f"{log_in}, one that may read {page}"
        elif status in {404, 410}:
            advice = "the file has gone from the hub; fetch another revision"
        else:
            advice = f"the hub is in trouble or busy; {again} later"
        raise CheckpointError(f"{endpoint} refused {what} with status {status}; {advice}") from error
    except _transport_errors() as error:
        raise CheckpointError(
            f"cannot fetch {what} from {endpoint} ({type(error).__name__}: {error}); check the network, then {again}"
        ) from error
    except OSError as error:
        if error.errno is None:  # http_get's own: fewer bytes than promised
            raise CheckpointError(f"{what} arrived incomplete; {again}") from error
        if path is None:
            raise CheckpointError(
                f"cannot ask {endpoint} about {what} ({error}); check the network settings"
            ) from error
        raise  # the file that is written to: the caller knows its name


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return the base of the HTTP client's errors: huggingface_hub 1 uses httpx, 2 uses httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    client = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    return (client.HTTPError, client.InvalidURL)


def _checked(repo_id: str, path: str, size: int | None, digest: str | None) -> RemoteFile:
    """Refuse what a hub must not say: paths that lead out of the folder, files without size or digest."""
    parts = PurePosixPath(path).parts
    odd = not parts or path.startswith("/") or "\\" in path or "\0" in path or str(PurePosixPath(path)) != path
    if odd or ".." in parts or parts[0].startswith(".gen3r"):
        raise CheckpointError(
            f"{repo_id!r} lists a file with the unacceptable path {path!r}; do not use this repository"
        )
    if size is None or size < 0 or digest is None or not _DIGEST.fullmatch(digest):
        raise CheckpointError(f"the hub gives no size or digest of {path} in {repo_id!r} (got {size}, {digest!r})")
    return RemoteFile(path, size, digest)


def _card_licence(card: object) -> str | None:
    """Return the licence of a model card; ``other`` is replaced by the name or link given with it."""
    licence = getattr(card, "license", None)
    if licence == "other":
        licence = getattr(card, "license_name", None) or getattr(card, "license_link", None) or licence
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    return str(licence) if licence else None
