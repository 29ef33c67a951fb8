"""Takes in each key once: whoever hands in the same again, at once or days later, gets the id of the first time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from functools import partial

from edge_agent.core.submission import Submission
from edge_agent.errors import OutboxError
from edge_agent.services.keeping import Keeping


class OnceOnly:
    """The keys that are on their way; those that have arrived are in the store."""

    def __init__(self, keeping: Keeping, put: Callable[[bytes, Submission], asyncio.Future[str]]) -> None:
        """Prepare.

        Args:
            keeping: the store, which remembers keys.
            put: takes in a record under a key's digest; returns a future of its id.
        """
        self._keeping = keeping
        self._put = put
        self._answers: dict[bytes, asyncio.Future[str]] = {}

    async def accept(self, key: str, submission: Submission) -> str:
        """Return the id of the key's record once it is durable.

        Raises:
            OutboxError: it was not accepted.
        """
        digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).digest()
        answer = self._answers.get(digest)
        if answer is None:
            answer = self._answers[digest] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(partial(self._forget, digest))
            try:
                known = await self._keeping.read(lambda store: store.known([digest]))
                if known is None:
                    answer.set_exception(
                        OutboxError("the disk fails: whether the key is new is not known", word="busy")
                    )
                elif digest in known:
                    answer.set_result(known[digest])
                else:  # from here on it arrives, whoever goes away
                    self._put(digest, submission).add_done_callback(partial(_pass_on, answer))
            except OutboxError as error:
                answer.set_exception(error)
            except asyncio.CancelledError:
                answer.set_exception(OutboxError("the one who handed it in has gone; try again", word="busy"))
                raise
        return await asyncio.shield(answer)

    def _forget(self, digest: bytes, answer: asyncio.Future[str]) -> None:
        del self._answers[digest]
        answer.exception()  # perhaps nobody waits for it any more


def _pass_on(answer: asyncio.Future[str], durable: asyncio.Future[str]) -> None:
    error = durable.exception()
    if error is None:
        answer.set_result(durable.result())
    else:
        answer.set_exception(error)
