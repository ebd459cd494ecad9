"""Tests run side by side on several workers; those that share a costly fixture stay on one."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="module")
def costly() -> None:
    """Stand for a simulator or a store that all tests of a module use."""


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="there is one worker")
def test_tests_of_a_module_with_a_costly_fixture_have_one_worker(
    request: pytest.FixtureRequest, costly: None
) -> None:
    assert request.node.nodeid.endswith("@tests/test_side_by_side.py"), "pytest-xdist did not group it"
