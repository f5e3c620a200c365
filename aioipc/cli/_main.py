"""The command as a whole: its subcommands, and the exit code of every way to end."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click

from aioipc.cli import _completion, _doctor, _listing, _receiving, _removing, _sending, _watching
from aioipc.cli._codes import BROKEN_PIPE, INTERRUPTED, NOTHING, OK, REFUSED
from aioipc.cli._output import complain, explain
from aioipc.errors import Error, NotFoundError, RemovedError

_EPILOG = """\b
Exit codes:
  0    done
  1    nothing: not found, no message or no room in time; or something to mend
  2    the command line is wrong
  3    refused: not permitted, not confirmed, a limit, corrupt
  130  ended by Ctrl-C
  141  whoever read the output is gone
"""


class _Ended(Exception):  # noqa: N818
    """It has ended for a reason for which click has an exit code of its own."""

    def __init__(self, code: int) -> None:
        self.code = code


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise _Ended(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            raise _Ended(INTERRUPTED) from None
        return result


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=_Commands, context_settings=_SETTINGS, epilog=_EPILOG)
@click.version_option(package_name="aioipc")
def aioipc() -> None:
    """Kernel IPC objects: what there is, what is in it, who uses it.

    An object has an address: its kind, a colon, and its name, key or id, as `aioipc ls` shows it: mq:/orders,
    sem:/printer, shm:/table, channel:/frames, msg:0x14, semset:0x15, segment:id=3.  A name alone, /orders, will do
    where only one object has it.
    """


for command in (
    _listing.ls,
    _listing.stat,
    _watching.watch,
    _sending.send,
    _receiving.receive,
    _receiving.tail,
    _removing.rm,
    _listing.limits,
    _doctor.doctor,
):
    aioipc.add_command(command)


def run() -> int:
    """Do what the command line says.

    :returns: the exit code
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names have letters that the locale may not
            stream.reconfigure(errors="backslashreplace")
    _completion.install()
    try:
        return _run()
    finally:
        _let_go_of_output()


def _let_go_of_output() -> None:
    """Throw away what can't be written: the interpreter would try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run() -> int:
    try:
        code = aioipc.main(prog_name="aioipc", standalone_mode=False)
    except _Ended as end:
        return end.code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (NotFoundError, RemovedError) as error:
        complain(explain(error))
        return NOTHING
    except (Error, OSError) as error:
        complain(explain(error))
        return REFUSED
    return code if isinstance(code, int) else OK
