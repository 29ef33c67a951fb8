"""The lower half of an MQTT connection: opening it, moving bytes between paho and the socket, noticing its end.

With ``mqtt_link`` the only user of aiomqtt and paho, and the only place that touches their private parts. aiomqtt 2 by
itself acknowledges messages before anybody has handled them, hides the reason codes of PUBACKs and the limits of the
CONNACK, leaves publishes pending when the connection ends, and wakes up once a second. So all callbacks of paho but the
one for SUBACKs are taken over here, and the two methods in which paho makes its socket. The contract tests of the link
hold both libraries to what is relied on.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from typing import Any, Final

import aiomqtt
from paho.mqtt.client import DisconnectFlags
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.adapters.buffered_socket import BufferedSocket, OversizedError
from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.core.connection import SPOKEN, ClosedBy, Closing, ProtocolVersion
from edge_agent.core.silence import ANSWER_WITHIN, SilenceWatch
from edge_agent.core.timebase import (
    NANOSECONDS_PER_MILLISECOND,
    elapsed,
    later,
    seconds,
    to_seconds,
)
from edge_agent.errors import ConnectFailedError, ConnectFailure
from edge_agent.ports import Clock, Limits

MAX_INBOUND: Final = 256 * 1024  # bytes of one incoming packet
TURN: Final = seconds(0.005)  # for what comes in; then everybody else in the loop has a turn, however much is left
CONNECT_WITHIN_S: Final = 30.0  # resolver, TCP and TLS
HANDSHAKE_WITHIN_S: Final = 10.0
CONNACK_WITHIN_S: Final = 10.0
UNSUPPORTED_PROTOCOL: Final = 0x84
NO_QOS: Final = 0x9B
_LOGIN: Final = {0x86, 0x87, 0x8C}  # bad user name or password, not authorized, bad authentication method
_RESET: Final = {errno.ECONNRESET, errno.EPIPE}

_LIBRARY_LOG: Final = logging.getLogger("edge_agent.mqtt.library")
_LIBRARY_LOG.setLevel(logging.CRITICAL)  # what the libraries have to say is said once, and better, by the services


class MqttTransport(aiomqtt.Client):
    """An aiomqtt client whose socket is ours; used for one connection only.

    A connection is never reused: paho would resend what it remembers, and the caller sends it again as well.
    """

    def __init__(self, hostname: str, port: int, *, clock: Clock, protocol: ProtocolVersion, **options: Any) -> None:  # noqa: ANN401  # aiomqtt's own
        """Prepare a connection.

        Args:
            hostname: the broker's name or address.
            port: its port.
            clock: where the time comes from.
            protocol: 5 or 4.
            **options: of ``aiomqtt.Client``, as they are.
        """
        version = aiomqtt.ProtocolVersion.V5 if protocol == 5 else aiomqtt.ProtocolVersion.V311
        # 0 in flight: paho leaves the window to us, and does not walk all of it on every acknowledgement.
        super().__init__(hostname, port, protocol=version, logger=_LIBRARY_LOG, max_inflight_messages=0, **options)
        self._client.manual_ack_set(on=True)
        self._client.on_connect, self._client.on_disconnect = self._connack_came, self._connection_went
        self._client.on_socket_open = self._client.on_socket_unregister_write = None
        self._client.on_socket_close, self._client.on_socket_register_write = self._socket_closes, self._bytes_wait
        self.protocol: ProtocolVersion = protocol
        self.limits = Limits()
        self._clock = clock
        self._end: asyncio.Future[Closing] = self._loop.create_future()
        self._connack: asyncio.Future[None] = self._loop.create_future()
        self._giving_up: Closing | None = None
        self._buffered: BufferedSocket | None = None
        self._fileno = -1
        self._reading = False
        self._flush_scheduled = False
        self._read_scheduled = False
        self._silence = SilenceWatch(seconds(self._keepalive), last_out=clock.monotonic(), last_in=clock.monotonic())
        self._look: asyncio.TimerHandle | None = None
        self._put_buffer_under_paho()

    # -- opening

    async def open(self) -> None:
        """Connect and wait for the CONNACK; whatever comes in between, nothing is left open.

        Raises:
            ConnectFailedError: the broker said no, or said nothing.
            OSError: there is no connection; of whichever kind the operating system or the TLS library says.
        """
        try:
            await self._open()
        except BaseException:
            self._give_up(Closing(ClosedBy.US))
            if self._buffered is not None:  # paho forgets the socket of a handshake that failed
                self._buffered.close()
            raise

    async def _open(self) -> None:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            await in_daemon_thread(self._client_connect, name="mqtt-connect", late=self._client._sock_close)
        self._fileno = self._socket().fileno()
        self._resume_reading()
        self._flush()
        either = (self._connack, self._end)
        await asyncio.wait(either, timeout=CONNACK_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not self._connack.done():
            if self._end.done():
                raise self._closed_early(self._end.result())
            text = f"connected, but no CONNACK came within {CONNACK_WITHIN_S:.0f} s; is it an MQTT port?"
            raise ConnectFailedError(ConnectFailure.SILENT, text)
        self._connack.result()
        self._look_in_time()

    def _closed_early(self, closing: Closing) -> ConnectFailedError:
        if isinstance(self._socket().error, ssl.SSLError):  # TLS 1.3 refuses a client only after the handshake
            text = "the broker ended the TLS connection; is a client certificate needed ([mqtt.tls] cert, key)?"
            return ConnectFailedError(ConnectFailure.TLS, text)
        if closing.by is ClosedBy.PROTOCOL:
            failure = ConnectFailure.OLD_PROTOCOL if self.protocol == 5 else ConnectFailure.REFUSED
            text = f"what answers is not MQTT {SPOKEN[self.protocol]}; is it the broker's port?"
            return ConnectFailedError(failure, text)
        if closing.by is ClosedBy.PEER:
            hint = "is a client certificate needed" if self._client._ssl else "is it right that there is no TLS"
            text = f"closed without a CONNACK; is it the broker's port, and {hint}?"
            return ConnectFailedError(ConnectFailure.CLOSED, text)
        return ConnectFailedError(ConnectFailure.UNREACHABLE, f"{closing.detail}; check the network")

    def _put_buffer_under_paho(self) -> None:
        """Have paho use a socket that is buffered, after a TLS handshake that is bounded."""
        paho: Any = self._client
        create = paho._create_socket_connection

        def connect() -> BufferedSocket:
            sock: socket.socket = create()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ANSWER_WITHIN // NANOSECONDS_PER_MILLISECOND)
            if paho._ssl:
                sock.settimeout(HANDSHAKE_WITHIN_S)
                sock = paho._ssl_context.wrap_socket(sock, server_hostname=self._hostname)
            self._buffered = BufferedSocket(sock, max_request=MAX_INBOUND)
            return self._buffered

        paho._create_socket_connection, paho._ssl_wrap_socket = connect, lambda sock: sock

    def _socket(self) -> BufferedSocket:
        assert self._buffered is not None, "the connection was opened"
        return self._buffered

    # -- what paho calls

    def _connack_came(self, _: object, __: object, ___: object, code: ReasonCode, said: object) -> None:
        if self._connack.done():
            return
        if code.value == UNSUPPORTED_PROTOCOL and self.protocol == 5:
            error = ConnectFailedError(ConnectFailure.OLD_PROTOCOL, "the broker does not speak MQTT 5; see protocol")
            self._connack.set_exception(error)
        elif code.is_failure:
            advice = "check username and password_file" if code.value in _LOGIN else "see the broker's log"
            text = f"refused: {code} (0x{code.value:02X}); {advice}"
            self._connack.set_exception(ConnectFailedError(ConnectFailure.REFUSED, text, reason=code.value))
        elif getattr(said, "MaximumQoS", 1) == 0:
            text = "the broker has no QoS 1 (0x9B), which is needed"
            self._connack.set_exception(ConnectFailedError(ConnectFailure.REFUSED, text, reason=NO_QOS))
        else:
            self.limits = Limits(
                receive_maximum=getattr(said, "ReceiveMaximum", 65535),
                maximum_packet_size=getattr(said, "MaximumPacketSize", 268_435_455),
                retain_available=bool(getattr(said, "RetainAvailable", 1)),
            )
            if keepalive := getattr(said, "ServerKeepAlive", 0):
                self._silence.keepalive = seconds(keepalive)
            self._connack.set_result(None)

    def _connection_went(self, _: object, __: object, flags: DisconnectFlags, code: ReasonCode, ___: object) -> None:
        if flags.is_disconnect_packet_from_server:
            self._ended(Closing(ClosedBy.PEER, code.value, f"the broker said: {code}"))
        else:
            self._ended(self._giving_up or self._explain_loss())

    def _explain_loss(self) -> Closing:
        sock = self._socket()
        if sock.ended:
            return Closing(ClosedBy.PEER, detail="the broker closed the connection")
        if sock.error is None or isinstance(sock.error, OversizedError):
            return Closing(ClosedBy.PROTOCOL, detail=str(sock.error or "the broker sent something that is not MQTT"))
        ended = sock.error.errno in _RESET or isinstance(sock.error, ssl.SSLError)  # its end without a closing alert
        by = ClosedBy.PEER if ended else ClosedBy.NETWORK
        return Closing(by, detail=str(sock.error))

    def _socket_closes(self, *_: object) -> None:
        if self._fileno >= 0:
            self._loop.remove_reader(self._fileno)
            self._loop.remove_writer(self._fileno)
            self._fileno = -1
        self._reading = False

    def _bytes_wait(self, *_: object) -> None:
        if self._fileno >= 0 and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    # -- bytes

    def _pause_reading(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._fileno)
            self._reading = False

    def _resume_reading(self) -> None:
        if self._fileno >= 0:
            self._loop.add_reader(self._fileno, self._readable)
            self._reading = True
            self._read_soon()  # what was read ahead is not announced again

    def _read_soon(self) -> None:
        if not self._read_scheduled:
            self._read_scheduled = True
            self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        self._read_scheduled = False
        sock = self._socket()
        turn_ends = later(self._clock.monotonic(), TURN)
        try:
            while self._reading:
                self._client.loop_read()
                if self._client._in_messages:  # paho keeps them until a PUBREL that need not come
                    self._give_up(Closing(ClosedBy.PROTOCOL, detail="a message of QoS 2, which was not subscribed to"))
                if not sock.pending():
                    break
                if self._clock.monotonic() >= turn_ends:
                    self._read_soon()
                    break
            self._silence.last_in = self._clock.monotonic()
            if self._silence.ping_sent is not None and self._client._ping_t == 0:  # paho clears it at a PINGRESP
                self._silence.ping_sent = None
                self._look_in_time()
        except Exception as error:  # noqa: BLE001  # paho lets bytes that are not MQTT surface as almost anything
            self._give_up(Closing(ClosedBy.PROTOCOL, detail=f"the broker sent something that is not MQTT: {error!r}"))

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._fileno < 0:
            return
        self._client.loop_write()
        if self._fileno < 0:  # it was a DISCONNECT
            return
        try:
            done = self._socket().flush()
        except OSError:
            self._give_up(self._explain_loss())
            return
        self._silence.last_out = self._clock.monotonic()
        if done:
            self._loop.remove_writer(self._fileno)
        else:
            self._loop.add_writer(self._fileno, self._flush)

    # -- silence and the end

    def _look_in_time(self) -> None:
        """Make sure that the silence is looked at when something is due; one timer serves, moved only to be earlier."""
        due, _ = self._silence.next_due()
        at = self._loop.time() + max(to_seconds(elapsed(self._clock.monotonic(), due)), 0)
        if self._end.done() or (self._look is not None and self._look.when() <= at):
            return
        if self._look is not None:
            self._look.cancel()
        self._look = self._loop.call_at(at, self._look_at_silence)

    def _look_at_silence(self) -> None:
        self._look = None
        now = self._clock.monotonic()
        due, gives_up = self._silence.next_due()
        if due <= now and gives_up:
            self._give_up(Closing(ClosedBy.SILENCE, detail="the broker answered nothing for 20 s"))
            return
        if due <= now:
            self._client._send_pingreq()
            self._silence.ping_sent = now
        self._look_in_time()

    def _give_up(self, closing: Closing) -> None:
        """End the connection from here."""
        self._giving_up = closing
        self._client._sock_close()
        self._ended(closing)

    def _ended(self, closing: Closing) -> None:
        """Take note of the end, once."""
        if self._end.done():
            return
        self._end.set_result(closing)
        if self._look is not None:
            self._look.cancel()
