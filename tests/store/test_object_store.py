"""A store in an object store, with the S3 server of moto."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

import mdstream
from mdstream.config import StoreConfig
from mdstream.errors import NoStoreError, StoreError
from mdstream.reading.attach import Attachment
from mdstream.recording.recorder import Recorder
from mdstream.store.folders import check_store
from mdstream.store.objects import storage_options, summarize_error
from tests.feed.test_pipeline import payloads
from tests.piping import rig
from tests.recording.test_recorder import assert_recorded, mark_ended
from tests.running import HANGING_S

BUCKET = "market"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start an S3 server with a bucket; yield its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        url = next(
            found[1] for line in process.stderr if (found := re.search(r"(http://[\d.]+:\d+)", line))
        )
        made = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
        urllib.request.urlopen(made, timeout=HANGING_S).close()
        # The server's log must not fill the pipe.
        reading = threading.Thread(target=process.stderr.read)
        reading.start()
        yield url
        process.terminate()
        reading.join()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{request.node.name}"


def test_a_bucket_that_is_not_there_is_reported_before_a_run(bucket: str) -> None:
    check_store(bucket)
    with pytest.raises(StoreError, match=r"s3://none/x cannot be used: NoSuchBucket: The specified"):
        check_store("s3://none/x")
    with pytest.raises(StoreError, match=r"s3://none/x/stocks\.trades cannot be read: NoSuchBucket"):
        mdstream.scan("stocks.trades", "s3://none/x")


def test_what_a_library_says_of_an_object_store_becomes_a_line() -> None:
    text = (
        "Generic S3 error\n   \x1b[31m↳\x1b[0m Error performing GET http://127.0.0.1/b in 2.3 ms\n"
        "    \x1b[31m↳\x1b[0m client error (Connect)\n     \x1b[31m↳\x1b[0m Connection refused\n"
    )
    assert summarize_error(OSError(text)) == "Generic S3 error: Connection refused"
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
            assert not (await asyncio.wait_for(at_work, HANGING_S)).finished

    uvloop.run(go())


def test_a_bucket_holds_what_a_folder_would(tmp_path: Path, bucket: str) -> None:
    options = storage_options(bucket)

    async def go() -> None:
        async with rig("stocks", 0, tmp_path) as r:
            recorder = Recorder(r.run, StoreConfig(bucket, every_s=0.5))
            at_work = asyncio.ensure_future(recorder.run())
            everything = payloads("stocks", 4_000, 20)
            await r.feed(everything[:100])
            while not recorder.state.rows:
                await asyncio.sleep(0.05)
            recorder.stop()
            assert not (await at_work).finished
            at_work = asyncio.ensure_future(Recorder(r.run, StoreConfig(bucket)).run())
            await r.feed(everything[100:])
            await r.drain()
            mark_ended(r.run)
            assert (await at_work).finished
            run = Attachment(r.run)
            assert assert_recorded(run, bucket, options=options) > 4_000
            found = mdstream.scan("stocks.trades", bucket, amended=True).collect()
            assert found.height == run.rows("stocks.trades")
            with pytest.raises(NoStoreError):
                mdstream.scan("crypto.trades", bucket)

    uvloop.run(go())
