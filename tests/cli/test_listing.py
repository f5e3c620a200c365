"""aioipc ls, stat, limits, doctor; and how every command ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import posix_ipc
import pytest
from command import AIOIPC, Result, aioipc, aioipc_as_nobody, plain, terminal, with_mqueue, without_mqueue
from conftest import doorbells, kernel

from aioipc import Channel, posix, sysv

NewName = Callable[[], str]
Snapshot = Callable[..., None]


class Objects(NamedTuple):
    """One of each kind."""

    name: str
    key: str
    segment: int

    @property
    def words(self) -> dict[str, str]:
        """What stands for what varies."""
        return {"/NAME": self.name, "0xKEY": self.key}

    @property
    def patterns(self) -> tuple[str, str]:
        return f"*{self.name}*", f"*:{self.key}"


@pytest.fixture
def objects(name: str, new_key: Callable[[], int]) -> Iterator[Objects]:
    key = new_key()
    with ExitStack() as stack:
        queue = stack.enter_context(posix.MessageQueue.create(name, max_messages=5, max_message_size=100))
        queue.send_nowait(b"two coffees", priority=5)
        stack.enter_context(posix.Semaphore.create(name, value=3))
        stack.enter_context(posix.SharedMemory.create(f"{name}-memory", size=5000))
        channel = stack.enter_context(Channel.create(name, capacity=1000))
        channel.send_nowait(b"frame")
        jobs = stack.enter_context(sysv.MessageQueue.create(key))
        jobs.send_nowait(b"resize")
        stack.enter_context(sysv.SemaphoreSet.create(key, values=[1, 1, 5]))
        segment = stack.enter_context(sysv.SharedMemory.create(key, size=4096))
        yield Objects(name, f"{key:#x}", segment.id)


def by_object(result: Result) -> dict[str, dict[str, str]]:
    return {row["OBJECT"]: row for row in result.rows}


# ls


def test_ls_in_a_pipe(objects: Objects, snapshot: Snapshot) -> None:
    result = aioipc("ls", *objects.patterns, prefix=with_mqueue())
    assert (result.errors, result.code) == ("", 0)
    text = "\n".join(re.sub(r"^(\S+)\t\d+\t", r"\1\tID\t", line) for line in result.output.splitlines())
    text = text.replace(f"\t{kernel('msgmnb')}\t", "\tMSGMNB\t")
    snapshot("ls-pipe", text + "\n", **objects.words)


def test_ls_at_a_terminal(objects: Objects, snapshot: Snapshot) -> None:
    words = ("ls", objects.patterns[0])
    with terminal(*words, prefix=with_mqueue()) as screen:
        output, code = screen.finish()
    assert code == 0
    assert "\x1b[1m" in output
    # The columns are as wide as the name is long.
    snapshot("ls-terminal", re.sub(r" +\n", "\n", re.sub(" {2,}", "  ", plain(output))), **objects.words)
    lines = plain(output).splitlines()
    assert {line.index("root") for line in lines[1:]} == {lines[0].index("OWNER")}
    assert not {"│", "━", "┃", "|"} & {*output}


def test_ls_at_a_narrow_terminal_cuts_nothing(objects: Objects) -> None:
    for columns in 60, 20:
        with terminal("ls", "--kind", "shm", objects.patterns[0], columns=columns) as screen:
            output, _ = screen.finish()
        lines = plain(output).splitlines()
        first = "".join(line[: lines[0].index("OWNER")].strip() for line in lines[1:])
        assert first == f"shm:{objects.name}-memory"
        # Columns in which nothing is known are not shown.
        assert lines[0].split() == ["OBJECT", "OWNER", "MODE", "SIZE"]
        assert lines[1].split()[-2:] == ["0600", "5,000"]
        assert "…" not in output


def test_ls_as_json(objects: Objects) -> None:
    arguments = ("ls", "--json", *objects.patterns)
    found = {each["kind"]: each for each in json.loads(aioipc(*arguments, prefix=with_mqueue()).output)}
    assert [*found] == ["mq", "sem", "shm", "channel", "msg", "semset", "segment"]
    assert (found["mq"]["messages"], found["mq"]["bytes"], found["mq"]["name"]) == (1, 11, objects.name)
    assert found["channel"]["peers"] == [os.getpid()]
    assert [member["value"] for member in found["semset"]["members"]] == [1, 1, 5]
    assert found["segment"]["id"] == objects.segment


def test_ls_agrees_with_ipcs(objects: Objects) -> None:
    if shutil.which("ipcs") is None:
        pytest.skip("ipcs is not installed")
    rows = by_object(aioipc("ls", *objects.patterns))
    key = objects.key
    for option, kind, columns in (
        ("-q", "msg", {3: "MODE", 4: "BYTES", 5: "MESSAGES"}),
        ("-s", "semset", {3: "MODE"}),
        ("-m", "segment", {3: "MODE", 4: "SIZE", 5: "USERS"}),
    ):
        lines = subprocess.check_output(["ipcs", option], text=True).splitlines()
        (words,) = (line.split() for line in lines if line.startswith(f"{int(key, 16):#010x}"))
        row = rows[f"{kind}:{key}"]
        assert words[1:3] == [row["ID"], row["OWNER"]]
        for place, column in columns.items():
            assert int(words[place]) == int(row[column])


def test_ls_lists_all_that_ipcs_lists(new_key: Callable[[], int]) -> None:
    if shutil.which("ipcs") is None:
        pytest.skip("ipcs is not installed")
    with ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(sysv.MessageQueue.create(new_key()))
            stack.enter_context(sysv.SemaphoreSet.create(None, values=[1]))
        for option, kind in ("-q", "msg"), ("-s", "semset"), ("-m", "segment"):
            lines = subprocess.check_output(["ipcs", option], text=True).splitlines()[3:]
            ids = {line.split()[1] for line in lines if line}
            rows = aioipc("ls", "--kind", kind).rows
            assert {row["ID"] for row in rows} == ids
            assert len(rows) >= (150 if kind != "segment" else 0)


def test_ls_filters(objects: Objects, name: str) -> None:
    whole = objects.name
    assert {*by_object(aioipc("ls", "--kind", "sem", "--kind", "shm", f"{whole}*"))} == {
        f"sem:{whole}",
        f"shm:{whole}-memory",
    }
    assert [*by_object(aioipc("ls", f"channel:{whole}"))] == [f"channel:{whole}"]
    assert [*by_object(aioipc("ls", f"sem:{whole}", "--owner", str(os.geteuid())))] == [f"sem:{whole}"]
    nothing = aioipc("ls", f"sem:{whole}", "--owner", str(os.geteuid() + 1))
    assert (nothing.rows, nothing.code) == ([], 1)


def test_ls_without_an_mqueue_file_system(name: str) -> None:
    prefix = without_mqueue()
    with posix.Semaphore.create(name):
        result = aioipc("ls", prefix=prefix)
        assert f"sem:{name}" in by_object(result)
        assert result.code == 0
        assert "mount -t mqueue none /dev/mqueue" in result.errors
        assert aioipc("ls", f"sem:{name}", prefix=prefix).errors == ""
    well = aioipc("doctor", prefix=prefix)
    assert well.code == 1
    assert "mkdir -p /dev/mqueue && mount -t mqueue none /dev/mqueue" in {row["TO MEND IT"] for row in well.rows}


def test_odd_names(name: str, snapshot: Snapshot) -> None:
    odd = f"{name} \x1b]0;x\x07\n\x9b31m\udcff%é"
    memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=1)
    memory.close_fd()
    path = Path("/dev/shm" + name).rename("/dev/shm" + odd)
    try:
        with terminal("ls", f"{name}*", columns=160) as screen:
            output, code = screen.finish()
        assert code == 0
        assert f"\nshm:{name}%20%1B%5D0%3Bx%07%0A%C2%9B31m%FF%25é " in plain(output)
        (row,) = aioipc("ls", f"{name}*").rows
        with terminal("stat", row["OBJECT"]) as screen:
            output, code = screen.finish()
        assert code == 0
        assert not {"\x07", "\x9b", "\udcff"} & {*plain(output)}
        snapshot(
            "stat-odd-name", "\n".join(line.strip() for line in plain(output).splitlines() if "name" in line), NAME=name
        )
        assert json.loads(aioipc("stat", "--json", row["OBJECT"]).output)["name"] == odd
    finally:
        path.unlink()


def test_no_permission(objects: Objects) -> None:
    rows = by_object(aioipc_as_nobody("ls", *objects.patterns))
    name, key = objects.name, objects.key
    row = rows[f"sem:{name}"]
    assert {row.pop("OBJECT"), row.pop("OWNER"), row.pop("MODE")} == {f"sem:{name}", "root", "0600"}
    assert {*row.values()} == {"-"}
    assert rows[f"msg:{key}"]["MESSAGES"] == "1"
    refused = aioipc_as_nobody("rm", "--yes", f"sem:{name}", f"msg:{key}")
    assert refused.code == 3
    assert "only its owner may remove this semaphore" in refused.errors
    assert {*by_object(aioipc("ls", *objects.patterns))} >= {f"sem:{name}", f"msg:{key}"}
    assert aioipc_as_nobody("receive", f"channel:{name}", "--timeout", "0").code == 3


# stat


@pytest.mark.parametrize("kind", ["mq", "sem", "shm", "channel", "msg", "semset", "segment"])
def test_stat(objects: Objects, snapshot: Snapshot, kind: str) -> None:
    name, key = objects.name, objects.key
    address = {"shm": f"shm:{name}-memory", "msg": f"msg:{key}", "semset": f"semset:{key}", "segment": f"segment:{key}"}
    result = aioipc("stat", address.get(kind, f"{kind}:{name}"))
    assert (result.errors, result.code) == ("", 0)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", result.output)
    text = re.sub(r"\b(id|bell id)\t\w+", r"\1\tID", text)
    text = re.sub(r"^(owner|creator)\t.*$", r"\1\tUSER", text, flags=re.MULTILINE)
    text = re.sub(r"^(group|creator group)\t.*$", r"\1\tGROUP", text, flags=re.MULTILINE)
    text = text.replace(f"max bytes\t{kernel('msgmnb')}\n", "max bytes\tMSGMNB\n")
    text = re.sub(r"^peers\t\d+$", "peers\tPID", text, flags=re.MULTILINE)  # whose it is only its own namespace knows
    snapshot(f"stat-{kind}", re.sub(rf"\b{os.getpid()} \([^)]*\)", "PID (python)", text), **objects.words)


def test_stat_of_a_name_alone(objects: Objects) -> None:
    name = objects.name
    assert aioipc("stat", f"{name}-memory").code == 0
    several = aioipc("stat", name)
    assert several.code == 2
    assert f"several objects have this name: mq:{name}, sem:{name}, channel:{name}" in several.errors
    assert "not found" not in several.errors


def test_what_is_not_there(name: str) -> None:
    for kind in ("mq", "sem", "shm", "channel"):
        for command in ("stat", "watch", "rm"):
            result = aioipc(command, f"{kind}:{name}")
            assert (result.output, result.code) == ("", 1)
            assert name in result.errors
    for command in ("receive", "tail"):
        assert aioipc(command, f"mq:{name}").code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["stat", "orders"],
        ["stat", "mq:orders"],
        ["stat", "msg:x"],
        ["stat"],
        ["nothing"],
        ["ls", "--kind", "queue"],
        ["ls", "--owner", "nobody-of-this-name"],
        ["receive", "sem:/x"],
        ["receive", "mq:/x", "--type", "1"],
        ["send", "channel:/x", "--priority", "1"],
        ["send", "mq:/x", "--end"],
        ["send", "mq:/x", "--priority", "32768"],
        ["watch", "mq:/x", "--interval", "0"],
        ["rm"],
        ["rm", "mq:/x", "--kind", "mq"],
    ],
)
def test_wrong_command_lines(arguments: list[str]) -> None:
    result = aioipc(*arguments)
    assert (result.output, result.code) == ("", 2)
    assert result.errors.startswith("Usage: aioipc ")


# limits and doctor


def test_limits() -> None:
    result = aioipc("limits", prefix=with_mqueue())
    rows = {row["LIMIT"]: row for row in result.rows}
    assert rows["kernel.msgmni"]["VALUE"] == Path("/proc/sys/kernel/msgmni").read_text().strip()
    assert all(row["USED"].isdecimal() or row["USED"] == "-" for row in rows.values())
    assert rows["fs.mqueue.queues_max"]["USED"].isdecimal()
    assert {limit["name"] for limit in json.loads(aioipc("limits", "--json").output)} == {*rows}


def test_commands_of_a_terminal_are_in_one_line() -> None:
    with terminal("limits", columns=80) as screen:
        output, _ = screen.finish()
    assert "fs.mqueue.queues_max=" in output.split("To raise it:")[1]
    assert all(len(line) <= 80 or line.startswith(("sysctl", "mount", "ulimit")) for line in plain(output).splitlines())


def test_doctor_finds_what_is_tight() -> None:
    steps = (
        "mount -t tmpfs -o mode=1777,size=1m none /dev/shm",
        "head -c 900000 /dev/zero > /dev/shm/x",
        "ulimit -q 50000",
        'exec "$@"',
    )
    prefix = [*with_mqueue(), "bash", "-c", " && ".join(steps), "bash"]
    result = aioipc("doctor", prefix=prefix)
    assert result.code == 1
    mend = {row["TO MEND IT"] for row in result.rows if row["STATE"] == "mend"}
    assert {"mount -o remount,size=2097152 /dev/shm", "ulimit -q 100000"} <= mend
    assert {row["STATE"] for row in json_rows(aioipc("doctor", "--json", prefix=prefix))} == {"well", "mend"}


def json_rows(result: Result) -> list[dict[str, str]]:
    return [{"STATE": "well" if each["is_well"] else "mend"} for each in json.loads(result.output)]


def test_doctor_is_content() -> None:
    # Where nobody else has anything.
    steps = ("mount -t tmpfs -o mode=1777,size=1m none /dev/shm", "ulimit -q 819200", 'exec "$@"')
    prefix = ["unshare", "--ipc", *with_mqueue(), "bash", "-c", " && ".join(steps), "bash"]
    result = aioipc("doctor", prefix=prefix)
    assert {row["STATE"] for row in result.rows} == {"well"}
    assert (result.errors, result.code) == ("", 0)


def test_doctor_finds_a_channel_that_was_overwritten(name: str) -> None:
    with Channel.create(name):
        bells = doorbells(name)
        os.truncate("/dev/shm" + name, 1000)
        try:
            commands = {row["TO MEND IT"] for row in aioipc("doctor").rows}
            assert f"aioipc rm channel:{name}" in commands
        finally:
            for bell in bells:
                bell.unlink()


# How it ends, and starts


def test_whoever_reads_the_output_goes_away(new_name: NewName) -> None:
    with ExitStack() as stack:
        for _ in range(600):  # more than a pipe holds
            stack.enter_context(posix.Semaphore.create(new_name() + "x" * 100))
        command = " ".join(AIOIPC)
        result = subprocess.run(
            ["bash", "-c", f"{command} ls --kind sem | head -1; echo ${{PIPESTATUS[0]}}"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert result.stdout == "OBJECT\tID\tOWNER\tMODE\tMESSAGES\tBYTES\tSIZE\tVALUE\tWAITING\tUSERS\n141\n"
    assert result.stderr == ""


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra(missing: str) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
from aioipc.cli import main
main()
"""
    result = subprocess.run([sys.executable, "-c", program, "ls"], capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("", 1)
    assert result.stderr == f"aioipc: the command needs {missing}: install aioipc with its extra `cli`\n"


def test_help_and_version() -> None:
    for arguments in ([], ["ls"], ["stat"], ["send"], ["receive"], ["tail"], ["watch"], ["rm"], ["limits"], ["doctor"]):
        assert aioipc(*arguments, "--help").code == 0
    assert "CONSUMES" in aioipc("tail", "--help").output
    assert aioipc("--version").output.startswith("aioipc, version ")


def test_the_entry_point() -> None:
    script = Path(sys.executable).parent / "aioipc"
    result = subprocess.run([script, "ls", "--kind", "sem"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("OBJECT\t")


def test_it_works_where_letters_are_missing(new_name: NewName) -> None:
    with posix.Semaphore.create(new_name() + "-字") as semaphore:
        result = subprocess.run(
            [*AIOIPC, "ls", f"{semaphore.name[:-1]}*"],
            env={**os.environ, "PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            check=True,
        )
        assert f"sem:{semaphore.name[:-1]}\\u5b57\t".encode() in result.stdout
