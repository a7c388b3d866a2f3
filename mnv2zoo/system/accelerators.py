"""Whether PyTorch could have an accelerator here, found out without importing it, which takes seconds."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

# Device files of drivers: NVIDIA's (on Jetson and in WSL too), AMD's, and those of accelerators with PyTorch plug-ins.
DEVICES = ("nvidiactl", "nvidia0", "nvhost-gpu", "nvmap", "dxg", "kfd", "accel", "davinci_manager", "hl0", "neuron0")
INTEL = "dri"  # of any graphics card, so it counts only for PyTorch's build for Intel GPUs


def may_be_here() -> bool:
    """Whether PyTorch may find an accelerator.

    Returns:
        False only if there certainly is no accelerator: PyTorch was built for the CPU only, or a driver is missing.
    """
    if sys.platform == "darwin":
        return platform.machine() == "arm64"  # mps
    try:
        build = importlib.metadata.version("torch").partition("+")[2]
    except importlib.metadata.PackageNotFoundError:  # built by hand
        build = ""
    if build.startswith("cpu"):
        return False
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32/nvcuda.dll").exists() or bool(build)
    return any(Path("/dev", name).exists() for name in (*DEVICES, *([INTEL] if build.startswith("xpu") else [])))
