"""The exit codes of the command."""

OK = 0
NOTHING = 1
"""Not found, nothing came in time, or something is to be mended."""
REFUSED = 3
"""Not permitted, not confirmed, a limit, corrupt.  (2 is that of click, for a wrong command line.)"""
INTERRUPTED = 130
"""Of programs that SIGINT ends: 128 and the number of the signal."""
BROKEN_PIPE = 141
"""Of programs that SIGPIPE ends."""
