import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from fwp_rl.runs.signals import StopRequest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows processes get no signals")

LOOP = textwrap.dedent(
    """
    import sys, time
    from fwp_rl.runs.signals import StopRequest

    with StopRequest() as stop:
        print("ready", flush=True)
        while not stop.requested:
            time.sleep(0.01)
        print("asked", flush=True)
        sys.stdin.readline()
        print("saved", flush=True)
    sys.exit(stop.exit_code)
    """
)


def start() -> subprocess.Popen[str]:
    """A loop that saves, once it is asked to stop, until it gets a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)
def test_the_loop_saves_and_leaves(number, code):
    process = start()
    process.send_signal(number)
    out, err = process.communicate("\n")
    assert out == "asked\nsaved\n"
    assert process.returncode == code
    assert number.name in err


def test_a_second_sigterm_does_not_disturb_the_save():
    process = start()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate("\n")
    assert out == "saved\n"
    assert process.returncode == 143


def test_a_second_ctrl_c_quits_at_once():
    process = start()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    process.wait()
    assert process.stdin is not None
    out, err = process.communicate()
    assert "saved" not in out
    assert "KeyboardInterrupt" in err


def test_handlers_are_put_back():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGTERM) != handlers[1]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not stop.requested
    assert stop.exit_code == 0


def test_the_flag_is_set_in_this_process(capfd):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.requested:
            time.sleep(0.01)
    assert stop.signal is signal.SIGTERM
    assert "saving and stopping" in capfd.readouterr().err


def test_outside_the_main_thread_nothing_happens():
    seen = []

    def use():
        with StopRequest() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


CLOSED = """
import os, signal, sys
from fwp_rl.runs.signals import StopRequest

with StopRequest() as stop:
    os.close(2)  # as where the terminal is gone
    os.kill(os.getpid(), signal.SIGHUP)
sys.exit(stop.exit_code)
"""


def test_a_closed_terminal_is_no_error():
    done = subprocess.run([sys.executable, "-c", CLOSED], stdout=subprocess.PIPE)
    assert done.returncode == 128 + signal.SIGHUP


FORKED = """
import os, signal, sys
from fwp_rl.runs.signals import StopRequest

with StopRequest() as stop:
    child = os.fork()
    if not child:  # as an environment's worker
        os.kill(os.getpid(), signal.SIGINT)  # of the whole group
        os.kill(os.getpid(), signal.SIGTERM)  # who forked it ends it
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    os.set_blocking(stop.wakeups, False)
    try:
        heard = os.read(stop.wakeups, 64)
    except BlockingIOError:
        heard = b""
    assert signal.SIGINT not in heard and signal.SIGTERM not in heard, heard
    assert not stop.requested
"""


def test_a_forked_process_stops_nobody_else():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "saving" not in done.stderr
