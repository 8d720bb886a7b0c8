"""What one machine says of itself and of a folder: the facts that `launch/doctor.py` judges and compares over nodes."""

import fcntl
import importlib.metadata
import os
import platform
import shutil
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

SIOCGIFADDR = 0x8915  # netdevice(7)
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


class Interface(NamedTuple):
    """What gloo is told to use on a machine, else what leads out of it."""

    name: str
    address: str  # IPv4; "" where there is no interface of that name
    chosen: bool  # whether the environment names it
    others: tuple[str, ...]  # the names of all there are


def interface() -> Interface:
    """By GLOO_SOCKET_IFNAME or the routing table; no packet is sent."""
    there = tuple(name for _, name in socket.if_nameindex())
    chosen = os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    if chosen:
        return Interface(chosen, address_of(chosen), True, there)
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    default = next((row[0] for row in routes if row[1] == "00000000"), "lo")
    return Interface(default, address_of(default), False, there)


def address_of(name: str) -> str:
    """IPv4 address of an interface; "" where there is no such interface or it has none."""
    asked = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, asked)
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


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
