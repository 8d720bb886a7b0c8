"""The process that owns a desktop's processes, so that none outlives the recorder: not after a crash, not after SIGKILL.

Run as a script (standard library only). It makes a private folder, starts Xvfb, starts programs when told to, says when one
dies or was closed, and, when its standard input closes or its parent is gone, kills all that it started and removes the folder.
Lines of JSON go in: the settings, then {"start": {name: argv}}, {"stop": {file: text}} or {"end": true}. Lines of JSON come out.
"""

import ctypes
import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PREFIX = "wm-x11-"
LOCK = "keeper.lock"
HOME = "home"  # the programs' own, in the folder
FENCE = Path(__file__).with_name("x11_fence.py")
_PR_SET_CHILD_SUBREAPER = 36
_FAMILY_LOCAL = 256
_PARENT_CHECK_SECONDS = 1.0
_PF_EXITING = 0x4
# A process of ours dies with the keeper and can never gain privileges.
_TIED = ["setpriv", "--pdeathsig", "KILL", "--no-new-privs", "--"]


def sweep(root: Path) -> None:
    """Remove our folders under `root` whose keeper is gone: a lock that can be taken is nobody's."""
    for folder in root.glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with open(folder / LOCK, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):  # in use, or another sweeper was faster
            continue


def private_folder(root: Path) -> tuple[Path, int]:
    """A new folder that only we may enter (0700), and the descriptor of the lock that says it is in use."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(folder / ".lock", folder / LOCK)  # locked before a sweeper can see it
    return folder, lock


def write_cookie(path: Path) -> None:
    """An X authority file with a fresh MIT-MAGIC-COOKIE-1 that fits any display number of this host."""
    fields = (socket.gethostname().encode(), b"", b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16))
    entry = struct.pack(">H", _FAMILY_LOCAL) + b"".join(struct.pack(">H", len(f)) + f for f in fields)
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as file:
        file.write(entry)


class Keeper:
    """Xvfb and the programs on it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.home = folder / HOME
        self.home.mkdir(mode=0o700)
        self.settings = settings
        self.programs: dict[int, str] = {}
        self.server = 0
        self.display = 0
        self.socket_inode = 0

    def start_server(self) -> None:
        """Xvfb on a free display number that it picks itself; no TCP, our cookie, built-in fonts, no key repeat."""
        write_cookie(self.folder / "authority")
        ours, theirs = os.pipe()
        screen = f"{self.settings['width']}x{self.settings['height']}x24"
        argv = ["Xvfb", "-displayfd", str(theirs), "-screen", "0", screen, "-nolisten", "tcp"]
        argv += ["-auth", str(self.folder / "authority"), "-fp", "built-ins", "-r", "-noreset", "-s", "0"]
        argv += ["-extension", "GLX"]
        self.server = self._spawn(_TIED + argv, pass_fds=(theirs,))
        os.close(theirs)
        number = _line(ours, self.settings["start_seconds"])
        os.close(ours)
        if not number.strip().isdigit():
            log = (self.folder / "log").read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"Xvfb did not start: {log[-1] if log else 'it said nothing'}")
        self.display = int(number)
        self.socket_inode = self._socket_name().stat().st_ino if self._socket_name().exists() else 0

    def start(self, programs: dict[str, list[str]]) -> dict[str, int]:
        """Start each named program; its process id."""
        fence = {"home": str(self.home), "mount": self.settings["mount"], "landlock": self.settings["landlock"]}
        prefix = [*_TIED, sys.executable, "-I", str(FENCE), json.dumps(fence)]
        started = {name: self._spawn(prefix + argv) for name, argv in programs.items()}
        self.programs |= {pid: name for name, pid in started.items()}
        return started

    def stop(self) -> None:
        """Kill all programs and their children, and wait until they are gone, with all that they wrote; Xvfb stays."""
        self.programs.clear()
        while others := [pid for pid in self._children() if pid != self.server]:
            for pid in others:  # as their subreaper we inherit the children of what we kill, and kill them next
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        shutil.rmtree(self.home)
        self.home.mkdir(mode=0o700)

    def furnish(self, files: dict[str, str]) -> None:
        """Write `files` into the programs' HOME; a name that ends with a slash is a folder."""
        for name, text in files.items():
            path = self.home / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True, mode=0o700)
            if not name.endswith("/"):
                path.write_text(text)

    def close(self) -> None:
        """Everything away: programs, Xvfb, its socket, the folder."""
        self.stop()
        if self.server:
            os.kill(self.server, signal.SIGKILL)
            os.waitpid(self.server, 0)
        self._remove_socket()
        shutil.rmtree(self.folder, ignore_errors=True)

    def bury(self) -> tuple[list[str], list[str]]:
        """Names of what died since the last call, and of what ended as programs do that a hand closes."""
        died: list[str] = []
        closed: list[str] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return died, closed
            if pid == 0:
                return died, closed
            if pid == self.server:
                self.server = 0
                died.append("Xvfb")
            elif pid in self.programs:
                (closed if status == 0 else died).append(self.programs.pop(pid))

    def server_is_ending(self) -> bool:
        """Whether Xvfb is on its way out: its end takes the programs along, and can be known after theirs."""
        try:
            fields = Path(f"/proc/{self.server}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return fields[0] in "ZX" or bool(int(fields[6]) & _PF_EXITING)

    def _remove_socket(self) -> None:
        """A killed Xvfb leaves its socket's name behind; the inode tells ours from a later server's."""
        socket_name = self._socket_name()
        if self.socket_inode and socket_name.exists() and socket_name.stat().st_ino == self.socket_inode:
            socket_name.unlink(missing_ok=True)

    def _socket_name(self) -> Path:
        return Path(f"/tmp/.X11-unix/X{self.display}")

    def _children(self) -> list[int]:
        me = os.getpid()
        return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]

    def _spawn(self, argv: list[str], pass_fds: tuple[int, ...] = ()) -> int:
        home = self.settings["mount"] or str(self.home)  # as the programs see it
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": home,
            "LANG": "C.UTF-8",
            "DISPLAY": f":{self.display}",
            "XAUTHORITY": str(self.folder / "authority"),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={home}/.bus",
            "XDG_RUNTIME_DIR": f"{home}/.run",
            **self.settings["variables"],
        }
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=environment,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        process.returncode = 0  # we wait for it ourselves, in bury and stop
        return process.pid


