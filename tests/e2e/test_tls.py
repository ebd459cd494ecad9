"""The whole engine over TLS, stream and REST, with a private authority; and with the wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from mdstream.errors import Exit
from tests.running import HANGING_S, engine, settings, simulator, until


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """A private authority's bundle, and the simulator's flags for a certificate it issued."""
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    bundle, key, chain = (tmp_path / name for name in ("ca.pem", "key.pem", "chain.pem"))
    ca.cert_pem.write_to_path(bundle)
    issued.private_key_pem.write_to_path(key)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    return bundle, ("--tls-certificate", str(chain), "--tls-key", str(key))


def test_streams_and_fetches_run_over_tls(tmp_path: Path, authority: tuple[Path, tuple[str, ...]]) -> None:
    bundle, flags = authority
    with simulator("--rate", "100", *flags) as sim:
        assert sim.stream_url.startswith("wss://")
        assert sim.data_url.startswith("https://")
        values = settings(sim, tmp_path, streams=["stocks", "options"], ca_file=str(bundle))
        with engine(values) as running:
            run = running.attachment
            until(lambda: run.rows("stocks.quotes") > 50 and run.rows("options.quotes") > 50)
            assert run.rows("stocks.snapshots") == 10
    assert running.exit_code == Exit.OK


def test_a_certificate_of_another_authority_is_one_clear_line(
    tmp_path: Path, authority: tuple[Path, tuple[str, ...]]
) -> None:
    _, flags = authority
    log = tmp_path / "log"
    with simulator("--rate", "10", *flags) as sim, log.open("w") as out:
        import mdstream

        with mdstream.Engine(settings(sim, tmp_path, streams=["crypto"]), log=out) as running:
            assert running.wait(HANGING_S)
    assert running.exit_code == Exit.CREDENTIALS
    assert running.report is not None
    crypto = running.report["streams"]["crypto"]
    assert "does not verify" in crypto["reason"]
    assert "set ca_file" in crypto["reason"]
    said = [line for line in log.read_text().splitlines() if "does not verify" in line]
    assert len(said) == 1
    assert len(crypto["symbols_failed"]) in (0, 5)
