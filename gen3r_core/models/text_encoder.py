"""The text encoder: UMT5 (arXiv 2304.09151), transformers' implementation, with its tokenizer.

Gen3R keeps the embeddings of a prompt's own tokens, pads them with zeros to the transformer's
text length, and lets it attend to the padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from gen3r_core.errors import CheckpointError
from gen3r_core.models.config import from_values

_LENGTHS = 16
"""Tokens; prompts run at multiples of it."""


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of the UMT5 encoder.

    Attributes:
        vocab_size: rows of the embedding table.
        hidden_size: token width.
        attention_size: width of queries, keys and values over all heads.
        intermediate_size: width of the gated feed-forward layers.
        num_heads: attention heads.
        num_layers: blocks.
        num_buckets: buckets of the relative position bias.
        max_distance: distance from which all positions share a bucket.
    """

    vocab_size: int = 256384
    hidden_size: int = 4096
    attention_size: int = 4096
    intermediate_size: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32
    max_distance: int = 128

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextEncoderConfig:
        """Build from our own ``config.json``.

        Raises:
            CheckpointError: a key is unknown.
        """
        return from_values(cls, values, "text encoder")

    @classmethod
    def from_published(cls, values: Mapping[str, Any]) -> TextEncoderConfig:
        """Build from the published ``config.json`` (upstream's constructor arguments)."""
        return cls(
            vocab_size=values.get("vocab", 256384),
            hidden_size=values.get("dim", 4096),
            attention_size=values.get("dim_attn", 4096),
            intermediate_size=values.get("dim_ffn", 10240),
            num_heads=values.get("num_heads", 64),
            num_layers=values.get("num_layers", 24),
            num_buckets=values.get("num_buckets", 32),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``config.json``."""
        return asdict(self)


class TextEncoder(nn.Module):
    """Token ids to embeddings.

    The table of the vocabulary, a fifth of the published weights, may lie on another device than the rest: only the
    rows of a prompt's tokens are sent on.
    """

    def __init__(self, config: TextEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or TextEncoderConfig()
        self.model = UMT5EncoderModel(
            UMT5Config(
                vocab_size=self.config.vocab_size,
                d_model=self.config.hidden_size,
                d_kv=self.config.attention_size // self.config.num_heads,
                d_ff=self.config.intermediate_size,
                num_layers=self.config.num_layers,
                num_heads=self.config.num_heads,
                relative_attention_num_buckets=self.config.num_buckets,
                relative_attention_max_distance=self.config.max_distance,
                dropout_rate=0.0,
                layer_norm_epsilon=1e-6,
                feed_forward_proj="gated-gelu",
                is_encoder_decoder=False,
                use_cache=False,
            )
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embed token ids.

        Args:
            input_ids: ``[B, L]`` int64.
            attention_mask: ``[B, L]``, 1 for tokens and 0 for padding; None attends to everything.

        Returns:
            ``[B, L, hidden_size]``; rows of padding are computed too and mean nothing.
        """
        table = self.model.shared
        rows = table(input_ids.to(table.weight.device)).to(self._device)
        hidden: Tensor = self.model(inputs_embeds=rows, attention_mask=attention_mask).last_hidden_state
        return hidden

    def embed(self, input_ids: Sequence[Sequence[int]], *, text_len: int, pad_id: int = 0) -> list[Tensor]:
        """Embed prompts given as token ids.

        Padding is masked, which leaves the last bits to the length of the run. Prompts run by twos of one length, their
        own rounded up; one that is left over runs with itself. So its embedding depends on no other prompt.

        Args:
            input_ids: of each prompt.
            text_len: most tokens of a prompt.
            pad_id: fills up.

        Returns:
            ``[its length, hidden_size]`` for each.
        """
        lengths = [min(-(-max(len(ids), 1) // _LENGTHS) * _LENGTHS, text_len) for ids in input_ids]
        found: dict[int, Tensor] = {}
        for length in dict.fromkeys(lengths):
            rows = [row for row, own in enumerate(lengths) if own == length]
            for first in range(0, len(rows), 2):
                pair = rows[first : first + 2]
                hidden = self._run([input_ids[row] for row in (pair[0], pair[-1])], length, pad_id)
                found |= {row: hidden[place, : len(input_ids[row])].clone() for place, row in enumerate(pair)}
        return [found[row] for row in range(len(lengths))]

    def _run(self, input_ids: Sequence[Sequence[int]], length: int, pad_id: int) -> Tensor:
        ids = torch.full((len(input_ids), length), pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(input_ids):
            ids[row, : len(tokens)] = torch.as_tensor(tokens, dtype=torch.int64)
            mask[row, : len(tokens)] = 1
        hidden: Tensor = self(ids, mask.to(self._device))
        return hidden

    @property
    def _device(self) -> torch.device:
        """Where the blocks compute."""
        weight: Tensor = self.model.encoder.final_layer_norm.weight
        return weight.device


class Tokenizer:
    """The checkpoint's tokenizer: text to ids, cut to the transformer's text length."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Load the tokenizer files of a checkpoint; never reaches for the network.

        Raises:
            CheckpointError: the folder is missing or holds no tokenizer that transformers can read.
        """
        if not folder.is_dir():
            raise CheckpointError(f"tokenizer folder {folder} is missing; prompts need it (or cached embeddings)")
        try:
            return cls(AutoTokenizer.from_pretrained(str(folder), local_files_only=True))
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise CheckpointError(f"tokenizer in {folder} cannot be read: {error}") from error

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into ``folder``."""
        self._tokenizer.save_pretrained(str(folder))

    @property
    def pad_id(self) -> int:
        """Id that fills up a batch."""
        pad = self._tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    @property
    def vocab_size(self) -> int:
        """Pieces that it knows, special ones included."""
        return len(self._tokenizer)

    def __call__(self, text: str, max_length: int) -> tuple[list[int], bool]:
        """Token ids of a prompt with its end token, and whether it had to be cut to ``max_length``."""
        full = self._tokenizer(text, add_special_tokens=True)["input_ids"]
        if len(full) <= max_length:
            return list(full), False
        cut = self._tokenizer(text, add_special_tokens=True, truncation=True, max_length=max_length)["input_ids"]
        return list(cut), True
