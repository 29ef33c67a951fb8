"""When to probe a connection, and when to give it up because nothing answers.

A connection can die without a sign: a NAT forgets it, a cable is pulled, a broker hangs. Two things expose that: a
PINGREQ after an idle keepalive (MQTT 5 §3.1.2.10), and publishes of which none is acknowledged. Single publishes never
time out: while any acknowledgement comes in, the connection is alive and the rest is in line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_agent.core.timebase import DurationNs, MonotonicNs, later, seconds

ANSWER_WITHIN: Final = seconds(20)
"""For a PINGRESP, or for any PUBACK while some are due."""


@dataclass(slots=True)
class SilenceWatch:
    """The facts about one connection; the shell keeps them true.

    Attributes:
        keepalive: the idle time after which a PINGREQ is due.
        last_out: when something was last sent.
        last_in: when something last arrived.
        ping_sent: when the PINGREQ was sent that is not answered yet; ``None`` = none is.
        owed_since: since when acknowledgements are due and none has come; ``None`` = none is due.
    """

    keepalive: DurationNs
    last_out: MonotonicNs
    last_in: MonotonicNs
    ping_sent: MonotonicNs | None = None
    owed_since: MonotonicNs | None = None

    def next_due(self) -> tuple[MonotonicNs, bool]:
        """Return what is due next if nothing changes: when, and whether to give up then; else a PINGREQ is."""
        due = [(later(at, ANSWER_WITHIN), True) for at in (self.ping_sent, self.owed_since) if at is not None]
        if self.ping_sent is None:
            due.append((later(min(self.last_out, self.last_in), self.keepalive), False))
        return min(due)
