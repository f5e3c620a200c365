"""System calls that fail, at every call that the library makes.

Each operation of each object is done once without a fault, and its system calls are counted.  Then it is done
once for each call and each error that this call can have: alone, or with all that come after it failing, too; and
with two faults.  Either it is not hindered, and has its whole effect, or it raises an error that says what to do, and
has none: nothing is lost or left, seen from outside, and done again without a fault it succeeds.

Which calls there are depends on the machine, and a little on chance: a seed gives nearly the same schedule.  The one
that is printed with a finding is exact.
"""

from __future__ import annotations

import functools
import random
from collections import Counter

from harness import Scenario, Schedule
from interposing import IN_THREAD, Fault
from judging import LOOPS, Judge
from operations import Operation
from operations_channels import channels, wakings
from operations_inspect import the_rest
from operations_posix import fifos, posix_queues, posix_segments, posix_semaphores
from operations_sysv import sysv_queues, sysv_segments, sysv_sets
from outside_channels import SleepingReceiver
from world import World

OPERATIONS = (
    *posix_queues(), *posix_semaphores(), *posix_segments(), *fifos(), *sysv_queues(), *sysv_sets(), *sysv_segments(),
    *channels(), *wakings(), *the_rest(),
)  # fmt: skip
"""Each operation of each object of the library."""
_PATH = ("EACCES", "ENOMEM")
_ENTRY = (*_PATH, "ENOSPC")
_DESCRIPTOR = ("EMFILE", "ENFILE", "ENOMEM")
_OPEN = (*_DESCRIPTOR, "EACCES", "EINTR")
_GET = ("EACCES", "ENOMEM", "ENOSPC")
_THREAD = ("EAGAIN", "ENOMEM")
_TRANSFER = ("EACCES", "EINTR", "ENOMEM")
ERRORS = {
    "clone": _THREAD,
    "clone3": _THREAD,
    "epoll_create1": _DESCRIPTOR,
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "epoll_pwait": ("EINTR",),
    "epoll_wait": ("EINTR",),
    "fallocate": ("EINTR", "ENOMEM", "ENOSPC"),
    "fcntl F_DUPFD_CLOEXEC": ("EMFILE",),
    "fcntl F_OFD_SETLK": ("EINTR", "ENOLCK"),
    "fstatfs": ("EINTR", "ENOMEM"),
    "ftruncate": ("EINTR",),
    "futex": ("EINTR",),
    "getdents64": ("ENOMEM",),
    "inotify_add_watch": _ENTRY,
    "inotify_init1": _DESCRIPTOR,
    "link": _ENTRY,
    "linkat": _ENTRY,
    "lstat": _PATH,
    "mknod": _ENTRY,
    "mknodat": _ENTRY,
    "mmap": ("ENOMEM",),
    "mq_open": (*_OPEN, "ENOSPC"),
    "mq_timedreceive": ("EINTR",),
    "mq_timedsend": ("EINTR", "ENOMEM"),
    "mq_unlink": _PATH,
    "msgctl": ("EACCES",),
    "msgctl IPC_RMID": ("EPERM",),
    "msgctl IPC_SET": ("EPERM",),
    "msgget": _GET,
    "msgrcv": _TRANSFER,
    "msgsnd": _TRANSFER,
    "newfstatat": _PATH,
    "open": _OPEN,
    "openat": _OPEN,
    "openat O_CREAT": (*_OPEN, "ENOSPC"),
    "openat O_TMPFILE": (*_OPEN, "ENOSPC"),
    "pread64": ("EINTR", "EIO", "ENOMEM"),
    "read": ("EINTR", "ENOMEM"),
    "read 1024": ("EINTR",),
    "semctl": ("EACCES",),
    "semctl GETALL": ("EACCES", "ENOMEM"),
    "semctl IPC_RMID": ("EPERM",),
    "semctl IPC_SET": ("EPERM",),
    "semctl SETALL": ("EACCES", "ENOMEM"),
    "semget": _GET,
    "semop": _TRANSFER,
    "semtimedop": _TRANSFER,
    "shmat": _PATH,
    "shmctl": ("EACCES",),
    "shmctl IPC_RMID": ("EPERM",),
    "shmctl IPC_SET": ("EPERM",),
    "shmget": (*_GET, "ENFILE"),
    "stat": _PATH,
    "statfs": ("EACCES", "EINTR", "ENOMEM"),
    "timer_create": _THREAD,
    "unlink": _PATH,
    "unlinkat": _PATH,
    "write": ("EINTR", "ENOMEM"),
    "write 8": ("EINTR",),
}
"""By what errors a call can fail for want of something, or for a signal, whatever its arguments are."""
_OF_OWN = "it tells what is known of a descriptor that is open"
NEVER_FAIL = {
    "epoll_ctl EPOLL_CTL_DEL": "it gives back what it has",
    "fcntl": "of all that it does only F_DUPFD_CLOEXEC and F_OFD_SETLK take something",
    "fstat": _OF_OWN,
    "ioctl": "it only tells or sets what is kept with a pipe, a socket or a terminal",
    "newfstatat AT_EMPTY_PATH": _OF_OWN,
}
"""What is told of and takes nothing that could be wanting: why."""

