"""The systemd units and the Procfile: valid, confined, and about commands that exist."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from cli.processes import KILLED_SECONDS, STOP_SECONDS
from tests.deploy.programs import DEPLOY, require_command, require_settings, without_directory
from tests.docs.pages import Page, commands_in

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
PARTS = ("up", "vector-store", "search-app", "embedding-service", "worker")
units = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)


@units
@pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="systemd is missing")
def test_unit_has_the_format(unit: Path, tmp_path: Path) -> None:
    """Without the programs, which are not installed here."""
    assert SYSTEMD_ANALYZE
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"/opt/course-search/bin/[\w-]+", "/bin/true", unit.read_text("utf-8")))
    done = subprocess.run([SYSTEMD_ANALYZE, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@units
def test_unit_runs_what_exists_and_is_confined(unit: Path) -> None:
    text = unit.read_text("utf-8")
    commands = re.findall(r"^ExecStart(?:Pre)?=(.+)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        for part in PARTS if "%i" in command else ("",):
            words = shlex.split(command.replace("%i", part).replace(" $OPTIONS", ""))
            require_command([without_directory(words[0]), *words[1:]])
    require_settings(re.findall(r"^Environment=(\w+)=", text, re.MULTILINE))
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "User=course-search", "StateDirectory=course-search"):
        assert f"\n{line}\n" in text
    if "@" in unit.name or "daemon" in unit.name:
        denied = re.findall(r"^(ProtectClock|PrivateDevices|DevicePolicy|DeviceAllow)=", text, re.MULTILINE)
        assert denied == [], "each denies the devices that it does not name, so that the model runs on the CPU"


def test_there_is_time_to_stop_everything() -> None:
    """`up` stops its programs one after the other: search app, embedding service, Chroma, web server and daemon."""
    text = (DEPLOY / "systemd" / "course-search@.service").read_text("utf-8")
    seconds = float(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0])
    assert seconds >= 5 * STOP_SECONDS + KILLED_SECONDS


def test_web_server_reaches_the_sockets_of_the_daemon() -> None:
    """It ends a run by a socket in the daemon's temporary directory."""
    daemon, webserver = (f"course-search-{name}.service" for name in ("daemon", "webserver"))
    for unit, other in ((daemon, webserver), (webserver, daemon)):
        text = (DEPLOY / "systemd" / unit).read_text("utf-8")
        assert f"\nJoinsNamespaceOf={other}\n" in text.partition("[Service]")[0]
        assert "\nPrivateTmp=yes\n" in text, "without it, the line above has no effect"


def test_guide_starts_the_parts_of_the_procfile() -> None:
    names = {line.partition(":")[0] for line in (DEPLOY / "Procfile").read_text("utf-8").splitlines()}
    first, second = [words for words in Page("docs/guides/deployment.md").commands if words[0] == "honcho"]
    start = ["honcho", "--procfile", "deploy/Procfile", "start"]
    assert first == [*start, "release"]
    assert second[:4] == start
    assert set(second[4:]) == names - {"release"}


def test_procfile_runs_what_exists() -> None:
    for line in (DEPLOY / "Procfile").read_text("utf-8").splitlines():
        name, _, script = line.partition(": ")
        assert re.fullmatch(r"[a-z]+", name)
        for words in commands_in(script):
            require_command(words)
