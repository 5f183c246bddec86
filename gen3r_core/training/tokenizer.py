"""A small tokenizer of our own for a text encoder that is trained from scratch.

Pieces are learnt by byte-pair merges (arXiv 1508.07909): on a small corpus that gives whole words, and the same ones
each time, where unigram pieces fall apart into letters. Special ids are UMT5's: padding 0, end of text 1, unknown 2.
The result is written as the files that transformers reads, so that the ordinary checkpoint code loads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from gen3r_core.errors import InputError
from gen3r_core.models.text_encoder import Tokenizer

__all__ = ["SPECIAL_TOKENS", "read_captions", "train_tokenizer"]

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
"""By id: 0, 1, 2."""


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary from captions.

    Text is brought to Unicode's composed form and lower case; words keep the space before them, so that ids turn
    back into the text. Every character of the captions is in the vocabulary.

    Args:
        captions: texts such as the ones it will meet.
        vocab_size: most pieces, special ones included; there are fewer where the captions hold no more.

    Returns:
        the tokenizer; ``save(folder)`` writes its files.

    Raises:
        InputError: no caption has any letter, or the vocabulary is too small for their characters.
    """
    texts = sorted({caption.strip() for caption in captions} - {""})
    characters = {character for text in texts for character in text.lower()}
    if not texts:
        raise InputError("a tokenizer cannot be trained: all captions are empty")
    needed = len(SPECIAL_TOKENS) + len(characters) + 1
    if vocab_size < needed:
        raise InputError(
            f"a vocabulary of {vocab_size} is too small: the captions hold {len(characters)} different characters; "
            f"give at least {needed}"
        )
    raw = RawTokenizer(models.BPE(unk_token=SPECIAL_TOKENS[2]))
    raw.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    raw.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(characters - {" "}),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer=trainer)
    raw.post_processor = processors.TemplateProcessing(
        single=f"$A {SPECIAL_TOKENS[1]}", special_tokens=[(SPECIAL_TOKENS[1], 1)]
    )
    pad, end, unknown = SPECIAL_TOKENS
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=pad, eos_token=end, unk_token=unknown))


def read_captions(path: Path | str) -> Sequence[str]:
    """The non-empty lines of a text file.

    Raises:
        InputError: it cannot be read, or has none.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"captions {path} cannot be read: {error}") from error
    captions = [line for line in lines if line]
    if not captions:
        raise InputError(f"captions {path} are empty; write one caption a line")
    return captions