_LOOPS_OWN = {"asyncio": (), "uvloop": ("epoll_ctl",), "trio": ("epoll_ctl",)}
"""What is not tried on a loop: libuv ends the process if that fails, and trio is not usable any more."""
_MOST = 200
"""How many faults of an operation are tried in one round."""
_NOT_OF = {"inspect": ("EINTR", "EACCES")}
"""What does not happen to it: it looks at no slow device, and lists what may not be read as what it seems."""
_C_LIBRARYS_OWN = {"posix.Semaphore.create": ("newfstatat", 2), "posix.Semaphore.create exist_ok": ("newfstatat", 2)}
"""What is not tried: if sem_open(3) can't look whether a name for its temporary file is free, it says EEXIST."""
_THREADS_OWN = ("mmap" + IN_THREAD,)
"""What is not tried: without memory the interpreter ends a thread before it has begun, and says so to nobody."""


class Missed(Exception):  # noqa: N818
    """Nothing failed as it was to."""


def _run(operation: Operation, loop: str, world: World, schedule: Schedule) -> Counter[str]:
    steps = [[Fault(*fault) for fault in faults] for faults in schedule.steps]
    judge = Judge(operation, world, loop, steps)
    judge.run()
    if steps and not judge.counts["faults"]:
        raise Missed(f"none of {len(steps)} faults came to pass")
    return judge.counts


@functools.cache
def _calls(operation: Operation, loop: str) -> Counter[str]:
    """The system calls of an operation that is not hindered."""
    with World() as world:
        judge = Judge(operation, world, loop, [])
        judge.run()
    return judge.calls


def _may_last(operation: Operation, call: str, error: str) -> bool:
    """Whether a fault may come to pass again and again: no signal does, and without any memory no doorbell is heard."""
    return error != "EINTR" and not (call == "write" and issubclass(operation.peer, SleepingReceiver))


def _draw(operation: Operation, loop: str, rng: random.Random) -> Schedule:
    """Each fault alone, lasting or not; and a third as many pairs of them; not more than a round takes.

    Of two, neither lasts or is a removal: what undoes something after the first must be able to.
    """
    left_out = (*_LOOPS_OWN[loop], *_THREADS_OWN)
    single = [
        Fault(call, number, error, lasts=_may_last(operation, call, error) and rng.random() < 0.5)
        for call, count in sorted(_calls(operation, loop).items())
        if call not in left_out
        for number in range(1, count + 1)
        if _C_LIBRARYS_OWN.get(operation.name) != (call, number)
        for error in ERRORS.get(call.removesuffix(IN_THREAD), ())
        if error not in _NOT_OF.get(operation.name.split(".")[0], ())
    ]
    untried, _ = _C_LIBRARYS_OWN.get(operation.name, ("", 0))  # a call made again gives it another number
    doing = [
        fault
        for fault in single
        if "unlink" not in fault.call and "IPC_RMID" not in fault.call and fault.call != untried
    ]
    pairs = [[fault._replace(lasts=False) for fault in rng.sample(doing, 2)] for _ in range(len(doing) // 3)]
    steps = [[fault] for fault in single] + pairs
    return Schedule({}, rng.sample(steps, min(len(steps), _MOST)))


def _scenario(operation: Operation, loop: str) -> Scenario:
    return Scenario(
        f"faults/{operation.name}/{loop}",
        functools.partial(_draw, operation, loop),
        functools.partial(_run, operation, loop),
    )


SCENARIOS = tuple(
    _scenario(operation, loop) for operation in OPERATIONS for loop in LOOPS if loop == "asyncio" or operation.waits
)
