"""What the kernel's limits are now, and how to raise them, in words for an error message."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Sizes of two structures of the kernel (struct msg_msg, struct posix_msg_tree_node on
# a 64-bit machine), and the number of priorities: getrlimit(2), RLIMIT_MSGQUEUE.
_MESSAGE_OVERHEAD = 48
_PRIORITY_OVERHEAD = 48
_PRIORITIES = 32768

SHM = "/dev/shm"  # noqa: S108
"""Where the file system of POSIX shared memory is: shm_overview(7)."""


def sysctl(name: str) -> int | None:
    """The value of a kernel parameter such as "fs.mqueue.msg_max"; None where it can't be read."""
    try:
        with open("/proc/sys/" + name.replace(".", "/"), "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def set_sysctl(name: str, value: object = "...") -> str:
    """The command that changes a kernel parameter, for root."""
    return f"sysctl -w {name}={value}"


def explain_sysctl(name: str) -> str:
    """Name a kernel parameter, its value now, and the command that changes it."""
    value = sysctl(name)
    now = "not readable here" if value is None else f"{value:,} now"
    return f"{name} ({now}; raise it with `{set_sysctl(name)}` as root)"


KERNEL_SEM = ("SEMMSL", "SEMMNS", "SEMOPM", "SEMMNI")
"""The four limits of semaphore sets in kernel.sem."""


def kernel_sem() -> list[int] | None:
    """Their values; None where they can't be read."""
    try:
        with open("/proc/sys/kernel/sem", "rb") as file:
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return None


def set_kernel_sem(values: Iterable[object] = KERNEL_SEM) -> str:
    """The command that changes them, for root."""
    return f'sysctl -w kernel.sem="{" ".join(map(str, values))}"'


def explain_kernel_sem(limit: str) -> str:
    """Name one of the four limits of semaphore sets, its value now, and the command that changes it."""
    values = kernel_sem()
    place = KERNEL_SEM.index(limit)
    now = "not readable here" if values is None else f"{values[place]:,}"
    return f"{limit} ({now} now; raise it, number {place + 1} of four, with `{set_kernel_sem()}` as root)"


def message_queue_bytes(max_messages: int, max_message_size: int) -> int:
    """How many bytes of RLIMIT_MSGQUEUE a POSIX message queue takes, full or not."""
    overhead = max_messages * _MESSAGE_OVERHEAD + min(max_messages, _PRIORITIES) * _PRIORITY_OVERHEAD
    return overhead + max_messages * max_message_size


def rlimit_msgqueue() -> int | None:
    """RLIMIT_MSGQUEUE in bytes; None for unlimited."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    return None if soft == resource.RLIM_INFINITY else soft


def set_rlimit_msgqueue(value: object = "BYTES") -> str:
    """The command that changes it, for a shell and what that starts."""
    return f"ulimit -q {value}"


def explain_rlimit_msgqueue() -> str:
    """Name RLIMIT_MSGQUEUE, its value now, and the ways to change it."""
    limit = rlimit_msgqueue()
    now = "unlimited" if limit is None else f"{limit:,} bytes"
    return (
        f"RLIMIT_MSGQUEUE ({now} now, for all queues of this user; raise it with "
        f"`{set_rlimit_msgqueue()}`, LimitMSGQUEUE= in a systemd unit or msgqueue in limits.conf)"
    )


def room_of(place: str | int) -> os.statvfs_result | None:
    """What a file system has room for: statvfs(3) of a path or a descriptor; None where that can't be known."""
    try:
        return os.statvfs(place)
    except OSError:  # of all that is out of the ordinary; and some sandboxes forbid it
        return None


def _bytes(room: os.statvfs_result | None) -> str:
    if room is None:
        return "an unknown number of bytes"
    return f"{room.f_bavail * room.f_frsize:,} of {room.f_blocks * room.f_frsize:,} bytes"


def _files(room: os.statvfs_result | None) -> str:
    return "an unknown number" if room is None else f"{room.f_favail:,} of {room.f_files:,}"


def remount_shm(option: str, value: object) -> str:
    """The command that changes an option of the file system of POSIX shared memory, for root."""
    return f"mount -o remount,{option}={value} /dev/shm"


def explain_shm_room() -> str:
    """Name the file system of POSIX shared memory, its room now, and the ways to enlarge it."""
    return (
        f"the shared-memory file system /dev/shm ({_bytes(room_of(SHM))} free now; enlarge it with "
        f"`{remount_shm('size', 'BYTES')}` as root, that of a container with `docker run --shm-size=BYTES`)"
    )


def explain_shm_files() -> str:
    """Name the number of files in the file system of POSIX shared memory, and the way to raise it."""
    return (
        f"the shared-memory file system /dev/shm ({_files(room_of(SHM))} free now; raise it with "
        f"`{remount_shm('nr_inodes', 'NUMBER')}` as root, or remove some)"
    )


def explain_shm_segments() -> str:
    """Name the limits of how many System V segments there are and how large all are, their values, and the commands."""
    page = os.sysconf("SC_PAGE_SIZE")
    return (
        f"as many segments exist as {explain_sysctl('kernel.shmmni')} allows, or pages of {page:,} bytes in them as "
        f"{explain_sysctl('kernel.shmall')}; or remove some"
    )


def explain_overcommit() -> str:
    """Name the kernel parameter by which memory is promised, its value now, and the command that changes it."""
    return (
        f"vm.overcommit_memory ({sysctl('vm.overcommit_memory')} now; `sysctl -w vm.overcommit_memory=1` as root lets "
        "the kernel promise more memory than there is)"
    )


def explain_address_space() -> str:
    """Name RLIMIT_AS, or the number of mappings where that is not limited, its value now, and the ways to change it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return explain_sysctl("vm.max_map_count")
    return f"RLIMIT_AS ({soft:,} bytes now; raise it with `ulimit -v` or LimitAS= in a systemd unit)"


def explain_file_size() -> str:
    """Name RLIMIT_FSIZE, its value now, and the ways to change it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    now = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,} bytes"
    return f"RLIMIT_FSIZE ({now} now; raise it with `ulimit -f` or LimitFSIZE= in a systemd unit)"


