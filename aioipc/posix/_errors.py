"""What the errors of posix_ipc mean that carry no errno."""

from __future__ import annotations

import errno


def errno_of(error: OSError) -> int:
    """The errno of an OSError of posix_ipc, which has only words for some: EMFILE, ENFILE and ENOSPC."""
    if error.errno is not None:
        return error.errno
    words = str(error)
    if "space" in words:
        return errno.ENOSPC
    return errno.ENFILE if "system limit" in words else errno.EMFILE
