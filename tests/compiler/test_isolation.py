"""A command that reads a file from anywhere runs in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuselage.compiler.cli import app
from fuselage.compiler.cli.isolation import TRUSTED

CODE = """
import os, signal, sys, time
from fuselage.compiler.cli.isolation import run_isolated
def command(arguments):
    print("started", flush=True)
    {body}
    return 7
sys.exit(run_isolated(command, sys.argv[1:]))
"""


def start(body: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE.format(body=body), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize(
    ("number", "hint"),
    [("SIGSEGV", "the model is damaged"), ("SIGKILL", "it ran out of memory")],
)
def test_a_death_is_one_message(number: str, hint: str) -> None:
    done = start(f"os.kill(os.getpid(), signal.{number})", "optimize", "-q", "in.onnx")
    _, err = done.communicate(timeout=60)
    assert done.returncode == 1
    assert err == (
        f"error: in.onnx: native code (onnx, ONNX Runtime or TensorRT) died of {number} on it; "
        f"perhaps {hint}; a file it was writing is whole or not there\n"
    )


@pytest.mark.parametrize("verb", ["compare", "evaluate", "bench"])
def test_a_death_is_no_verdict(verb: str) -> None:
    done = start("os.kill(os.getpid(), signal.SIGSEGV)", verb, "in.onnx")
    done.communicate(timeout=60)
    assert done.returncode == 2


def test_the_message_names_the_model_behind_options(tmp_path: Path) -> None:
    model = tmp_path / "in.onnx"
    model.touch()
    done = start(
        "os.kill(os.getpid(), signal.SIGSEGV)", "optimize", "--target", "ort-cpu", str(model)
    )
    _, err = done.communicate(timeout=60)
    assert err.startswith(f"error: {model}: native code (onnx, ONNX Runtime or TensorRT) died")


def test_the_exit_code_is_handed_on() -> None:
    done = start("pass", "inspect", "in.onnx")
    done.communicate(timeout=60)
    assert done.returncode == 7


@pytest.mark.parametrize("verb", ["doctor", "--version", "--help"])
def test_trusted_commands_run_in_the_same_process(verb: str) -> None:
    done = start("os.kill(os.getpid(), signal.SIGKILL)", verb)
    done.communicate(timeout=60)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("verb", ["run", "rebuild", "a-verb-of-tomorrow"])
def test_every_other_is_isolated_without_being_listed(verb: str) -> None:
    done = start("os.kill(os.getpid(), signal.SIGKILL)", verb, "bundle")
    _, err = done.communicate(timeout=60)
    assert done.returncode == 1
    assert err.startswith("error: bundle: native code")


def test_only_verbs_there_are_can_be_trusted() -> None:
    registered = {command.name for command in app.registered_commands}
    registered |= {group.name for group in app.registered_groups}
    assert set(TRUSTED) < registered
    assert registered - set(TRUSTED) >= {"run", "rebuild", "optimize", "inspect", "explain", "lint"}


def test_a_command_that_reads_the_terminal_stays_in_its_foreground_group() -> None:
    body = "print(os.getpgid(0) == os.getpgid(os.getppid()))"
    for arguments, same in ((("run", "b", "--text-file", "-"), True), (("run", "b"), False)):
        out, _ = start(body, *arguments).communicate(timeout=60)
        assert out == f"started\n{same}\n"


def test_an_interrupt_reaches_the_command_once() -> None:
    body = "try: time.sleep(60)\n    except KeyboardInterrupt: time.sleep(0.3); sys.exit(130)"
    running = start(body, "optimize", "in.onnx")
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n"
    time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 130


def test_a_death_of_an_interrupt_is_no_damage() -> None:
    body = "try: time.sleep(60)\n    except KeyboardInterrupt: os.kill(os.getpid(), signal.SIGSEGV)"
    running = start(body, "report", "bundle")
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n"
    time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "error: interrupted\n")


TIDY = """try:
        print("writing", flush=True)
        time.sleep(60)
    finally:
        os.remove(arguments[1])"""


def test_a_request_to_end_cleans_up_first(tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    half.touch()
    running = start(TIDY, "optimize", str(half))
    assert running.stdout is not None
    assert [running.stdout.readline() for _ in range(2)] == ["started\n", "writing\n"]
    time.sleep(0.1)  # until the outer process forwards
    running.terminate()
    running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert not half.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_killed_command_leaves_nothing_running(tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    half.touch()
    running = start(TIDY, "optimize", str(half))
    assert running.stdout is not None
    assert [running.stdout.readline() for _ in range(2)] == ["started\n", "writing\n"]
    running.kill()
    running.communicate(timeout=60)  # until its own process lets go of stdout
    assert running.returncode == -signal.SIGKILL
    assert not half.exists()


def test_memory_beyond_the_machine_is_refused_not_fatal(tmp_path: Path) -> None:
    body = "bytearray(1 << 46)"
    done = start(f"try: {body}\n    except MemoryError: sys.exit(3)", "lint", str(tmp_path))
    done.communicate(timeout=60)
    assert done.returncode == 3
