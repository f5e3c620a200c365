from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar, final

_T = TypeVar("_T", bound=tuple[Any, ...])
_T_co = TypeVar("_T_co", covariant=True, bound=tuple[Any, ...])

def record(kind: type[_T], fields: tuple[Any, ...], compact_below: int, /) -> _T: ...

@final
class Gate:
    held: bool
    @property
    def inherited(self) -> bool: ...
    def enter(self) -> bool: ...
    def give_way(self) -> int: ...
    def come_back(self, gave_way_in: int, /) -> None: ...
    def renew(self) -> None: ...

@final
class Iterator(Generic[_T_co]):
    def __init__(
        self,
        gate: Gate,
        attempt: Callable[[], tuple[Any, ...]],
        record: type[_T_co],
        perform: Callable[[], Coroutine[Any, Any, _T_co]],
        compact_below: int = 0,
    ) -> None: ...
    def __aiter__(self) -> Iterator[_T_co]: ...
    def __anext__(self) -> Coroutine[Any, Any, _T_co]: ...
