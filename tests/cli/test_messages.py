"""aioipc send, receive and tail, with programs in C at the other end."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import AIOIPC, aioipc, plain, terminal

from aioipc import Channel, inspect, posix, sysv

CONSUMED = "each message shown here is consumed, and no other receiver gets it"


# POSIX message queues


def test_send_to_a_program_in_c(mq: str, name: str) -> None:
    subprocess.run([mq, "create", name, "10", "100"], check=True)
    assert aioipc("send", f"mq:{name}", "one", "two") == ("", "", 0)
    assert aioipc("send", name, "--priority", "7", "first").code == 0  # a name alone
    assert aioipc("send", f"mq:{name}", "--lines", input=b"3\n4\n").code == 0
    assert aioipc("send", f"mq:{name}", input=b"all of\nit").code == 0
    assert aioipc("send", f"mq:{name}", "--hex", "0a 0B").code == 0
    received = subprocess.check_output([mq, "receive", name, "7"])
    assert received == b"7 first\n0 one\n0 two\n0 3\n0 4\n0 all of\nit\n0 \n\x0b\n"


def test_receive_from_a_program_in_c(mq: str, name: str) -> None:
    subprocess.run([mq, "create", name, "10", "100"], check=True)
    subprocess.run([mq, "send", name, "5", "one", "two", "three", "four", "five"], check=True)
    assert aioipc("receive", f"mq:{name}") == ("one\n", "", 0)
    assert aioipc("receive", f"mq:{name}", "--raw").output == "two"
    assert aioipc("receive", f"mq:{name}", "--hex").output == b"three".hex() + "\n"
    lines = aioipc("receive", f"mq:{name}", "--json", "--count", "2").output.splitlines()
    expected = [
        {"data": word, "base64": base64.b64encode(word.encode()).decode(), "priority": 5} for word in ("four", "five")
    ]
    assert [json.loads(line) for line in lines] == expected


def test_nothing_comes(name: str) -> None:
    with posix.MessageQueue.create(name, max_messages=1):
        for timeout in ("0", "0.01"):
            result = aioipc("receive", f"mq:{name}", "--timeout", timeout)
            assert (result.output, result.code) == ("", 1)
            assert "no message came in time" in result.errors
        assert aioipc("send", f"mq:{name}", "x", "--timeout", "0").code == 0
        full = aioipc("send", f"mq:{name}", "y", "--timeout", "0")
        assert full.code == 1
        assert "no room in time" in full.errors
        assert aioipc("receive", f"mq:{name}", "--timeout", "0") == ("x\n", "", 0)


def test_receive_waits(mq: str, name: str) -> None:
    with posix.MessageQueue.create(name) as queue:
        command = [*AIOIPC, "receive", f"mq:{name}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as receiver:
            while receiver.pid not in inspect.users([inspect.find(f"mq:{name}")])[f"mq:{name}"].pids:
                os.sched_yield()
            queue.send_nowait(b"late")
            assert receiver.communicate() == (b"late\n", None)
        assert receiver.returncode == 0


def test_messages_that_are_too_long(name: str) -> None:
    with posix.MessageQueue.create(name, max_message_size=3):
        result = aioipc("send", f"mq:{name}", "abcd")
        assert result.code == 3
        assert "message of 4 bytes" in result.errors


def test_bytes_that_are_no_text(name: str) -> None:
    data = bytes(range(256))
    with posix.MessageQueue.create(name) as queue:
        queue.send_nowait(data)
        found = json.loads(aioipc("receive", f"mq:{name}", "--json").output)
        assert (found["data"], base64.b64decode(found["base64"])) == (None, data)
        assert aioipc("send", f"mq:{name}", input=data).code == 0
        raw = subprocess.run([*AIOIPC, "receive", f"mq:{name}", "--raw"], capture_output=True, check=True)
        assert raw.stdout == data


def test_a_terminal_is_shown_what_is_not_printable(name: str) -> None:
    with posix.MessageQueue.create(name) as queue:
        queue.send_nowait(b"\x1b]0;title\x07\xff\n\xc3\xa9")
        with terminal("receive", f"mq:{name}") as screen:
            output, code = screen.finish()
        assert (output, code) == ("\\x1b]0;title\\x07\\xff\\né\n", 0)


# System V message queues


def test_types(sysv_peer: str, key: int) -> None:
    id = int(subprocess.check_output([sysv_peer, "msgget", str(key), "0600"]))
    for type in "3", "1", "2":
        subprocess.run([sysv_peer, "msgsnd", str(id), type, f"of {type}"], check=True)
    assert aioipc("receive", f"msg:{key:#x}", "--type", "-2").output == "of 1\n"
    assert aioipc("receive", f"msg:id={id}", "--exclude", "3").output == "of 2\n"
    assert json.loads(aioipc("receive", f"msg:{key}", "--json", "--type", "3").output)["type"] == 3
    assert aioipc("receive", f"msg:{key}", "--type", "1", "--exclude", "2").code == 2
    assert aioipc("send", f"msg:id={id}", "back", "--type", "9").code == 0
    assert subprocess.check_output([sysv_peer, "msgrcv", str(id), "1", "0", "100", "-"]) == b"9 back\n"


def test_the_queue_is_removed_meanwhile() -> None:
    with sysv.MessageQueue.create(None) as queue:
        command = [*AIOIPC, "tail", f"msg:id={queue.id}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as receiver:
            assert receiver.stderr is not None
            assert CONSUMED in receiver.stderr.readline()
            queue.remove()
            _, errors = receiver.communicate()
    assert "removed" in errors
    assert receiver.returncode == 1


# Channels


def test_a_channel(name: str) -> None:
    with Channel.create(name, persist=True) as channel:
        assert aioipc("send", f"channel:{name}", "a", "b", "c").code == 0
        assert aioipc("receive", f"channel:{name}").output == "a\n"
        assert aioipc("send", f"channel:{name}", "--end", "last").code == 0
        result = aioipc("tail", f"channel:{name}")
        assert (result.output, result.code) == ("b\nc\nlast\n", 0)
        assert channel.statistics().messages == 0
        assert aioipc("send", f"channel:{name}", "--end").code == 0  # once more
        ended = aioipc("receive", f"channel:{name}")
        assert (ended.output, ended.code) == ("", 1)
        assert "has ended" in ended.errors
        assert aioipc("send", f"channel:{name}", "more").code == 3


# tail


@pytest.mark.parametrize("kind", ["mq", "channel"])
def test_tail(kind: str, name: str) -> None:
    with (posix.MessageQueue if kind == "mq" else Channel).create(name) as queue:
        command = [*AIOIPC, "tail", f"{kind}:{name}", "--count", "3"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            for word in "one", "two", "three":
                queue.send_nowait(word.encode())
                assert follower.stdout.readline() == f"{word}\n"  # each at once
            assert CONSUMED in follower.communicate()[1]
        assert follower.returncode == 0
        assert queue.statistics().messages == 0


@pytest.mark.parametrize("kind", ["mq", "msg", "channel"])
def test_tail_ends_when_nobody_reads_it(kind: str, name: str, key: int) -> None:
    address = f"{kind}:{name}"
    if kind == "msg":
        queue: posix.MessageQueue | sysv.MessageQueue | Channel = sysv.MessageQueue.create(key)
        address = f"msg:{key:#x}"
    else:
        queue = (posix.MessageQueue if kind == "mq" else Channel).create(name)
    with queue:
        command = [*AIOIPC, "tail", address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            assert follower.stderr is not None
            assert CONSUMED in follower.stderr.readline()
            queue.send_nowait(b"one")
            assert follower.stdout.readline() == "one\n"
            follower.stdout.close()  # it waits for another message, and takes none
            assert follower.wait() == 141
            assert follower.stderr.read() == ""
        queue.send_nowait(b"two")
        assert queue.statistics().messages == 1


@pytest.mark.parametrize("kind", ["mq", "msg", "channel"])
def test_what_can_not_be_written_goes_back(kind: str, name: str, key: int) -> None:
    address = f"{kind}:{name}"
    if kind == "msg":
        queue: posix.MessageQueue | sysv.MessageQueue | Channel = sysv.MessageQueue.create(key)
        address = f"msg:{key:#x}"
    else:
        queue = (posix.MessageQueue if kind == "mq" else Channel).create(name)
    with queue:
        queue.send_nowait(b"precious")
        with open("/dev/full", "wb") as full:
            result = subprocess.run([*AIOIPC, "receive", address], stdout=full, stderr=subprocess.PIPE, check=False)
        assert result.returncode == 3
        assert b"No space left" in result.stderr
        assert result.stderr.count(b"\n") == 1
        assert queue.statistics().messages == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_can_be_written_in_part_only_goes_back(unbuffered: str, name: str, tmp_path: Path) -> None:
    command = ["sh", "-c", 'ulimit -f 1; trap "" XFSZ; exec "$@"', "sh", *AIOIPC, "receive", f"mq:{name}"]
    with posix.MessageQueue.create(name) as queue, open(tmp_path / "output", "wb") as output:
        queue.send_nowait(b"x" * 3000)  # the file may have one block: 512 or 1,024 bytes
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        result = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, env=environment, check=False)
        assert (result.returncode, result.stderr) == (3, b"aioipc: File too large\n")
        assert queue.receive_nowait().data == b"x" * 3000


def test_what_can_not_go_back_is_told(name: str) -> None:
    """Here there is no room for it any more."""
    code = f"""
