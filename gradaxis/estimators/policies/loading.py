"""Where a model comes from, and what must be true before it is loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from gradaxis.errors import InputError

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SAMPLED_VALUES = 64


def find_source(name_or_path: str, gguf_file: str | None) -> tuple[str, str | None]:
    """The folder or hub id, and the GGUF file inside it, if any. A path that ends in `.gguf` is split into the two.

    Raises:
        InputError: the GGUF file does not exist.
    """
    path = Path(name_or_path).expanduser()
    if gguf_file is None and path.suffix.lower() == ".gguf":
        path, gguf_file = path.parent, path.name
    is_local = path.is_dir()
    if gguf_file is not None and is_local and not (path / gguf_file).is_file():
        raise InputError("gguf_file", f"{path / gguf_file}, which does not exist", "a GGUF file")
    if not is_local and gguf_file is not None and path != Path(name_or_path).expanduser():
        raise InputError("model", f"{name_or_path}, in a folder that does not exist", "a GGUF file")
    return (str(path) if is_local else name_or_path), gguf_file


def refuse_pickled_weights(source: str) -> None:
    """Raises InputError when a local folder holds pickled weights and no safetensors: a pickle can run code."""
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = [file.name for pattern in PICKLED for file in folder.glob(pattern)]
    if pickled:
        remedy = "A pickle can run code: convert it, or pass --allow-pickle (allow_pickle=True) if you trust its author"
        raise InputError("model", f"pickled weights ({pickled[0]})", "safetensors or GGUF", remedy)


def parse_device(device: str | torch.device) -> torch.device:
    """The device, which must exist here; `auto` is the first CUDA device, else the CPU.

    Raises:
        InputError: the name is not a device, or this machine or build of torch has no such device.
    """
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise InputError("device", repr(device), "auto, cpu, cuda, cuda:N or mps") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    available = count.get(parsed.type, 0)
    if (parsed.index or 0) >= available:
        here = ", ".join(f"{kind} ({number})" for kind, number in count.items() if number)
        raise InputError("device", f"{device}, which is not here", f"one of {here}", "Try --device cpu")
    return parsed


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype by name. Raises InputError when it is not one of DTYPES."""
    found = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(dtype.removeprefix("torch."))
    if found is None or found not in DTYPES.values():
        raise InputError("dtype", repr(dtype), f"one of {', '.join(DTYPES)}")
    return found


def fingerprint(model: nn.Module) -> str:
    """Twelve hex digits from the names, the shapes and 64 values of every parameter: one update changes them."""
    digest = hashlib.sha256()
    for name, value in model.named_parameters():
        flat = value.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // SAMPLED_VALUES)][:SAMPLED_VALUES]
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(sample.to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()[:12]
