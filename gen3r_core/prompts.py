"""Prompt embeddings that can be kept on disk, so that a robot never loads the text encoder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import atomic_path
from gen3r_core.models.text_encoder import TextEncoder, Tokenizer

_LOG = logging.getLogger(__name__)
_FORMAT = "gen3r-prompts-1"
DEFAULT_NEGATIVE = "bad detailed"
"""Upstream's negative prompt."""


class PromptCache:
    """Embeddings by prompt text.

    Args:
        embeddings: ``[length, text_dim]`` tensor for each text.
    """

    def __init__(self, embeddings: Mapping[str, Tensor] | None = None) -> None:
        self._embeddings = dict(embeddings or {})

    def __contains__(self, text: object) -> bool:
        return text in self._embeddings

    def __len__(self) -> int:
        return len(self._embeddings)

    @property
    def texts(self) -> list[str]:
        """The prompts it knows."""
        return list(self._embeddings)

    def get(self, text: str) -> Tensor:
        """The embedding ``[length, text_dim]`` of a prompt.

        Raises:
            InputError: it is not in the cache; the message lists what is.
        """
        if text not in self._embeddings:
            known = "; ".join(repr(t) for t in self.texts) or "nothing"
            raise InputError(
                f"prompt {text!r} is not among the cached embeddings ({known}) and no text encoder is loaded; "
                f"add it with 'gen3r embed-prompts', or run without --prompt_embeds"
            )
        return self._embeddings[text]

    def merged(self, other: PromptCache) -> PromptCache:
        """Both caches' prompts; the other's where both know one."""
        return PromptCache({**self._embeddings, **other._embeddings})

    def newest(self, count: int) -> PromptCache:
        """The ``count`` prompts that were added last."""
        return PromptCache(dict(list(self._embeddings.items())[-count:]))

    def save(self, path: Path | str, *, model: str = "") -> None:
        """Write all embeddings to a safetensors file, atomically.

        Args:
            path: file to write.
            model: which text encoder made them, for the reader.

        Raises:
            OutputError: it cannot be written.
        """
        tensors = {str(index): value.contiguous().cpu() for index, value in enumerate(self._embeddings.values())}
        metadata = {"format": _FORMAT, "texts": json.dumps(self.texts), "model": model}
        with atomic_path(Path(path)) as partial:
            partial.write_bytes(save(tensors, metadata))  # small, and its errors are those of the operating system

    @classmethod
    def load(cls, path: Path | str) -> PromptCache:
        """Read a file written by :meth:`save`.

        Raises:
            InputError: unreadable, or another kind of file.
        """
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise InputError(f"{path} does not hold prompt embeddings made by 'gen3r embed-prompts'")
                texts = json.loads(metadata["texts"])
                return cls({text: file.get_tensor(str(index)) for index, text in enumerate(texts)})
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise InputError(f"prompt embeddings {path} cannot be read: {error}. Make them again") from error


def embed_prompts(texts: Iterable[str], tokenizer: Tokenizer, encoder: TextEncoder, text_len: int) -> PromptCache:
    """Embed prompts.

    Args:
        texts: prompts; the empty string is one, too.
        tokenizer: the checkpoint's.
        encoder: the checkpoint's text encoder.
        text_len: longest prompt in tokens; what is over is cut off with a warning.
    """
    tokens: dict[str, list[int]] = {}
    for text in texts:
        if text in tokens:
            continue
        tokens[text], cut = tokenizer(text, text_len)
        if cut:
            _LOG.warning("the prompt was cut to %d tokens: %r", text_len, text)
    with torch.no_grad():
        embeddings = encoder.embed(list(tokens.values()), text_len=text_len, pad_id=tokenizer.pad_id)
    return PromptCache(dict(zip(tokens, embeddings, strict=True)))


def read_prompts(path: Path) -> list[str]:
    """The non-empty lines of a text file, one prompt each.

    Raises:
        InputError: unreadable, or nothing in it.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompt file {path} cannot be read: {error}") from error
    prompts = [line for line in lines if line]
    if not prompts:
        raise InputError(f"prompt file {path} is empty; write one prompt a line")
    return prompts


def read_prompt(text_or_file: str) -> str:
    """A prompt as such, or the first line of the file of that name (as upstream takes it)."""
    try:
        is_file = Path(text_or_file).is_file()
    except OSError:  # longer than a file name may be
        is_file = False
    return read_prompts(Path(text_or_file))[0] if is_file else text_or_file