import sys
from aioipc import WouldBlock, posix
from aioipc.cli import main
def refuse(*_):
    raise WouldBlock
posix.MessageQueue.send_nowait = refuse
sys.argv = ["aioipc", "receive", "mq:{name}"]
main()
"""
    with posix.MessageQueue.create(name) as queue, open("/dev/full", "wb") as full:
        queue.send_nowait(b"order 1", 7)
        result = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False)
        assert result.returncode == 3
        told, error = result.stderr.decode().splitlines()
        assert json.loads(told[told.index("{") :]) == {
            "data": "order 1",
            "base64": base64.b64encode(b"order 1").decode(),
            "priority": 7,
        }
        assert "No space left" in error


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
def test_a_slow_reader(flags: int, name: str) -> None:
    """Others have filled the pipe; what comes then is whole."""
    reading, writing = os.pipe2(flags)
    with posix.MessageQueue.create(name) as queue:
        size = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writing, b"." * size)
        queue.send_nowait(b"x" * 6000)
        with subprocess.Popen([*AIOIPC, "receive", f"mq:{name}"], stdout=writing, stderr=subprocess.PIPE) as receiver:
            os.close(writing)
            while queue.statistics().messages:
                os.sched_yield()
            os.set_blocking(reading, True)
            with open(reading, "rb") as output:
                assert output.read() == b"." * size + b"x" * 6000 + b"\n"
            assert receiver.communicate()[1] == b""
        assert receiver.returncode == 0


def test_a_fifo_that_is_open_for_reading_too(name: str, tmp_path: Path) -> None:
    """As by 1<>fifo: that something is in it does not mean that its reader is gone."""
    os.mkfifo(tmp_path / "fifo")
    both = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        with posix.MessageQueue.create(name) as queue:
            queue.send_nowait(b"one")
            queue.send_nowait(b"two")
            command = [*AIOIPC, "receive", f"mq:{name}", "--count", "2"]
            assert subprocess.run(command, stdout=both, check=False).returncode == 0
        assert os.read(both, 100) == b"one\ntwo\n"
    finally:
        os.close(both)


@pytest.mark.parametrize("kind", ["mq", "msg", "channel"])
def test_without_waiting_it_does_all_that_can_be_done(kind: str, name: str, key: int) -> None:
    queue: Any = sysv.MessageQueue.create(key) if kind == "msg" else None
    queue = queue or (posix.MessageQueue if kind == "mq" else Channel).create(name)
    address = f"msg:{key:#x}" if kind == "msg" else f"{kind}:{name}"
    numbers = [str(number) for number in range(10)]
    with queue:
        assert aioipc("send", address, "--timeout", "0", *numbers) == ("", "", 0)
        result = aioipc("receive", address, "--timeout", "0", "--count", "11")
        assert (result.output.splitlines(), result.code) == (numbers, 1)


@pytest.mark.parametrize("command", ["ls", "receive mq:{}", "send mq:{}", "send --lines mq:{}", "rm mq:{}"])
def test_a_closed_stream(command: str, name: str) -> None:
    """It is refused, as anything else that can't be written or read; and no object takes its place."""
    with posix.MessageQueue.create(name) as queue:
        queue.send_nowait(b"stays")
        stream = ">&-" if command.startswith(("ls", "receive")) else "<&-"
        script = f'exec "$@" {stream}'
        prefix = ["sh", "-c", script, "sh"]
        output, errors, code = aioipc(*command.format(name).split(), prefix=prefix)
        assert (output, code) == ("", 3)
        assert "Traceback" not in errors
        assert errors.splitlines()[-1] == (
            "aioipc: nothing was removed: there is no terminal to ask at, and no --yes"
            if command.startswith("rm")
            else "aioipc: Bad file descriptor"
        )
        assert queue.statistics().messages == 1


