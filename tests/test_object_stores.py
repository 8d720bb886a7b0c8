"""Datasets on S3 and on Google's storage: s3fs and gcsfs themselves, against a server on loopback that answers as those do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.patience import Patience
from data_pipeline.remote import RemoteFolder
from data_pipeline.schema import DataError
from tests.shard_server import ShardServer, shard_server
from tests.test_remote import QUICK, alike, data, take
from tests.test_shards import make_dataset

SIZES = (3, 4, 2)


@pytest.fixture(params=["s3", "gs"])
def address(request: pytest.FixtureRequest) -> str:
    pytest.importorskip({"s3": "s3fs", "gs": "gcsfs"}[request.param])
    return f"{request.param}://bucket/recordings/train"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    make_dataset(tmp_path / "served", "latents", SIZES)
    with shard_server(tmp_path / "served") as one:
        here = one.address.removesuffix("/data")
        for name, value in {
            "AWS_ENDPOINT_URL": here,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "STORAGE_EMULATOR_HOST": here,
        }.items():
            monkeypatch.setenv(name, value)
        # A file system of fsspec is kept for its arguments, and the last test's had another server.
        for library in ("s3fs.S3FileSystem", "gcsfs.GCSFileSystem"):
            module, name = library.split(".")
            getattr(pytest.importorskip(module), name).clear_instance_cache()
        yield one


@pytest.mark.case("D-15")
def test_a_bucket_gives_the_batches_of_the_folder_whatever_its_server_does(
    address: str, server: ShardServer, tmp_path: Path
) -> None:
    server.trouble = {"dataset.json": ["503"], "000.tar": ["503", "cut"], "002.tar": ["cut"]}
    assert alike(take(data(address), tmp_path), take(data("served"), tmp_path))
    assert not any(server.trouble.values())
    shards = {name: count for name, count in server.requests.items() if name.endswith(".tar")}
    assert len(shards) == len(SIZES)
    assert alike(take(data(address), tmp_path), take(data("served"), tmp_path))
    assert {name: count for name, count in server.requests.items() if name.endswith(".tar")} == shards


def test_what_is_missing_or_not_ours_to_read_is_said_in_a_line(address: str, server: ShardServer) -> None:
    bucket = RemoteFolder(address, 20, 1000, Patience(QUICK))
    with pytest.raises(DataError, match=rf"^{address}/009.tar is missing; upload [^\n]*$"):
        bucket.read("009.tar")
    server.trouble = {"000.tar": ["403"]}
    with pytest.raises(DataError, match=rf"^{address}/000.tar may not be read [^\n]*credentials$"):
        bucket.read("000.tar")
