"""rm: remove objects, and only those that were meant."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

import click
import sysv_ipc

from aioipc import _shm, inspect
from aioipc._ring import _files
from aioipc.cli._addresses import ADDRESS, filter_options, find_object, look_for
from aioipc.cli._codes import NOTHING, OK, REFUSED
from aioipc.cli._output import complain, explain, process_name
from aioipc.errors import Error, NotFoundError, RemovedError
from aioipc.posix._mq import mq_unlink
from aioipc.posix._sem import sem_unlink
from aioipc.sysv._objects import remove_by_id


@click.command()
@click.argument("addresses", metavar="[ADDRESS]...", nargs=-1, type=ADDRESS)
@click.option("--unused", "patterns", metavar="PATTERN", multiple=True, help="All that match and that nobody uses.")
@click.option("--orphans", is_flag=True, help="The doorbells of channels that are gone.")
@filter_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm(
    addresses: tuple[str, ...],
    patterns: tuple[str, ...],
    orphans: bool,
    kinds: tuple[inspect.Kind, ...],
    owner: int | None,
    yes: bool,
) -> int:
    """Remove objects from the system: those of each ADDRESS, and those that match and that nobody uses.

    It shows them and asks first; without a terminal to ask at it removes nothing, unless there is --yes.  An
    object that was replaced by another one of its name meanwhile is left alone.

    An object that is named by its ADDRESS is removed even if it is in use.  Those of --unused PATTERN are left alone as
    long as somebody has them open, or where that can't be told: see `aioipc stat`.  A System V queue or set counts as
    unused when the processes that used it last have ended, and nobody waits.
    """
    if not (addresses or patterns or orphans):
        raise click.UsageError("say what to remove: an ADDRESS, --unused PATTERN, or --orphans")
    if (kinds or owner is not None) and not patterns:
        raise click.UsageError("--kind and --owner are for --unused PATTERN")
    named = [find_object(address) for address in addresses]
    unused = _unused(look_for(kinds, patterns, owner)) if patterns else []
    if orphans:
        named += inspect.orphans()
    chosen = {each.address: each for each in [*named, *unused]}
    if not chosen:
        complain("there is nothing to remove")
        return NOTHING
    if not yes and not _is_confirmed(chosen.values()):
        return REFUSED
    # Somebody may have come while the question was open.
    left = {each.address for each in unused} - {each.address for each in named}
    left -= {each.address for each in _unused(_as_it_is_now(chosen[address]) for address in left)}
    return max((_remove_one(each) for each in chosen.values() if each.address not in left), default=NOTHING)


def _as_it_is_now(found: inspect.Object) -> inspect.Object:
    """Look at an object once more; one that is gone, or replaced, is found to be that when it is to be removed."""
    try:
        now = inspect.find(found.address)
    except Error:
        return found
    return now if now.identity == found.identity else found


def _unused(found: Iterable[inspect.Object]) -> list[inspect.Object]:
    """Those that nobody uses; of the others it says so."""
    listed = list(found)
    users = inspect.users(listed)
    for each in listed:
        pids = users[each.address].pids
        if pids:
            complain(f"{each.address} is left alone: it is used by {', '.join(map(process_name, pids))}")
        elif not users[each.address].none:
            complain(f"{each.address} is left alone: it can't be told whether somebody uses it")
    return [each for each in listed if users[each.address].none]


def _is_confirmed(chosen: Iterable[inspect.Object]) -> bool:
    listed = list(chosen)
    users = inspect.users(listed)
    for each in listed:
        pids = users[each.address].pids
        click.echo(each.address + (f"  used by {', '.join(map(process_name, pids))}" if pids else ""), err=True)
    if not sys.stdin.isatty():
        complain("nothing was removed: there is no terminal to ask at, and no --yes")
        return False
    what = "this object" if len(listed) == 1 else f"these {len(listed):,} objects"
    try:
        return click.confirm(f"Remove {what}?", err=True)
    except click.Abort as abort:
        if not isinstance(abort.__context__, EOFError):  # of Ctrl-D; else Ctrl-C
            raise
        click.echo(err=True)
        return False


def _remove_one(found: inspect.Object) -> int:
    """Remove an object, and say so.

    :returns: the exit code that this alone would give
    """
    try:
        _remove(found)
    except (NotFoundError, RemovedError):
        complain(f"{found.address} is gone already")
        return NOTHING
    except Error as error:
        complain(explain(error))
        return REFUSED
    click.echo(f"removed {found.address}")
    return OK


_BY_ID: dict[inspect.Kind, Callable[[int], object]] = {
    "msg": sysv_ipc.remove_message_queue,
    "semset": sysv_ipc.remove_semaphore,
    "segment": sysv_ipc.remove_shared_memory,
}


def _remove(found: inspect.Object) -> None:
    """Remove this very object.

    :raises NotFoundError: if its address stands for another one by now, or for none
    """
    if inspect.find(found.address).identity != found.identity:
        raise NotFoundError
    match found:
        case inspect.PosixMessageQueue():
            mq_unlink(found.name)
        case inspect.Channel(bell_id=int(bell_id)):
            _files.unlink(found.name, found.identity, bell_id, found.owner)
        case inspect.PosixSemaphore():
            sem_unlink(found.name, found.identity)
        case inspect.Named():
            _shm.unlink(found.name, found.kind, found.identity)
        case inspect.Keyed():
            remove_by_id(_BY_ID[found.kind], found.id, found.address)
