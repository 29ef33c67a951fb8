"""Takes in each key once: whoever hands in the same again, at once or days later, gets the id of the first time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from functools import partial

from edge_agent.core.submission import Submission
from edge_agent.errors import OutboxError
from edge_agent.services.keeping import Keeping


class OnceOnly:
    """The keys that are on their way; those that have arrived are in the store."""

    def __init__(
        self,
        keeping: Keeping,
        sent: Callable[[], Mapping[bytes, str]],
        put: Callable[[bytes, Submission], asyncio.Future[str]],
    ) -> None:
        """Prepare.

        Args:
            keeping: the store, which remembers keys.
            sent: returns the keys, as digests, that the store has yet to be told of, and the ids of their records: the
                broker has those.
            put: takes in a record under a key's digest; returns a future of its id.
        """
        self._keeping = keeping
        self._sent = sent
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
            known = await self._keeping.read(lambda store: store.known([digest]))
            if known is None:
                raise OutboxError("the disk fails: whether the key is new is not known", word="busy")
            if (there := known.get(digest) or self._sent().get(digest)) is not None:
                return there
            answer = self._answers.get(digest)  # of whoever was faster
        if answer is None:  # from here on it arrives, whoever goes away
            answer = self._answers[digest] = self._put(digest, submission)
            answer.add_done_callback(partial(self._forget, digest))
        return await asyncio.shield(answer)

    def _forget(self, digest: bytes, answer: asyncio.Future[str]) -> None:
        del self._answers[digest]
        answer.exception()  # perhaps nobody waits for it any more
