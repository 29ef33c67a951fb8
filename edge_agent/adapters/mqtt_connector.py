"""Makes MQTT connections: the options of the CONNECT, TLS, and what failed, in words."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiomqtt import Will
from paho.mqtt.client import WebsocketConnectionError
from paho.mqtt.packettypes import PacketTypes

from edge_agent.adapters.mqtt_link import MAX_QUEUED_INBOUND, MqttConnection, properties
from edge_agent.adapters.mqtt_transport import MAX_INBOUND
from edge_agent.adapters.threads import in_daemon_thread
from edge_agent.core.config_models import Tls
from edge_agent.core.config_types import BrokerUrl
from edge_agent.core.connection import Attempt
from edge_agent.core.timebase import NANOSECONDS_PER_SECOND, DurationNs, UtcNs, rfc3339, to_seconds
from edge_agent.errors import ConfigError, ConnectFailedError, ConnectFailure
from edge_agent.ports import Clock, Connection, Message

PROBE_WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Login:
    """Who connects, and how long the broker remembers.

    Attributes:
        client_id: MQTT 5 §3.1.3.1.
        username: ``None`` = without.
        password: reads the password, at each connection, for it may have been renewed; ``None`` = without. It may
            raise ``ConfigError``.
        keepalive: MQTT 5 §3.1.2.10.
        session_expiry: how long the broker keeps the session; 0 = it starts clean and ends with the connection.
        will_delay: MQTT 5 §3.1.3.2.2.
        tls: files for encrypted schemes.
    """

    client_id: str
    keepalive: DurationNs
    session_expiry: DurationNs
    will_delay: DurationNs
    tls: Tls
    username: str | None = None
    password: Callable[[], str | None] = lambda: None


_NOT_VALID_NOW: Final = (9, 10)
"""OpenSSL's codes for certificates that are not valid yet, or no longer."""


@dataclass(slots=True)
class MqttConnector:
    """Makes connections of one login; see ``ports.Connector``."""

    login: Login
    clock: Clock
    _context: ssl.SSLContext | None = None

    async def connect(self, attempt: Attempt, will: Message | None) -> Connection:
        """See ``ports.Connector``."""
        broker, protocol = attempt.broker, attempt.protocol
        try:
            options = self._options(attempt, will)
            connection = MqttConnection(broker.host, broker.port, clock=self.clock, protocol=protocol, **options)
            await connection.open()
        except ConfigError as error:  # the password's file
            raise ConnectFailedError(ConnectFailure.REFUSED, str(error)) from None
        except ConnectFailedError as error:
            failure, text, reason = error.failure, str(error), error.reason
        except (OSError, WebsocketConnectionError) as error:
            (failure, text), reason = self._explain(error), None
        else:
            return connection
        if failure is ConnectFailure.TLS:
            self._context = None  # the files may be renewed
        raise ConnectFailedError(failure, f"{broker}: {text}", reason=reason)

    def _explain(self, error: Exception) -> tuple[ConnectFailure, str]:
        """Say in one line what failed and what to do."""
        tls, unreachable = ConnectFailure.TLS, ConnectFailure.UNREACHABLE
        said: tuple[tuple[type[Exception], ConnectFailure, str], ...] = (  # the first that matches
            (ssl.SSLCertVerificationError, tls, "its certificate is not accepted ({}); see [mqtt.tls] ca"),
            (ssl.SSLError, tls, "no TLS with this port ({}); is it the broker's TLS port?"),
            (socket.gaierror, ConnectFailure.UNRESOLVED, "the name is not known here ({}); check it and the DNS"),
            (ConnectionRefusedError, unreachable, "nothing listens there; check the port, is the broker up?"),
            (WebsocketConnectionError, unreachable, "no WebSocket there ({}); check the port and the path"),
            (ConnectionError, unreachable, "closed during the handshake ({}); check the port and the scheme"),
            (TimeoutError, unreachable, "no answer in time; check the address, the port and the firewall"),
            (Exception, unreachable, "{}"),
        )
        failure, text = next((failure, text) for kind, failure, text in said if isinstance(error, kind))
        detail = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
        text = text.format(detail)
        if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _NOT_VALID_NOW:
            text += f"; {self._clocks_apart()}"
        return failure, text

    def _clocks_apart(self) -> str:
        """Return by how much the clock is off by which a certificate is judged, as far as that is known."""
        now, wall = self.clock.now(), self.clock.wall()
        if now.error_ms is None:
            return f"it is judged by the system clock, {rfc3339(UtcNs(wall))}: is that right?"
        off_s = (wall - now.time) / NANOSECONDS_PER_SECOND
        return f"the system clock is off by {off_s:+.1f} s; true time is {rfc3339(now.time)}: set it, or have it kept"

    async def reachable(self, broker: BrokerUrl) -> bool:
        """See ``ports.Connector``."""
        address = (broker.host, broker.port)
        try:
            await in_daemon_thread(
                lambda: socket.create_connection(address, PROBE_WITHIN_S).close(), name="mqtt-probe", late=lambda: None
            )
        except OSError:
            return False
        return True

    def _options(self, attempt: Attempt, will: Message | None) -> dict[str, Any]:
        """Return the arguments of ``aiomqtt.Client`` that depend on the attempt."""
        login, password, expiry_s = self.login, self.login.password(), int(to_seconds(self.login.session_expiry))
        options: dict[str, Any] = {
            "identifier": login.client_id,
            # paho sends no password without a name; MQTT 5 allows an empty one
            "username": "" if login.username is None and password is not None else login.username,
            "password": password,
            "keepalive": int(to_seconds(login.keepalive)),
        }
        will_properties = None
        if attempt.protocol == 5:
            limits = {"ReceiveMaximum": MAX_QUEUED_INBOUND, "MaximumPacketSize": MAX_INBOUND}
            options["properties"] = properties(PacketTypes.CONNECT, SessionExpiryInterval=expiry_s, **limits)
            will_properties = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=int(to_seconds(login.will_delay)))
        options["clean_start" if attempt.protocol == 5 else "clean_session"] = expiry_s == 0
        if will is not None:
            options["will"] = Will(will.topic, will.payload, 1, attempt.will_retained, will_properties)
        if attempt.broker.encrypted:
            options["tls_context"] = self._tls_context()
        if attempt.broker.scheme.startswith("ws"):
            options |= {"transport": "websockets", "websocket_path": attempt.broker.path or "/mqtt"}
        return options

    def _tls_context(self) -> ssl.SSLContext:
        """Build the context at first use: reading the certificate authorities costs time and memory.

        Raises:
            ConnectFailedError: a file cannot be used; it may be put right while the agent runs, so it is tried again.
        """
        if self._context is not None:
            return self._context
        tls = self.login.tls
        try:
            context = ssl.create_default_context(cafile=tls.ca)
            if tls.cert is not None:
                context.load_cert_chain(tls.cert, tls.key, password=str)  # an empty one: nobody is to be asked
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(name) for name in (tls.ca, tls.cert, tls.key) if name)
            text = f"[mqtt.tls] {files}: {error}; PEM files that this user can read are needed"
            raise ConnectFailedError(ConnectFailure.TLS, text) from error
        if tls.alpn:
            context.set_alpn_protocols(list(tls.alpn))
        self._context = context
        return context