def explain_new_shm_file() -> str:
    """Say which limit of the file system of POSIX shared memory there can't be one more file for."""
    room = room_of(SHM)
    has_files = room is None or room.f_files == 0 or room.f_ffree > 0
    return f"no room for one more file in {explain_shm_room() if has_files else explain_shm_files()}"


def explain_folder(path: str) -> str:
    """Name the file system of a folder, and its room now."""
    room = room_of(path)
    return f"the file system of {path} ({_bytes(room)} and {_files(room)} files free now; remove some, or enlarge it)"


def explain_open_files(number: int) -> str:
    """Name the limit that EMFILE or ENFILE stands for, its value now, and the ways to change it."""
    if number == errno.ENFILE:
        return explain_sysctl("fs.file-max")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"RLIMIT_NOFILE ({soft:,} open descriptors now; raise it with `ulimit -n` or LimitNOFILE= in a systemd unit)"


def explain_rlimit_sigpending() -> str:
    """Name RLIMIT_SIGPENDING, its value now, and the ways to change it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    return (
        f"RLIMIT_SIGPENDING ({soft:,} now, for signals and timers of this user; raise it with `ulimit -i` or "
        "LimitSIGPENDING= in a systemd unit)"
    )


def explain_threads() -> str:
    """Name the limits of how many threads there are, their values now, and the ways to change them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    now = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    return (
        f"RLIMIT_NPROC ({now} now, for all threads of this user; raise it with `ulimit -u` or LimitNPROC= in a systemd "
        f"unit), {explain_sysctl('kernel.threads-max')}, or pids.max of the control group (TasksMax= in a systemd unit)"
    )


def no_descriptor_left() -> int | None:
    """EMFILE or ENFILE if this process can't get another descriptor now, else None."""
    try:
        descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno if error.errno in (errno.EMFILE, errno.ENFILE) else None
    os.close(descriptor)
    return None
