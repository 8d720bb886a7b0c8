"""Runs a program so that no click can do harm: without a network, in a home of its own, writing nowhere else.

A script, standard library only: `python -I x11_fence.py SETTINGS program argument ...` becomes that program. SETTINGS is JSON:
"home" is the folder that it may write in; with "mount" it sees that folder at another place, the same on every machine, as a
user of namespaces of its own; with "landlock" the kernel holds it to that folder (kernel.org, "Landlock: unprivileged access
control"): it reads only what packages have installed, and reaches no TCP address. Whatever it starts is as restricted.
"""

import ctypes
import json
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

USER = 1000  # who a program believes to be
_NEW_FOLDERS, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000  # what unshare makes anew
_BIND, _PRIVATE, _RECURSIVE = 4096, 1 << 18, 16384  # flags of mount
_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # Landlock's system calls, the same numbers on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_SET_NO_NEW_PRIVS = 38

# Landlock's rights by their bits: execute, write a file, read a file, read a folder; the others change folders.
_EXECUTE, _WRITE, _READ, _LIST = (1 << bit for bit in range(4))
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}  # that version 1, 2 and 3 know
_TCP = 0b11  # bind and connect, from version 4 on
_FILE_RIGHTS = _EXECUTE | _WRITE | _READ | (1 << 14)  # of a rule for a file that is no folder

INSTALLED = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/var/lib", "/var/cache", "/proc", "/sys")


def isolate(home: Path, mount: Path) -> None:
    """From here on `home` is at `mount` too, and there is no network; OSError where the kernel does not allow it."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    _checked(libc.unshare(_NEW_USER | _NEW_FOLDERS | _NEW_NETWORK))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{USER} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{USER} {group} 1")
    _checked(libc.mount(None, b"/", None, _PRIVATE | _RECURSIVE, None))
    _checked(libc.mount(os.fsencode(home), os.fsencode(mount), None, _BIND | _RECURSIVE, None))
    os.chdir(mount)


def landlock_version() -> int:
    """The version of Landlock that this kernel has; 0 for none."""
    return max(0, _call(_CREATE, None, 0, _VERSION))


def fence(home: Path) -> None:
    """From here on this process and its children write in `home` and to devices only; OSError where the kernel cannot."""
    known = landlock_version()
    if known == 0:
        raise OSError("this kernel has no Landlock")
    rights = _RIGHTS[min(known, 3)]
    settings = struct.pack("QQ", rights, _TCP) if known >= 4 else struct.pack("Q", rights)
    rules = _checked(_call(_CREATE, settings, len(settings), 0))
    _allow(rules, home, rights)
    _allow(rules, home.parent / "authority", _READ)
    _allow(rules, Path("/dev"), rights & (_WRITE | _READ | _LIST))
    for name in INSTALLED:
        if os.path.exists(name):
            _allow(rules, Path(name), _EXECUTE | _READ | _LIST)
    _checked(ctypes.CDLL(None, use_errno=True).prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(_call(_RESTRICT, rules, 0))
    os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights if path.is_dir() else rights & _FILE_RIGHTS, place)
        _checked(_call(_ADD_RULE, rules, _PATH_BENEATH, rule, 0))
    finally:
        os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    converted = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return int(libc.syscall(ctypes.c_long(number), *converted))


def _checked(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def become(settings: dict[str, Any], argv: Sequence[str]) -> None:
    """Restrict this process as `settings` say, and become `argv`."""
    home = Path(settings["home"])
    if settings["mount"]:
        isolate(home, Path(settings["mount"]))
    if settings["landlock"]:
        fence(home)
    os.execvp(argv[0], list(argv))


if __name__ == "__main__":
    become(json.loads(sys.argv[1]), sys.argv[2:])
