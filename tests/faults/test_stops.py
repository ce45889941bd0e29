"""Environments that hang, fail and crash, and signals that come meanwhile: nothing that was learned
is lost, and every end is told."""

import os
import signal
import time

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows processes get no signals"),
]

AT = 100
"""The step at which something happens: of four environments in lockstep, or two and two."""

AGENTS = ("ppo", "inline", "threads")


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("fault", ["sleep", "spin", "deadlock"])
def test_an_environment_that_hangs_is_named_and_the_run_ends_saved(agent, fault, server, tmp_path):
    trainee = server.start(tmp_path, agent, fault)
    assert trainee.wait() == 1, trainee.said
    assert "the environment has not answered for" in trainee.said
    assert ("actor-" if agent != "ppo" else "the environments") in trainee.said
    assert trainee.status["state"] == "failed"
    assert trainee.saved_step >= AT


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_while_an_environment_hangs_saves_and_stops(agent, name, server, tmp_path):
    trainee = server.start(tmp_path, agent, "deadlock", "hang_seconds=0")
    trainee.wait_for("planted")
    trainee.send(signal.Signals[name])
    assert trainee.wait() == 128 + signal.Signals[name], trainee.said
    assert f"{name}: saving and stopping" in trainee.said
    assert trainee.status["state"] == "stopped"
    assert trainee.saved_step >= AT


@pytest.mark.parametrize("agent", AGENTS)
def test_a_second_ctrl_c_ends_even_what_hangs_in_native_code(agent, server, tmp_path):
    trainee = server.start(tmp_path, agent, "deadlock", "hang_seconds=0")
    trainee.wait_for("planted")
    trainee.send(signal.SIGINT)
    trainee.wait_for("Ctrl-C again quits at once")
    trainee.send(signal.SIGINT)
    assert trainee.wait() == 130, trainee.said


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("fault", ["raise", "exit"])
def test_an_environment_that_fails_loses_nothing(agent, fault, server, tmp_path):
    trainee = server.start(tmp_path, agent, fault)
    assert trainee.wait() == 1, trainee.said
    assert ("ZeroDivisionError" if fault == "raise" else "sys.exit(0)") in trainee.said
    assert trainee.status["state"] == "failed"
    assert trainee.saved_step >= AT


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_stops_between_two_steps(name, server, tmp_path):
    """A rollout of eight slow steps is not waited for."""
    trainee = server.start(tmp_path, "ppo", "slow", "hang_seconds=0")
    trainee.wait_for("planted")
    trainee.send(signal.Signals[name])
    assert trainee.wait() == 128 + signal.Signals[name], trainee.said
    assert "Go on with: fwp-rl train --resume" in trainee.said
    assert trainee.status["state"] == "stopped"
    assert trainee.said.count("planted") <= 4


EVALUATING = "evaluation_games=3", "hang_seconds=0"


@pytest.mark.parametrize("fault", ["slow", "deadlock"])
@pytest.mark.parametrize("agent", ["ppo", "threads"])
def test_a_signal_during_an_evaluation_saves_and_stops(agent, fault, server, tmp_path):
    trainee = server.start(
        tmp_path, agent, f"evaluating/{fault}", "evaluate_every=100", *EVALUATING, at=2
    )
    trainee.wait_for("planted")
    trainee.send(signal.SIGTERM)
    assert trainee.wait() == 143, trainee.said
    assert trainee.status["state"] == "stopped"
    assert trainee.saved_step >= AT


@pytest.mark.parametrize("fault", ["raise", "exit", "sleep"])
def test_an_evaluation_that_fails_loses_nothing(fault, server, tmp_path):
    changes = "evaluate_every=100", "evaluation_games=3"
    trainee = server.start(tmp_path, "ppo", f"evaluating/{fault}", *changes, at=2)
    assert trainee.wait() == 1, trainee.said
    said = {"raise": "ZeroDivisionError", "exit": "sys.exit(0)", "sleep": "has not answered for"}
    assert said[fault] in trainee.said
    assert trainee.status["state"] == "failed"
    assert trainee.saved_step >= AT


