"""NTP packets as bytes, against a reading of RFC 5905 that is not the codec's."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.ntp_codec import decode_reply, encode_request
from edge_agent.core.timebase import BUILD_EPOCH, UtcNs

ERA: Final = 2**32 * 10**9
FROM_1900: Final = 2_208_988_800 * 10**9

packets = st.binary(min_size=48, max_size=200)
instants = st.integers(BUILD_EPOCH, BUILD_EPOCH + 10 * ERA).map(UtcNs)


@given(cookie=st.binary(min_size=8, max_size=8))
def test_a_request_is_version_4_mode_3_the_cookie_and_nothing_else(cookie: bytes) -> None:
    """Whatever the cookie is, its bytes are sent: ntplib's floats would alter most of them."""
    assert encode_request(cookie) == bytes([0b00_100_011]) + bytes(39) + cookie


@given(data=packets, near=instants)
def test_every_field_of_a_reply_is_read_exactly(data: bytes, near: UtcNs) -> None:
    """Bit by bit as RFC 5905 §7.3 has it, and without rounding beyond a nanosecond."""
    reply = decode_reply(data, near=near)
    assert reply is not None
    bits = int.from_bytes(data[:48])

    def field(first: int, width: int) -> int:
        return bits >> (384 - first - width) & (1 << width) - 1

    assert (reply.leap, reply.version, reply.mode, reply.stratum) == (field(0, 2), field(2, 3), field(5, 3), data[1])
    assert reply.precision == struct.unpack("b", data[3:4])[0]
    assert reply.root_delay_ns == round(Fraction(field(32, 32) * 10**9, 2**16))
    assert reply.root_dispersion_ns == round(Fraction(field(64, 32) * 10**9, 2**16))
    assert reply.reference == data[12:16]
    assert reply.cookie == data[24:32]
    for read, sent in ((reply.t2, field(256, 64)), (reply.t3, field(320, 64))):
        if sent == 0:
            assert read is None
        else:
            assert read is not None
            assert (read + FROM_1900 - sent * 10**9 // 2**32) % ERA == 0
            assert abs(read - near) <= ERA // 2


@given(
    seconds=st.integers(1_793_491_200, 8_000_000_000), fraction=st.integers(0, 2**32 - 1), off=st.floats(-0.499, 0.499)
)
def test_the_era_is_the_one_nearest_to_what_is_known(seconds: int, fraction: int, off: float) -> None:
    """From 2026 to 2223, given an instant within 68 years: the timestamps begin anew in 2036 and in 2172."""
    sent = ((seconds + 2_208_988_800) % 2**32 << 32 | fraction) or 1
    reply = decode_reply(bytes(32) + sent.to_bytes(8) * 2, near=UtcNs(seconds * 10**9 + int(off * ERA)))
    assert reply is not None
    assert reply.t2 == reply.t3 == seconds * 10**9 + fraction * 10**9 // 2**32


def test_a_timestamp_just_after_the_first_era_is_of_2036() -> None:
    """2036-02-07T06:28:16Z is second 0 of era 1."""
    reply = decode_reply(bytes(32) + (1 << 32).to_bytes(8) * 2, near=BUILD_EPOCH)
    assert reply is not None
    assert reply.t2 == 2_085_978_497 * 10**9


@pytest.mark.parametrize("length", [0, 1, 24, 47])
def test_what_is_shorter_than_a_header_is_no_reply(length: int) -> None:
    """A truncated packet is ``None``."""
    assert decode_reply(b"\x24" * length, near=BUILD_EPOCH) is None


@given(data=st.binary(max_size=600), near=instants)
def test_no_bytes_whatever_make_it_fail(data: bytes, near: UtcNs) -> None:
    """A reply or ``None``."""
    assert (decode_reply(data, near=near) is None) == (len(data) < 48)
