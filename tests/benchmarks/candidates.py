"""All candidates, in the order in which they take turns."""

from __future__ import annotations

from candidate import Candidate
from candidates_others import (
    AioProcessing,
    Datagrams,
    FasterFifo,
    FasterFifoMany,
    FifoInC,
    Iceoryx,
    Nng,
    PosixInExecutor,
    PosixQueueInC,
    ProcessPipe,
    ProcessQueue,
    Streams,
    SystemVInExecutor,
    Zmq,
)
from candidates_own import OwnChannel, OwnChannelInPlace, OwnChannelMany, OwnFifo, OwnPosixQueue, OwnSystemVQueue

CANDIDATES: tuple[Candidate, ...] = (
    *(kind(loop) for kind in (OwnChannel, OwnChannelMany, OwnChannelInPlace) for loop in ("asyncio", "uvloop")),
    OwnPosixQueue("asyncio"),
    OwnPosixQueue("uvloop"),
    OwnSystemVQueue("asyncio"),
    OwnFifo("asyncio"),
    *(kind(loop) for kind in (Streams, Datagrams) for loop in ("asyncio", "uvloop")),
    ProcessQueue(),
    ProcessPipe(),
    AioProcessing("asyncio"),
    Zmq("asyncio"),
    Zmq("uvloop"),
    Nng("asyncio"),
    FasterFifo(),
    FasterFifoMany(),
    Iceoryx(),
    PosixInExecutor("asyncio"),
    SystemVInExecutor("asyncio"),
    PosixQueueInC(),
    FifoInC(),
)