def test_errors_that_nobody_wants_to_hear_of(name: str) -> None:
    assert aioipc("receive", f"mq:{name}", prefix=["sh", "-c", 'exec "$@" 2>&-', "sh"]) == ("", "", 1)


# Ctrl-C


@pytest.mark.parametrize("command", ["receive", "tail"])
def test_ctrl_c(command: str, name: str) -> None:
    with posix.MessageQueue.create(name) as queue, terminal(command, f"mq:{name}") as screen:
        while screen.process.pid not in inspect.users([inspect.find(f"mq:{name}")])[f"mq:{name}"].pids:
            os.sched_yield()
        screen.type("\x03")
        output, code = screen.finish()
        assert code == -signal.SIGINT
        assert plain(output).replace("^C", "") == ("" if command == "receive" else f"aioipc: mq:{name}: {CONSUMED}\n")
        queue.send_nowait(b"still here")
        assert queue.receive_nowait().data == b"still here"


def test_ctrl_c_while_nobody_reads_the_output(name: str) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with posix.MessageQueue.create(name) as queue:
        for _ in range(3):
            queue.send_nowait(b"x" * 3000)
        with subprocess.Popen([*AIOIPC, "tail", f"mq:{name}"], stdout=writing, stderr=subprocess.DEVNULL) as follower:
            while queue.statistics().messages != 1:  # one is in the pipe, and there is no room for the next
                os.sched_yield()
            follower.send_signal(signal.SIGINT)
        assert follower.returncode == -signal.SIGINT
        assert queue.statistics().messages == 2
    os.close(reading)
    os.close(writing)


