"""``gen3r embed-prompts``: prompt embeddings on disk, so that a robot never loads the text encoder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gen3r_core.checkpoint.packaged import PACKAGED
from gen3r_core.commands.options import add_device_options, choose_device, choose_dtype, loading_bar


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("embed-prompts", help="store prompt embeddings for use without the text encoder")
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", help=f"checkpoint with text encoder and tokenizer (default {PACKAGED})"
    )
    parser.add_argument("output", type=Path, help="safetensors file to write")
    parser.add_argument("--prompts", nargs="+", default=[], help="prompt texts")
    parser.add_argument("--prompts_file", type=Path, help="text file with one prompt a line")
    parser.add_argument(
        "--negative_prompt", nargs="*", default=[], help="more negative prompts (upstream's and the empty one are in)"
    )
    add_device_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Embed and write."""
    from gen3r_core.checkpoint.folder import open_checkpoint
    from gen3r_core.checkpoint.loading import load_component
    from gen3r_core.errors import CheckpointError, InputError
    from gen3r_core.models.text_encoder import TextEncoder, Tokenizer
    from gen3r_core.prompts import DEFAULT_NEGATIVE, embed_prompts, read_prompts

    texts = [*args.prompts, *(read_prompts(args.prompts_file) if args.prompts_file else [])]
    if not texts:
        raise InputError("no prompts were given: use --prompts TEXT ... or --prompts_file FILE")
    checkpoint = open_checkpoint(args.checkpoint)
    if checkpoint.tokenizer is None:
        raise CheckpointError(f"{checkpoint.root} has no tokenizer folder, which prompts need")
    text_len = int(checkpoint.component("transformer").config.get("text_len", 512))
    tokenizer = Tokenizer.from_folder(checkpoint.tokenizer)
    device = choose_device(args.device)
    with loading_bar() as progress:
        encoder = load_component(
            checkpoint.component("text_encoder"),
            device=device,
            dtype=choose_dtype(args.dtype, device),
            progress=progress,
        )
    if not isinstance(encoder, TextEncoder):
        raise CheckpointError(f"{checkpoint.root} has no UMT5 text encoder")
    cache = embed_prompts([*texts, *args.negative_prompt, DEFAULT_NEGATIVE, ""], tokenizer, encoder, text_len)
    cache.save(args.output, model=PACKAGED if args.checkpoint is None else args.checkpoint.name)
    print(f"{len(cache)} prompts in {args.output}")
    return 0
