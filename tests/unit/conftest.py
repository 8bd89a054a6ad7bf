"""Fixtures of the unit tests: a bank under governance."""

from __future__ import annotations

import pytest

from tests.governed import Bank, fragment, frame, governed


@pytest.fixture
def bank(tmp_path) -> Bank:
    return governed(tmp_path)


@pytest.fixture
def going(bank) -> Bank:
    """With a frame, and a fragment of each branch."""
    bank.publish("frame", frame())
    bank.publish("org:bj", fragment("c1"))
    bank.publish("org:sh", fragment("c2"))
    return bank
