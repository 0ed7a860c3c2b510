"""The supervisor starts ended programs again and stops all of them in every case; inheriting programs hold locks."""

import fcntl
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from cli.processes import ProcessFailedError, Program, Supervisor
from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory, lock_holder
from tests.support.product import wait_until

SLEEP = "import time; time.sleep(300)"
STUBBORN_FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(300)
"""
"""A program and a child in another session, which both ignore SIGTERM."""
INTERRUPTING_FAMILY = STUBBORN_FAMILY.replace(
    "print(", "signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getppid(), signal.SIGINT))\nprint("
)
"""As above, but the program answers SIGTERM by interrupting its supervisor."""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path / "logs", os.environ) as supervisor:
        yield supervisor


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_programs_are_stopped_at_the_end(tmp_path: Path) -> None:
    with Supervisor(tmp_path, os.environ) as supervisor:
        programs = [supervisor.start(name, python(SLEEP)) for name in ("one", "two")]
        supervisor.check_alive()
    assert [program.process.returncode for program in programs] == [-signal.SIGTERM, -signal.SIGTERM]


def test_program_that_ignores_sigterm_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.processes.STOP_SECONDS", 0.5)
    with Supervisor(tmp_path, os.environ) as supervisor:
        program = supervisor.start("stubborn", python(STUBBORN_FAMILY))
        supervisor.wait_until(lambda: program.log.read_text().endswith("\n"), 60, "it did not start")
        child = psutil.Process(int(program.log.read_text()))
    assert program.process.returncode == -signal.SIGKILL
    assert not child.is_running()


def test_ended_program_is_reported_with_its_last_output(supervisor: Supervisor) -> None:
    program = supervisor.start("chatty", python("print('out of luck'); raise SystemExit(3)"))
    program.process.wait()
    with pytest.raises(ProcessFailedError, match=r"(?s)chatty ended with exit code 3.*out of luck"):
        supervisor.check_alive()


def test_failed_command_is_reported(supervisor: Supervisor) -> None:
    supervisor.run("fine", python("pass"))
    with pytest.raises(ProcessFailedError, match=r"(?s)broken failed with exit code 1.*no such luck"):
        supervisor.run("broken", python("raise SystemExit('no such luck')"))


def test_program_that_is_not_ready_in_time_is_reported(supervisor: Supervisor) -> None:
    program = supervisor.start("slow", python(SLEEP))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ProcessFailedError, match="slow is not ready"):
        supervisor.wait_ready(program, f"http://127.0.0.1:{port}", seconds=0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_programs_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from cli.processes import Supervisor
program = Supervisor(Path({str(tmp_path)!r}), os.environ).start("orphan", [sys.executable, "-c", {SLEEP!r}])
print(program.process.pid, flush=True)
time.sleep(300)
"""
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    wait_until(lambda: not orphan.is_running(), 60, lambda: str(orphan))


def test_lock_is_held_until_the_last_inheriting_program_ends(tmp_path: Path) -> None:
    descriptor = lock_directory(tmp_path / "new", ".lock")
    with Supervisor(tmp_path / "logs", os.environ, keep_open=[descriptor]) as supervisor:
        supervisor.start("holder", python(SLEEP))
        os.close(descriptor)
        with pytest.raises(DirectoryInUseError, match=f"in use by process {os.getpid()}"):
            lock_directory(tmp_path / "new", ".lock")
    os.close(lock_directory(tmp_path / "new", ".lock"))


def test_reading_a_lock_holder_does_not_change_the_lock(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "new", ".lock") is None
    assert list(tmp_path.iterdir()) == []
    descriptor = lock_directory(tmp_path, ".lock")
    assert lock_holder(tmp_path, ".lock") == str(os.getpid())
    os.close(descriptor)
    before = (tmp_path / ".lock").stat()
    (tmp_path / ".lock").chmod(0o444)
    with (tmp_path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert lock_holder(tmp_path, ".lock") is None, "another process reads the holder at the same time"
    after = (tmp_path / ".lock").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_program_can_lock_while_another_reads_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(lock_directory(tmp_path, ".lock"))
    with (tmp_path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: other.close())
        os.close(lock_directory(tmp_path, ".lock"))


def test_locks_of_different_names_are_independent(tmp_path: Path) -> None:
    for descriptor in [lock_directory(tmp_path, name) for name in (".one", ".two")]:
        os.close(descriptor)


def test_children_of_an_ended_program_are_stopped(tmp_path: Path) -> None:
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid)"
    with Supervisor(tmp_path, os.environ) as supervisor:
        program = supervisor.start("parent", python(code))
        program.process.wait()
        child = psutil.Process(int(program.log.read_text()))
        assert child.is_running()
    wait_until(lambda: not child.is_running(), 60, lambda: str(child))