@pytest.mark.parametrize("agent", AGENTS)
def test_environments_that_hang_at_their_start_are_named(agent, server, tmp_path):
    trainee = server.start(tmp_path, agent, "resetting/deadlock")
    assert trainee.wait() == 1, trainee.said
    assert "the environment has not answered for" in trainee.said
    assert trainee.status["state"] == "failed"


@pytest.mark.parametrize(("fault", "code"), [("pipe", 1), ("interrupt", 130)])
def test_an_environments_own_errors_are_not_taken_for_the_users(fault, code, server, tmp_path):
    trainee = server.start(tmp_path, "cli-ppo", fault)
    assert trainee.wait() == code, trainee.said
    assert ("the simulator is gone" in trainee.said) == (fault == "pipe")
    assert trainee.saved_step >= AT


def test_an_environment_that_cannot_be_closed_does_not_spoil_a_stop(server, tmp_path):
    trainee = server.start(tmp_path, "ppo", "closing/raise")
    trainee.wait_for("/1G")
    trainee.send(signal.SIGTERM)
    assert trainee.wait() == 143, trainee.said
    assert "environments could not be closed: ZeroDivisionError" in trainee.said


def test_a_hang_is_no_signal(server, tmp_path):
    trainee = server.start(tmp_path, "ppo", "sleep")
    assert trainee.wait() == 1
    assert "SIGTERM" not in trainee.said


@pytest.mark.parametrize(("name", "fault"), [("SIGTERM", "deadlock"), ("SIGHUP", "slow")])
def test_a_signal_during_the_evaluation_at_the_end_stops_that(name, fault, server, tmp_path):
    changes = "total_steps=100", *EVALUATING
    trainee = server.start(tmp_path, "ppo", f"evaluating/{fault}", *changes, at=2)
    trainee.wait_for("planted")
    trainee.send(signal.Signals[name])
    assert trainee.wait() == 128 + signal.Signals[name], trainee.said
    assert f"{name}: stopping; the trained policy is saved" in trainee.said
    assert trainee.status["state"] == "finished"
    assert trainee.saved_step >= AT


@pytest.mark.parametrize("agent", AGENTS)
def test_environments_that_do_not_close_cannot_hold_up_a_stop(agent, server, tmp_path):
    trainee = server.start(tmp_path, agent, "closing/deadlock", "hang_seconds=0")
    trainee.wait_for("/1G")  # it trains
    trainee.send(signal.SIGTERM)
    trainee.wait_for("planted")
    assert trainee.wait() == 143, trainee.said
    assert trainee.status["state"] == "stopped"
    assert trainee.saved_step > 0


def test_a_hangup_under_nohup_is_ignored(server, tmp_path):
    trainee = server.start(tmp_path, "ppo", "nohup", f"total_steps={8 * AT}")
    assert trainee.wait() == 0, trainee.said
    assert "planted" in trainee.said


def test_a_crash_leaves_a_trace_and_the_next_session_says_so(server, tmp_path):
    trainee = server.start(tmp_path, "ppo", "segfault")
    assert trainee.wait() == -signal.SIGSEGV
    trace = (trainee.run / "crash.log").read_text()
    assert "Segmentation fault" in trace
    assert "in step" in trace
    trainee = server.start(tmp_path, "ppo", "nothing", f"total_steps={2 * AT}")
    assert trainee.wait() == 0, trainee.said
    assert "crash.log says where" in trainee.said


def test_a_process_that_was_stopped_does_not_hang(server, tmp_path):
    """Ctrl-Z, or a machine that sleeps, for longer than hang_seconds."""
    trainee = server.start(tmp_path, "ppo", "slow")
    trainee.wait_for("planted")
    trainee.send(signal.SIGSTOP)
    time.sleep(2)
    trainee.send(signal.SIGCONT)
    trainee.wait_for("planted", trainee.said.count("planted") + 8)
    trainee.send(signal.SIGTERM)
    assert trainee.wait() == 143, trainee.said
    assert "has not answered" not in trainee.said
