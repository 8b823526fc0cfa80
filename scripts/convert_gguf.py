"""Convert a GGUF file to a folder of safetensors, tokenizer and config that vLLM and transformers serve.

    python scripts/convert_gguf.py MODEL.gguf FOLDER

Run it with the interpreter of an environment that has transformers >= 5, gguf and accelerate, such as the one that
`scripts/serve_smol.sh` makes. Quantised weights come back as bfloat16. The folder appears complete or not at all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["add_bos", "convert"]


def convert(gguf: Path, folder: Path) -> None:
    """Write `folder` from `gguf`; nothing is done where the folder already exists."""
    if (folder / "config.json").is_file():
        print(f"convert: {folder} is there already")
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    print(f"convert: {gguf.name} -> {folder}", flush=True)
    # Without dequantize=True the quantised tensors cannot be saved as safetensors.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if wants_bos(gguf):
        add_bos(tokenizer)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial.chmod(0o755)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"convert: {folder}, {sum(weight.numel() for weight in model.parameters()):,} weights", flush=True)


def wants_bos(gguf: Path) -> bool:
    """Whether the file says that prompts start with the begin-of-sequence token."""
    from gguf import GGUFReader

    entry = GGUFReader(gguf).get_field("tokenizer.ggml.add_bos_token")
    return entry is not None and bool(entry.contents())


def add_bos(tokenizer: Any) -> None:
    """Make a fast tokenizer start every prompt with its begin-of-sequence token.

    The conversion loses this rule; without the token Gemma's answers are noise.
    """
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    if tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]:
        return
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.bos_token_id)]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Convert a GGUF file to safetensors.")
    parser.add_argument("gguf", type=Path, help="the GGUF file")
    parser.add_argument("folder", type=Path, help="the folder to write")
    options = parser.parse_args(arguments)
    if not options.gguf.is_file():
        print(f"convert: no file {options.gguf}; give the path of a GGUF file", file=sys.stderr)
        return 2
    convert(options.gguf, options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