def test_ctrl_c_while_the_input_is_read(name: str) -> None:
    with posix.MessageQueue.create(name) as queue, terminal("send", f"mq:{name}", "--lines") as screen:
        screen.type("typed\n")
        while queue.statistics().messages == 0:
            os.sched_yield()
        screen.interrupt()
        output, code = screen.finish()
        assert code == -signal.SIGINT
        assert "Traceback" not in output
        assert queue.receive_nowait().data == b"typed"


def test_sigint_without_a_terminal(name: str) -> None:
    with posix.MessageQueue.create(name):
        with subprocess.Popen([*AIOIPC, "tail", f"mq:{name}"], stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stderr is not None
            assert CONSUMED in follower.stderr.readline()
            follower.send_signal(signal.SIGINT)
            assert follower.stderr.read() == ""
        assert follower.returncode == -signal.SIGINT


def test_sigint_that_is_ignored(name: str) -> None:
    """As by a shell that starts the command in the background."""
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *AIOIPC, "tail", f"mq:{name}", "--count", "1"]
    with posix.MessageQueue.create(name) as queue:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stderr is not None
            assert CONSUMED in follower.stderr.readline()
            follower.send_signal(signal.SIGINT)
            queue.send_nowait(b"for all that")
            assert follower.communicate() == ("for all that\n", "")
        assert follower.returncode == 0
