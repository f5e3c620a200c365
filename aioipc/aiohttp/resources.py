"""Resources of an application: queues, semaphores, channels and segments that live as long as it does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from typing import ParamSpec, TypeVar

from aiohttp import web

from aioipc.aiohttp.streams import setup

_T = TypeVar("_T")
_P = ParamSpec("_P")


def add_resource(
    app: web.Application,
    key: web.AppKey[_T],
    make: Callable[_P, AbstractContextManager[_T] | AbstractAsyncContextManager[_T]],
    /,
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> None:
    """Have `make(*args, **kwargs)` called when the application starts, and the result as `app[key]`.

    It is called in the application's event loop.  At clean-up it is closed, and removed from the system if its
    lifetime says so: its `with` block ends, as that of every `create` and `open` of aioipc would.  (Where there is
    no `with`, as for the end of a FIFO, `async with` is taken.)  Resources are cleaned up in reverse order.

    An exception of `make`, such as `ExistsError`, stops the start; the resources that were there already are
    cleaned up: by `run_app`, or by `cleanup` of your own runner.

    :param make: such as `MessageQueue.create` or `Channel.open`
    :raises TypeError: if it can't be called
    """

    async def live(app: web.Application) -> AsyncIterator[None]:
        made = make(*args, **kwargs)
        async with AsyncExitStack() as lifetime:
            # The lifetime of a semaphore is its `with`: `async with` would acquire it.
            if isinstance(made, AbstractContextManager):
                app[key] = lifetime.enter_context(made)
            else:
                app[key] = await lifetime.enter_async_context(made)
            yield

    if not callable(make):
        raise TypeError(f"it takes what makes the resource, and its arguments after that, not a {type(make).__name__}")
    setup(app)
    app.cleanup_ctx.append(live)
