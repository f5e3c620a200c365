from typing import final

from typing_extensions import Buffer

@final
class Memory(Buffer):
    @property
    def size(self) -> int: ...
    @property
    def views(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def map(descriptor: int, size: int, read_only: bool, /) -> Memory: ...  # noqa: A001
def attach(id: int, read_only: bool, /) -> Memory: ...  # noqa: A002
