"""Turns a GGUF file into a transformers folder of bfloat16 safetensors, once."""

from __future__ import annotations

import struct
from pathlib import Path

from tamis.errors import WeightsError

MAGIC = b"GGUF"


def check_gguf(path: Path) -> None:
    """Read the header and see that every tensor lies inside the file.

    llama.cpp may abort the whole process on a broken file, so this looks first.

    Raises:
        WeightsError: not a GGUF file, or a truncated one.
    """
    from gguf import GGUFReader

    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise WeightsError(f"{path} does not start with GGUF: give a GGUF file or fetch it again")
    try:
        reader = GGUFReader(str(path))
        end = max((int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors), default=0)
    except (ValueError, IndexError, KeyError, OSError, struct.error, OverflowError) as error:
        raise WeightsError(f"{path} is truncated or damaged: delete it and fetch it again") from error
    size = path.stat().st_size
    if end == 0 or end > size:
        raise WeightsError(f"{path} is truncated: it has {size} bytes, its tensors need {end}; fetch it again")


def write_folder(path: Path, folder: Path) -> None:
    """Dequantise a decoder's GGUF file into `folder`: config, bfloat16 weights, tokenizer.

    Raises:
        WeightsError: the file is damaged or of an architecture transformers cannot read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_gguf(path)
    try:
        source = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, KeyError) as error:
        raise WeightsError(f"{path} cannot be read as a transformers model: {str(error).splitlines()[0]}") from error
    config = source.config
    if hasattr(config, "quantization_config"):
        # save_pretrained refuses weights that claim to be quantised; these no longer are.
        del config.quantization_config
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(source.state_dict(), assign=True, strict=False)
    fresh.tie_weights()
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