def test_interrupt_while_stopping_leaves_no_process_behind(tmp_path: Path) -> None:
    """The supervisor gets SIGINT while it stops its programs, as after a second Ctrl-C."""
    code = f"""
import os, sys
from pathlib import Path
import cli.processes
cli.processes.STOP_SECONDS = 1
with cli.processes.Supervisor(Path({str(tmp_path)!r}), os.environ) as supervisor:
    program = supervisor.start("stubborn", [sys.executable, "-c", {INTERRUPTING_FAMILY!r}])
    supervisor.wait_until(lambda: program.log.read_text().endswith("\\n"), 60, "it did not start")
    print(program.process.pid, flush=True)
    sys.stdin.readline()
print("stopped", flush=True)
"""
    command, root = python(code), Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        program = psutil.Process(int(parent.stdout.readline()))
        family = [program, *program.children()]
        output, _ = parent.communicate("stop\n")
    assert output == "stopped\n"
    assert [member for member in family if member.is_running()] == []


def end_and_restart(supervisor: Supervisor, program: Program) -> str:
    """Wait until the program has ended, and let the supervisor start it again without the pause.

    Returns:
        What the supervisor reported.
    """
    messages: list[str] = []
    program.process.wait()
    supervisor.restart_ended(messages.append)
    program.start_at = math.inf
    supervisor.restart_ended(messages.append)
    assert program.process.poll() is not None, "it must not start before the pause is over"
    program.start_at = 0
    supervisor.restart_ended(messages.append)
    [message] = messages
    return message


def has_started(program: Program, times: int) -> bool:
    return program.log.read_text() == "started\n" * times


def test_killed_program_is_started_again_while_the_others_keep_running(supervisor: Supervisor) -> None:
    program = supervisor.start("part", python(f"print('started', flush=True); {SLEEP}"))
    other = supervisor.start("other", python(SLEEP))
    other_pid = other.process.pid
    for starts in (1, 2, 3):
        wait_until(partial(has_started, program, starts), 60, program.log.read_text)
        program.process.kill()
        pause = 2 ** (starts - 1)
        assert end_and_restart(supervisor, program) == (
            f"part ended with signal SIGKILL; its log is {program.log}. It starts again in {pause} s."
        )
    assert other.process.poll() is None
    assert other.process.pid == other_pid
    supervisor.check_alive()


def test_pause_grows_to_the_limit_and_is_short_again_after_a_long_run(supervisor: Supervisor) -> None:
    program = supervisor.start("broken", python("raise SystemExit(3)"))
    messages = [end_and_restart(supervisor, program) for _ in range(8)]
    assert {message.split(";")[0] for message in messages} == {"broken ended with exit code 3"}
    pauses = [message.split()[-2] for message in messages]
    assert pauses == ["1", "2", "4", "8", "16", "32", "60", "60"]
    program.started_at -= 61
    assert end_and_restart(supervisor, program).endswith("in 1 s.")


def test_children_of_a_killed_program_are_stopped_before_it_starts_again(supervisor: Supervisor) -> None:
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True); "
    program = supervisor.start("parent", python(code + SLEEP))
    supervisor.wait_until(lambda: program.log.read_text().endswith("\n"), 60, "it did not start")
    child = psutil.Process(int(program.log.read_text()))
    program.process.kill()
    program.process.wait()
    assert child.is_running()
    supervisor.restart_ended(lambda _: None)
    assert not child.is_running()


def test_program_that_waits_for_its_start_is_not_started_after_the_stop(supervisor: Supervisor) -> None:
    program = supervisor.start("part", python(SLEEP))
    program.process.kill()
    program.process.wait()
    supervisor.restart_ended(lambda _: None)
    supervisor.stop()
    supervisor.restart_ended(lambda _: pytest.fail("it was forgotten"))
    assert program.process.returncode == -signal.SIGKILL


def test_program_that_cannot_be_executed_is_tried_again(supervisor: Supervisor, tmp_path: Path) -> None:
    """For example while an upgrade replaces the virtual environment."""
    script = tmp_path / "script"
    script.symlink_to(sys.executable)
    program = supervisor.start("part", [script, "-c", "pass"])
    program.process.wait()
    script.unlink()
    messages: list[str] = []
    for _ in range(2):
        supervisor.restart_ended(messages.append)
        program.start_at = 0
    script.symlink_to(sys.executable)
    supervisor.restart_ended(messages.append)
    assert [message.split("(")[0] for message in messages][1:] == ["part cannot be started "]
    assert messages[1].endswith("It starts again in 2 s.")
    assert program.process.wait() == 0
