"""How much the server takes on at once, and whether it takes on anything at all.

The bytes of every body that is being received, waits or is being answered are claimed from one budget before they
are held, so that many clients cost no more memory than the budget, however much they send. All of it runs in the
event loop's thread.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from debiexport.serve.refusals import Unavailable


class Admission:
    """The budget, and the requests in progress.

    Args:
        budget: bytes of bodies that may be held at once.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.held, self.in_progress = budget, 0, 0
        self._draining = self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        """Whether a balancer should send requests here."""
        return not self._draining

    def drain(self) -> None:
        """From now on not ready; requests that come all the same are still taken, since they may be on their way."""
        self._draining = True

    def close(self) -> None:
        """From now on take no request; those in progress go on."""
        self._draining = self._closed = True

    async def idle(self) -> None:
        """Wait until no request is in progress."""
        await self._idle.wait()

    def enter(self, size: int = 0) -> Claim:
        """Take on a request, to be left by `with`.

        Args:
            size: bytes that it is known to need.

        Raises:
            Unavailable: the server is stopping, or the budget is spent.
        """
        if self._closed:
            raise Unavailable("the server is stopping and takes no more requests: send it to another one")
        claim = Claim(self)
        claim.resize(size)
        self.in_progress += 1
        self._idle.clear()
        return claim

    def _left(self) -> None:
        self.in_progress -= 1
        if not self.in_progress:
            self._idle.set()


class Claim:
    """The bytes that one request holds."""

    def __init__(self, admission: Admission) -> None:
        self._admission, self.size = admission, 0

    def resize(self, size: int) -> None:
        """Hold so many bytes.

        Raises:
            Unavailable: they are more than is left of the budget.
        """
        admission = self._admission
        if size > self.size and admission.held + size - self.size > admission.budget:
            raise Unavailable(
                f"the server is full: {admission.held} of the {admission.budget} bytes that requests may hold at once"
                f" are held, and this one needs {size}; try again later"
            )
        admission.held += size - self.size
        self.size = size

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.resize(0)
        self._admission._left()
