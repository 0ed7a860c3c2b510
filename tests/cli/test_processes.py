"""The supervisor: everything that was started is stopped, whatever happens."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli.processes import ProcessFailedError, Supervisor
from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory, lock_holder

SLEEP = "import time; time.sleep(60)"
STUBBORN_FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path / "logs", os.environ) as one:
        yield one


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_programs_are_stopped_at_the_end(tmp_path: Path) -> None:
    with Supervisor(tmp_path, os.environ) as supervisor:
        programs = [supervisor.start(name, python(SLEEP)) for name in ("one", "two")]
        supervisor.check_alive()
    assert [program.process.returncode for program in programs] == [-signal.SIGTERM, -signal.SIGTERM]


def test_a_program_that_ignores_the_request_and_its_children_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.processes.STOP_SECONDS", 0.5)
    with Supervisor(tmp_path, os.environ) as supervisor:
        program = supervisor.start("stubborn", python(STUBBORN_FAMILY))
        supervisor.wait_until(lambda: program.log.read_text().endswith("\n"), 10, "it did not start")
        child = psutil.Process(int(program.log.read_text()))
    assert program.process.returncode == -signal.SIGKILL
    assert not child.is_running()


def test_a_program_that_ends_is_reported_with_its_last_words(supervisor: Supervisor) -> None:
    program = supervisor.start("chatty", python("print('out of luck'); raise SystemExit(3)"))
    program.process.wait()
    with pytest.raises(ProcessFailedError, match=r"(?s)chatty ended with exit code 3.*out of luck"):
        supervisor.check_alive()


def test_a_command_that_fails_is_reported(supervisor: Supervisor) -> None:
    supervisor.run("fine", python("pass"))
    with pytest.raises(ProcessFailedError, match=r"(?s)broken failed with exit code 1.*no such luck"):
        supervisor.run("broken", python("raise SystemExit('no such luck')"))


def test_a_program_that_never_gets_ready_is_given_up(supervisor: Supervisor) -> None:
    program = supervisor.start("slow", python(SLEEP))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ProcessFailedError, match="slow is not ready"):
        supervisor.wait_ready(program, f"http://127.0.0.1:{port}", seconds=0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_programs_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from cli.processes import Supervisor
program = Supervisor(Path({str(tmp_path)!r}), os.environ).start("orphan", [sys.executable, "-c", {SLEEP!r}])
print(program.process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + 10
    while orphan.is_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not orphan.is_running()


def test_a_lock_is_held_by_children_until_the_last_is_gone(tmp_path: Path) -> None:
    descriptor = lock_directory(tmp_path / "new", ".lock")
    with Supervisor(tmp_path / "logs", os.environ, keep_open=[descriptor]) as supervisor:
        supervisor.start("holder", python(SLEEP))
        os.close(descriptor)
        with pytest.raises(DirectoryInUseError, match=f"in use by process {os.getpid()}"):
            lock_directory(tmp_path / "new", ".lock")
    os.close(lock_directory(tmp_path / "new", ".lock"))


def test_a_look_at_a_lock_changes_nothing(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "new", ".lock") is None
    assert list(tmp_path.iterdir()) == []
    descriptor = lock_directory(tmp_path, ".lock")
    assert lock_holder(tmp_path, ".lock") == str(os.getpid())
    os.close(descriptor)
    before = (tmp_path / ".lock").stat()
    (tmp_path / ".lock").chmod(0o444)
    with (tmp_path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert lock_holder(tmp_path, ".lock") is None, "somebody else looks, too"
    after = (tmp_path / ".lock").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_different_locks_of_a_directory_do_not_meet(tmp_path: Path) -> None:
    for descriptor in [lock_directory(tmp_path, name) for name in (".one", ".two")]:
        os.close(descriptor)


def test_what_a_program_that_ended_leaves_behind_is_stopped_too(tmp_path: Path) -> None:
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid)"
    with Supervisor(tmp_path, os.environ) as supervisor:
        program = supervisor.start("parent", python(code))
        program.process.wait()
        child = psutil.Process(int(program.log.read_text()))
        assert child.is_running()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running()


def test_impatience_leaves_nothing_behind(tmp_path: Path) -> None:
    """A second Ctrl-C while the first is being obeyed."""
    code = f"""
import os, sys
from pathlib import Path
import cli.processes
cli.processes.STOP_SECONDS = 1
with cli.processes.Supervisor(Path({str(tmp_path)!r}), os.environ) as supervisor:
    program = supervisor.start("stubborn", [sys.executable, "-c", {STUBBORN_FAMILY!r}])
    supervisor.wait_until(lambda: program.log.read_text().endswith("\\n"), 10, "it did not start")
    print(program.process.pid, flush=True)
print("stopped", flush=True)
"""
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        stubborn = psutil.Process(int(parent.stdout.readline()))
        family = [stubborn, *stubborn.children()]
        time.sleep(0.3)
        parent.send_signal(signal.SIGINT)
        assert parent.stdout.read() == "stopped\n"
    assert [member for member in family if member.is_running()] == []
