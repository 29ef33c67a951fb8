"""What is known of the clock, on disk: replaced as a whole, so that a power cut leaves the old or the new one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edge_agent.adapters.durable_file import put_file
from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.core.saved_clock import SavedClock, read

MAX_BYTES: Final = 8192


class ClockFile:
    """``clock.json`` in the state directory."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "clock.json"

    def load(self) -> tuple[SavedClock | None, str | None]:
        """Return what was saved, and why there is nothing if there was something."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None, None
        except OSError as error:
            return None, str(error)
        found = read(data) if len(data) <= MAX_BYTES else None
        return found, None if found is not None else f"{self._path}: damaged, or of another version; it is not used"

    async def save(self, saved: SavedClock) -> None:
        """Replace it.

        Raises:
            OSError: it cannot be written; what was there before still is.
        """
        data = saved.document()
        await in_daemon_thread(lambda: put_file(self._path, data), name="clock-file", late=lambda: None)
