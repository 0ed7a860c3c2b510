"""The daemon depends on two private names of Dagster. A version without them must not go unnoticed."""

import subprocess
import sys

SCRIPT = """
from unittest.mock import patch
from dagster._daemon import cli, controller, sensor
from orchestration import daemon
before = sensor.MIN_INTERVAL_LOOP_TIME, controller.DEFAULT_DAEMON_INTERVAL_SECONDS
with patch.object(cli, "main"):
    daemon.main()
print(*before, sensor.MIN_INTERVAL_LOOP_TIME, controller.DEFAULT_DAEMON_INTERVAL_SECONDS)
"""


def test_the_pauses_of_dagsters_daemon_are_shortened() -> None:
    """In a process of its own, because the names are changed for good."""
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["5", "30", "1", "2"]