def _line(descriptor: int, seconds: float) -> bytes:
    """Bytes up to a newline; fewer if the writer is gone or the time is over. Xvfb writes its number and newline apart."""
    deadline = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(descriptor, 32) if ready else b""
        if not data:
            return b""
        line += data
    return line


def serve(keeper: Keeper) -> None:
    """Obey until told to end, until standard input closes, or until the parent is gone (a fork of it may hold the pipe)."""
    parent = os.getppid()
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    lines = b""
    while os.getppid() == parent:
        ready, _, _ = select.select([0, wake], [], [], _PARENT_CHECK_SECONDS)
        if wake in ready:
            os.read(wake, 4096)
            died, closed = keeper.bury()
            if died or (closed and keeper.server_is_ending()):  # a program without its server may end politely
                say({"died": "Xvfb" if "Xvfb" in died or keeper.server_is_ending() else died[0]})
            for name in closed:
                say({"closed": name})
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                return
            *whole, lines = (lines + data).split(b"\n")
            for line in whole:
                command = json.loads(line)
                if "end" in command:
                    return
                obey(keeper, command)


def obey(keeper: Keeper, command: dict[str, Any]) -> None:
    if "start" in command:
        say({"pids": keeper.start(command["start"])})
    else:
        keeper.stop()
        keeper.furnish(command["stop"])
        say({"stopped": True})


def say(message: dict[str, Any]) -> None:
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:  # the recorder is gone; standard input says so too, and ends us
        return


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the recorder decides when we end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    settings = json.loads(sys.stdin.buffer.readline())
    root = Path(settings["root"])
    sweep(root)
    folder, _ = private_folder(root)
    keeper = Keeper(folder, settings)
    try:
        keeper.start_server()
        say({"display": keeper.display, "folder": str(folder), "server": keeper.server})
        serve(keeper)
    except (OSError, RuntimeError) as error:
        say({"error": str(error)})
    finally:
        keeper.close()


if __name__ == "__main__":
    main()
