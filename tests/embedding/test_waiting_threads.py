"""Threads of torch that wait for one another leave the cores to other processes."""

import os
import subprocess
import sys

import pytest

SCRIPT = "import sys, embedding, os; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"


@pytest.mark.parametrize(("configured", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_waiting_is_passive_unless_it_is_configured(configured: dict[str, str], expected: str) -> None:
    """torch reads the variable when it is imported, so it has to be set before."""
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=inherited | configured, capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == ["False", expected]
