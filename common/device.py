"""Which device a script runs on, and why. Every call that names a device lives here."""

import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from common.errors import BadInput

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(name: str, tiny: bool = False) -> tuple[torch.device, str]:
    """The device to use and the reason to print.

    `auto` takes CUDA, then MPS, then the CPU; with `tiny` (nets whose steps take less time than an accelerator needs
    to be told about them) it takes the CPU. BadInput for a name that is unknown or a device that is not there.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        if tiny:
            return torch.device("cpu"), "the nets are too small for an accelerator to pay"
        best = next(device for device in ("cuda", "mps", "cpu") if present[device])
        return torch.device(best), "the fastest device here" if best != "cpu" else "no CUDA or MPS device here"
    if name not in present:
        raise BadInput(f"--device {name} is unknown: choose auto, cpu, cuda or mps")
    if not present[name]:
        raise BadInput(f"--device {name}: this machine or this PyTorch has no {name.upper()} device")
    return torch.device(name), "as asked"


def configure_cpu(threads: int) -> None:
    """Thread count of this process, and denormals as zeros (they slow a step tenfold when a net's weights die)."""
    _ = np.finfo(np.float32), np.finfo(np.float64)  # NumPy looks for denormals once, and warns where there are none
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def threads_asked(flag: int | None) -> tuple[int, str] | None:
    """The threads that the user wants, by a flag or else by OMP_NUM_THREADS, and who says so; None where neither does.

    BadInput for numbers that cannot be.
    """
    if flag is not None:
        if not 1 <= flag <= 1024:
            raise BadInput(f"--threads must be between 1 and 1024, not {flag}")
        return flag, "as asked"
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return (int(said), "OMP_NUM_THREADS") if said.isdigit() and int(said) > 0 else None


def faster_threads(step: Callable[[], object], many: int, seconds: float = 0.4) -> tuple[int, str]:
    """One thread or `many`, whichever makes `step()` faster now, and the two times in words.

    A second thread on a core that another process holds makes a step ten times slower, not faster. The count is set.
    """
    if many == 1:
        configure_cpu(1)
        return 1, "one core"
    took: dict[int, float] = {}
    for threads in (1, many):
        configure_cpu(threads)
        step()
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < 3 or (time.perf_counter() - began < seconds and len(times) < 200):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        took[threads] = statistics.median(times)
    best = min(took, key=lambda threads: took[threads])
    configure_cpu(best)
    told = ", ".join(f"{1e3 * took[threads]:.3g} ms a step with {threads}" for threads in took)
    return best, told


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks of up to 1 GB: otherwise each step asks the kernel for its pages again."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # absent in musl
            m_trim_threshold, m_mmap_threshold = -1, -3
            libc.mallopt(m_mmap_threshold, 1 << 30)
            libc.mallopt(m_trim_threshold, 1 << 30)


def compute_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype for activations and matrix products (parameters stay fp32), and the reason to print.

    bf16 where the processor has instructions that multiply it; fp32 elsewhere, MPS included.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "this GPU multiplies bf16"
    if device.type == "cpu":
        able = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        if any(test is not None and test() for test in able):
            return torch.bfloat16, "this CPU multiplies bf16"
    return torch.float32, f"no fast bf16 on this {device.type.upper()}"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its work, for honest timing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
