"""Files at an address (s3, gs, http, https, file), read block by block through fsspec; the only file that knows it.

What a server or a network could not give at the moment is an OSError that patience tries again; what waiting cannot heal is
a DataError. No block is waited for without end.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import fsspec
from fsspec.asyn import sync

from data_pipeline.patience import TRANSIENT, Patience
from data_pipeline.schema import DataError

# What reads each protocol. Others are refused: fsspec knows some that unpack, chain or run things.
PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp", "file": "fsspec"}

# gcsfs would ask at every read what kind a bucket is, by another service and with credentials that a public one does without.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers of a server that a moment later may be others
_DENIED = frozenset({401, 403})


def is_address(name: str) -> bool:
    """Whether `name` is an address and not a folder of this machine."""
    return "://" in name


class RemoteFolder:
    """The files directly under an address."""

    def __init__(self, address: str, timeout_seconds: float, block_bytes: int, patience: Patience) -> None:
        self.address = _checked(address)
        self.timeout_seconds, self.block_bytes, self.patience = timeout_seconds, block_bytes, patience
        protocol = urlsplit(address).scheme
        # Proxies and ~/.netrc are taken from the environment; listings are never asked for.
        options: dict[str, Any] = {"client_kwargs": {"trust_env": True}} if PROTOCOLS[protocol] == "aiohttp" else {}
        self._files = fsspec.filesystem(protocol, **options)

    def where(self, name: str) -> str:
        """The address of the file `name`."""
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes:
        """A whole small file."""
        return self.patience(partial(self._read, name, None, None), self.where(name))

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        """The `size` bytes of a file in order; a block that fails is read again, those before it are not."""
        start = 0
        while start < size:
            stop = min(start + self.block_bytes, size)
            block = self.patience(partial(self._block, name, start, stop, size), self.where(name))
            yield block
            start += len(block)

    def _block(self, name: str, start: int, stop: int, size: int) -> bytes:
        """Bytes [start, stop), or all that follow `start` from a server that knows no ranges."""
        data = self._read(name, start, stop)
        if len(data) == stop - start:
            return data
        if len(data) == size:
            return data[start:]
        problem = f"{len(data)} bytes came, bytes {start} to {stop} of {size} were asked"
        raise ConnectionResetError(errno.ECONNRESET, problem)

    def _read(self, name: str, start: int | None, stop: int | None) -> bytes:
        where = self.where(name)
        with self._translated(where):
            if not self._files.async_impl:  # a kernel's own files, which have no time-out to give
                data: bytes = self._files.cat_file(where, start=start, end=stop)
                return data
            data = sync(
                self._files.loop, self._files._cat_file, self._files._strip_protocol(where), start=start, end=stop,
                timeout=self.timeout_seconds,
            )  # fmt: skip
            return data

    @contextmanager
    def _translated(self, where: str) -> Iterator[None]:
        """What the libraries of the protocols raise, as an OSError that waiting may heal or as a DataError."""
        try:
            yield
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, f"nothing came for {self.timeout_seconds:g} s") from error
        except FileNotFoundError as error:
            raise DataError(f"{where} is missing; upload the dataset again, or correct the address") from error
        except Exception as error:
            given = str(getattr(error, "status", None) or getattr(error, "code", None))
            status = int(given) if given.isdigit() else None
            text = " ".join(str(error).split())  # gcsfs adds the server's answer in lines of its own
            if status in _DENIED or isinstance(error, PermissionError) or text.startswith("Forbidden"):
                raise DataError(f"{where} may not be read ({text}); give this machine the right credentials") from error
            lost = isinstance(error, aiohttp.ClientError | ConnectionError) and status is None
            if status in _BUSY or lost or (isinstance(error, OSError) and error.errno in TRANSIENT):
                problem = f"the server answers {status}" if status else f"{type(error).__name__}: {text}"
                raise OSError(errno.EREMOTEIO, problem) from error
            raise DataError(f"{where} cannot be read: {type(error).__name__}: {text}") from error


def _checked(address: str) -> str:
    """`address` without a last slash; DataError where it is of no use or would put a secret into logs."""
    parts = urlsplit(address)
    if parts.scheme not in PROTOCOLS or "::" in address:
        known = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise DataError(f"{address}: shards are not read from {parts.scheme}://; valid are {known}")
    if parts.username or parts.password or parts.query or parts.fragment:
        shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise DataError(
            f"{shown}: an address is written into logs, so it holds no user, password, query or fragment; "
            "give credentials by the environment or ~/.netrc"
        )
    library = PROTOCOLS[parts.scheme]
    if find_spec(library) is None:
        raise DataError(f"{address}: {parts.scheme}:// needs {library}; run pip install '.[remote]'")
    return address.rstrip("/")
