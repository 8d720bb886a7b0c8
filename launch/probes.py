"""What one machine says of itself and of a folder: the facts that `launch/doctor.py` judges and compares over nodes."""

import importlib.metadata
import os
import platform
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "deepspeed", "ray", "webdataset", "safetensors", "numpy")


def facts(root: str) -> dict[str, Any]:
    """Of the machine that this runs on, with what happened when a file was written under `root`."""
    return {
        "host": socket.gethostname(),
        "clock": time.time(),
        "versions": versions(),
        "gpus": gpus(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "interface": interface(),
        "shared_memory": shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0,
        "storage": storage(Path(root)),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def gpus() -> list[tuple[str, int]]:
    """Name and bytes of memory of each."""
    seen = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(device.name, device.total_memory) for device in seen]


def interface() -> tuple[str, str]:
    """Name and address of what leads out of this machine, by the routing table; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address that is reserved for examples
            address = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    default = next((row[0] for row in routes if row[1] == "00000000"), "lo")
    return default, address


def storage(root: Path) -> dict[str, Any]:
    """Free bytes and the seconds of write, fsync and rename of 8 MiB; `error` says what failed."""
    partial, final = (root / f".doctor-{socket.gethostname()}-{os.getpid()}.{end}" for end in ("partial", "whole"))
    data, began = os.urandom(8 << 20), time.monotonic()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(final)
        if final.read_bytes() != data:
            return {"error": "what was written is not what is read back"}
        return {"free": shutil.disk_usage(root).free, "seconds": time.monotonic() - began}
    except OSError as error:
        return {"error": str(error)}
    finally:
        for path in (partial, final):
            with suppress(OSError):
                path.unlink()
