"""NTP packets as bytes; the only importer of ntplib.

ntplib computes with floats, which cannot hold a timestamp: of the request it makes the constant part only, and of the
reply it reads what is no timestamp.
"""

from __future__ import annotations

from typing import Final

import ntplib

from edge_agent.core.ntp import Reply
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, UtcNs

COOKIE_BYTES: Final = 8
_ERA_NS: Final = NANOSECONDS_PER_SECOND << 32
_FROM_1900_NS: Final = ntplib.NTP.NTP_DELTA * NANOSECONDS_PER_SECOND
_REQUEST: Final[bytes] = ntplib.NTPPacket(version=4, mode=3).to_data()


def encode_request(cookie: bytes) -> bytes:
    """Return a request that says nothing of this device: its transmit timestamp is a random cookie, all else zero."""
    assert len(cookie) == COOKIE_BYTES, "the cookie takes the place of a timestamp"
    return _REQUEST[:-COOKIE_BYTES] + cookie


def decode_reply(data: bytes, *, near: UtcNs) -> Reply | None:
    """Return what a packet says, ``None`` when it is none; what follows the header is ignored.

    Args:
        data: as it was received.
        near: an instant within 68 years of the true time: timestamps start again from 0 every 136 years.
    """
    header = ntplib.NTPStats()
    try:
        header.from_data(data)
    except ntplib.NTPException:
        return None
    return Reply(
        leap=header.leap,
        version=header.version,
        mode=header.mode,
        stratum=header.stratum,
        precision=header.precision,
        root_delay_ns=round(header.root_delay * NANOSECONDS_PER_SECOND),
        root_dispersion_ns=round(header.root_dispersion * NANOSECONDS_PER_SECOND),
        reference=data[12:16],
        cookie=data[24:32],
        t2=_instant(data[32:40], near),
        t3=_instant(data[40:48], near),
    )


def _instant(timestamp: bytes, near: UtcNs) -> UtcNs | None:
    """Return a timestamp (RFC 5905 §6: seconds and their binary fraction) in the era nearest to an instant."""
    value = int.from_bytes(timestamp)
    if value == 0:
        return None
    in_era_0 = (value * NANOSECONDS_PER_SECOND >> 32) - _FROM_1900_NS
    eras = (near - in_era_0 + _ERA_NS // 2) // _ERA_NS
    return UtcNs(in_era_0 + eras * _ERA_NS)
