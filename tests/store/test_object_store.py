"""A store in an object store, here moto's server of S3."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

import mdstream
from mdstream.config import StoreConfig
from mdstream.errors import NoStoreError, StoreError
from mdstream.reading.attach import Attachment
from mdstream.recording.recorder import Recorder, check_store
from mdstream.store.objects import storage_options, summarize_error
from tests.feed.test_pipeline import payloads
from tests.piping import rig
from tests.recording.test_recorder import assert_recorded, end

BUCKET = "market"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ},
    )
    try:
        for attempt in range(100):
            try:
                made = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
                urllib.request.urlopen(made, timeout=5).close()
                break
            except OSError:
                assert attempt < 99, "moto does not answer"
                time.sleep(0.1)
        yield f"s3://{BUCKET}/store"
    finally:
        server.terminate()
        server.wait()


def test_a_bucket_that_is_not_there_is_told_before_a_run(bucket: str) -> None:
    check_store(bucket)
    with pytest.raises(StoreError, match=r"s3://none/x cannot be used: NoSuchBucket: The specified"):
        check_store("s3://none/x")
    with pytest.raises(StoreError, match=r"s3://none/x/stocks\.trades cannot be read: NoSuchBucket"):
        mdstream.scan("stocks.trades", "s3://none/x")


def test_what_a_library_says_of_an_object_store_becomes_a_line() -> None:
    said = (
        "Generic S3 error\n   \x1b[31m↳\x1b[0m Error performing GET http://127.0.0.1/b in 2.3 ms\n"
        "    \x1b[31m↳\x1b[0m client error (Connect)\n     \x1b[31m↳\x1b[0m Connection refused\n"
    )
    assert summarize_error(OSError(said)) == "Generic S3 error: Connection refused"
    assert summarize_error(OSError("No space left on device")) == "No space left on device"
    assert summarize_error(ValueError()) == "ValueError"


def test_a_recorder_whose_store_fails_ends_when_asked_and_says_why(tmp_path: Path, bucket: str) -> None:
    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            await r.feed(payloads("stocks", 400, 20))
            await r.drain()
            recorder = Recorder(r.run, StoreConfig("s3://none/x", every_s=0.5))
            at_work = asyncio.ensure_future(recorder.run())
            while not recorder.state.trouble:
                await asyncio.sleep(0.1)
            assert "NoSuchBucket" in recorder.state.trouble
            recorder.stop()
            assert not (await asyncio.wait_for(at_work, 20)).finished

    uvloop.run(go())


def test_a_bucket_holds_what_a_folder_would(tmp_path: Path, bucket: str) -> None:
    options = storage_options(bucket)

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            recorder = Recorder(r.run, StoreConfig(bucket, every_s=0.5))
            at_work = asyncio.ensure_future(recorder.run())
            everything = payloads("stocks", 4_000, 20)
            await r.feed(everything[:100])
            await asyncio.sleep(2)
            recorder.stop()
            assert not (await at_work).finished
            at_work = asyncio.ensure_future(Recorder(r.run, StoreConfig(bucket)).run())
            await r.feed(everything[100:])
            await r.drain()
            end(r.run)
            assert (await at_work).finished
            run = Attachment(r.run)
            assert assert_recorded(run, bucket, options=options) > 4_000
            found = mdstream.scan("stocks.trades", bucket).collect()
            assert found.height == run.rows("stocks.trades")
            with pytest.raises(NoStoreError):
                mdstream.scan("crypto.trades", bucket)

    uvloop.run(go())
