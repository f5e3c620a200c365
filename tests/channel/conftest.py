"""Names of channels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from aioipc._ring import _binding, _files


@pytest.fixture
def name(new_name: Callable[[], str]) -> Iterator[str]:
    """The name of a channel, which is removed with its doorbells."""
    name = new_name()
    yield name
    with suppress(FileNotFoundError):
        descriptor = os.open(f"/dev/shm{name}", os.O_RDONLY)
        _, bell_id, _ = _binding.identify(descriptor)
        os.close(descriptor)
        _files._unlink(_files._doorbells(bell_id))
        os.unlink(f"/dev/shm{name}")
