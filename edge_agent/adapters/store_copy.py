"""Reads the store of an agent that does not run: from a copy, for only the agent ever opens the store itself."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge_agent.adapters.store import Store
from edge_agent.errors import EdgeAgentError

_FILES: Final = ("outbox.db", "outbox.db-wal")
_ANY_SIZE: Final = 1 << 40


@contextlib.contextmanager
def opened_copy(folder: Path) -> Iterator[Store]:
    """Copy the store of a state directory to a temporary place and open it there.

    Raises:
        EdgeAgentError: there is none, or it cannot be read.
        StoreError: it is damaged beyond opening, or from a newer version.
    """
    with tempfile.TemporaryDirectory(prefix="edge-agent-queue-") as place:
        try:
            shutil.copyfile(folder / _FILES[0], Path(place, _FILES[0]))
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(folder / _FILES[1], Path(place, _FILES[1]))
        except OSError as error:
            why = f"{error.strerror}; is state.dir right, and may you read it?"
            raise EdgeAgentError(f"the agent cannot be asked, and {folder / _FILES[0]} cannot be read: {why}") from None
        store = Store(Path(place, _FILES[0]), max_bytes=_ANY_SIZE, name="unknown", resume=True)
        try:
            yield store
        finally:
            store.close()
