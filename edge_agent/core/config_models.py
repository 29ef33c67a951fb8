"""The configuration as frozen models: what each section may hold, its defaults and its ranges.

``Config`` is the whole; what jobs are made of is in ``config_jobs``. A key that no model knows is an error. A section
that a file leaves out is there with its defaults; what is worked out on the device (its id, directories) is left open
here and filled in by ``config.parse`` or where it is used.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from edge_agent.core.config_jobs import Endpoint, Folder, Job, Program, Runner
from edge_agent.core.config_types import (
    AbsolutePath,
    Broker,
    BrokerUrl,
    DeviceId,
    FromText,
    Glob,
    Listed,
    Listen,
    Name,
    Prefix,
    SecretFile,
    Section,
    Server,
    TopicFilter,
    Zone,
    duration,
    plain_text,
    size,
)
from edge_agent.core.timebase import DurationNs
from edge_agent.core.units import format_duration, format_size


class Device(Section):
    """Who this device is."""

    id: DeviceId = Field(
        "",
        description="Identity in topics and messages; may use {machine_id} {serial} {mac} {hostname} {cert_cn}; derived"
        " from /etc/machine-id if not given.",
    )
    groups: Listed[Name] = Field((), max_length=32, description="Groups whose commands it obeys too.")
    labels: dict[Name, Annotated[str, plain_text(256)]] = Field({}, max_length=32, description="Free text about it.")
    timezone: Zone = Field("UTC", description='Default time zone of jobs; "local" is the device\'s own.')


class Tls(Section):
    """TLS to a broker; without ``ca`` the system's certificate authorities are trusted."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {"cert": ["key"], "key": ["cert"]}})

    ca: AbsolutePath | None = Field(None, description="File of certificate authorities (PEM).")
    cert: AbsolutePath | None = Field(None, description="File of the client certificate (PEM).")
    key: AbsolutePath | None = Field(None, description="File of the client certificate's key (PEM).")
    alpn: Listed[Annotated[str, plain_text(255)]] = Field((), max_length=8, description="ALPN protocol names.")

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            given, other = ("cert", "key") if self.key is None else ("key", "cert")
            raise ValueError(f"found {given} without {other}; cert and key go together")
        return self


class Mqtt(Section):
    """The connection to the broker."""

    brokers: Listed[Broker] = Field(
        (BrokerUrl("mqtt", "localhost", 1883),),
        min_length=1,
        max_length=16,
        description="URLs in order of preference; mqtt, mqtts, ws, wss.",
    )
    prefix: Prefix = Field("edge", description="First levels of every topic; may use {id}.")
    client_id: Annotated[str, plain_text(128)] = Field("{id}", description="MQTT client id; may use {id}.")
    protocol: Literal["auto", 5, 4] = Field("auto", description="MQTT 5, else 3.1.1 (auto); only 5; only 3.1.1 (4).")
    keepalive: DurationNs = duration("60s", "5s", "18h", "Silence after which the connection is probed", step="1s")
    reconnect_max: DurationNs = duration("60s", "1s", "1d", "Cap of the pause between connection attempts")
    session_expiry: DurationNs = duration("1d", "0s", "3650d", "How long the broker keeps the session", step="1s")
    will_delay: DurationNs = duration("10s", "0s", "1d", "How long the broker waits to say offline", step="1s")
    username: Annotated[str, plain_text(512)] | None = Field(None, description="Login name; may use {id}.")
    password_file: SecretFile | None = Field(None, description="File or systemd credential that holds the password.")
    tls: Tls = Field(Tls.model_construct(), description="TLS files.")

    @model_validator(mode="after")
    def _login(self) -> Self:
        if self.password_file is not None and self.username is None and self.protocol != 5:
            only = "only MQTT 5 knows a password alone: protocol = 5"
            raise ValueError(f"found password_file alone; password_file needs username ({only})")
        return self


class Time(Section):
    """Where true time comes from."""

    servers: Listed[Server] | None = Field(
        None, max_length=16, description="NTP servers, host or host:port; default: the host's own; []: OS clock alone."
    )
    host: Literal["auto", "trust", "off"] = Field(
        "auto", description="The host's own discipline: one vote (auto), the only one (trust), none (off)."
    )
    alarm_offset: DurationNs = duration("50ms", "1ms", "1d", "An OS clock further off raises an event")
    poll_min: DurationNs = duration("64s", "16s", "36h", "Shortest poll interval")
    poll_max: DurationNs = duration("1024s", "16s", "36h", "Longest poll interval")
    first_sync_wait: DurationNs = duration("10m", "0s", "7d", "How long calendar jobs wait for a first sync")

    step_above: DurationNs = duration("60s", "1s", "1d", "A larger error of the agent's time is stepped, not slewed")
    slew_max_ppm: int = Field(50_000, ge=500, le=100_000, description="Fastest slew of the agent's time; ppm.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.poll_min > self.poll_max:
            shortest, longest = format_duration(self.poll_min), format_duration(self.poll_max)
            raise ValueError(f'poll_min "{shortest}" is above poll_max "{longest}"; set both')
        return self


class Outbox(Section):
    """The records on their way to the broker."""

    max_bytes: int = size("64MiB", "64KiB", "1024GiB", "Room on disk")
    max_age: DurationNs = duration("7d", "1m", "3650d", "Older records are dropped and named")
    max_record: int = size("120KiB", "1KiB", "16MiB", "Largest record")
    when_full: Literal["drop_oldest", "refuse"] = Field(
        "drop_oldest", description="What a full outbox does, lowest priority first."
    )
    rate: int = Field(80, ge=0, le=100_000, description="Backlog records per second above new ones; 0: no limit.")
    commit: DurationNs = duration("1s", "0s", "1m", "Longest wait for a PUBACK before disk, online")
    batch: int = Field(1, ge=1, le=1000, description="Records per message; above 1, consumers see arrays.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_record > self.max_bytes:
            record, room = format_size(self.max_record), format_size(self.max_bytes)
            raise ValueError(f'max_record "{record}" is above max_bytes "{room}"; set both')
        return self


class Heartbeat(Section):
    """The sign of life."""

    every: DurationNs = duration("1m", "100ms", "1d", "Interval")


def _parse_public_key(text: str) -> str:
    try:
        raw = base64.b64decode(text.rstrip("=") + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        # not repeated: somebody may have put the private half here
        raise ValueError(
            f"found {len(text)} characters; an Ed25519 public key of 32 bytes in base64url (43 characters) is needed"
        )
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")  # bits that nobody reads are as they have to be


PublicKey = Annotated[
    str, FromText(_parse_public_key, "an Ed25519 public key in base64url", pattern="^[A-Za-z0-9_-]{43}=*$")
]


class CommandKey(Section):
    """A public key whose commands are obeyed; its name in the table is the ``kid``."""

    public: PublicKey = Field(description="Ed25519 public key, base64url.")
    allow: Listed[Glob] | None = Field(None, description="Commands that it may sign; default: commands.allow.")
    groups: Listed[Name] = Field((), max_length=32, description="Groups that it may address; default: any.")


class Commands(Section):
    """What may be commanded over MQTT and HTTP."""

    allow: Listed[Glob] = Field(
        ("ping", "*-status", "*-list", "*-get", "queue-stat", "job-run"),
        max_length=64,
        description="Names or patterns of the commands that are obeyed.",
    )
    answers: Listed[TopicFilter] = Field(
        (), max_length=16, description="Where replies may go, beside the device's own up/: topic filters."
    )
    keys: dict[Name, CommandKey] = Field({}, description="Any key: only signed commands and configuration are obeyed.")


class Control(Section):
    """The local socket."""

    socket: AbsolutePath | None = Field(None, description="Unix socket; default: /run/edge-agent/control.sock.")
    group: Annotated[str, plain_text(64)] = Field("edge-agent", description="Unix group that may use it.")


class Remote(Section):
    """Configuration from the cloud."""

    remote: Listed[Literal["heartbeat", "jobs", "log", "metrics", "mqtt", "outbox", "runner", "time"]] = Field(
        ("heartbeat", "jobs", "log", "outbox"), description="Sections that it may touch."
    )
    confirm_timeout: DurationNs = duration("2m", "10s", "1d", "Rolled back if not confirmed within it")


class Metrics(Section):
    """Prometheus."""

    listen: Listen | None = Field(None, description='Where to listen, like "127.0.0.1:9464"; off if not given.')


class Api(Section):
    """The local HTTP API and page."""

    listen: Listen | None = Field(None, description='Where to listen, like "127.0.0.1:8464"; off if not given.')


class Log(Section):
    """What the daemon writes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is written.")
    format: Literal["json", "console"] | None = Field(None, description="Default: console on a terminal, else json.")


class State(Section):
    """What outlives the process."""

    dir: AbsolutePath | None = Field(None, description="Default: $STATE_DIRECTORY, else /var/lib/edge-agent.")


class Operator(Section):
    """What the operator's verbs (send, verify, watch) connect to."""

    broker: Broker | None = Field(None, description="Broker URL; default: the first of mqtt.brokers.")
    prefix: Prefix | None = Field(None, description="First topic levels; default: mqtt.prefix.")
    username: Annotated[str, plain_text(512)] | None = Field(None, description="Login name.")
    password_file: SecretFile | None = Field(None, description="File or systemd credential that holds the password.")
    tls: Tls = Field(Tls.model_construct(), description="TLS files.")


class Config(Section):
    """The whole configuration."""

    version: Literal[1] = Field(1, description="Version of this form.")
    profile: Literal["metered"] | None = Field(None, description="Sparing defaults under the single keys.")
    device: Device = Field(Device.model_construct(), description="Who this device is.")
    mqtt: Mqtt = Field(Mqtt.model_construct(), description="The connection to the broker.")
    time: Time = Field(Time.model_construct(), description="Where true time comes from.")
    outbox: Outbox = Field(Outbox.model_construct(), description="The records on their way to the broker.")
    heartbeat: Heartbeat = Field(Heartbeat.model_construct(), description="The sign of life.")
    programs: dict[Name, Program] = Field({}, description="The only way anything is executed.")
    folders: dict[Name, Folder] = Field({}, description="What files and prune may touch.")
    endpoints: dict[Name, Endpoint] = Field({}, description="What http may ask.")
    runner: Runner = Field(Runner.model_construct(), description="How many jobs run at once.")
    jobs: dict[Name, Job] = Field({}, description="The jobs, by name.")
    commands: Commands = Field(Commands.model_construct(), description="What may be commanded.")
    control: Control = Field(Control.model_construct(), description="The local socket.")
    config: Remote = Field(Remote.model_construct(), description="Configuration from the cloud.")
    metrics: Metrics = Field(Metrics.model_construct(), description="Prometheus.")
    api: Api = Field(Api.model_construct(), description="The local HTTP API and page.")
    log: Log = Field(Log.model_construct(), description="What the daemon writes to stderr.")
    state: State = Field(State.model_construct(), description="What outlives the process.")
    operator: Operator = Field(Operator.model_construct(), description="What the operator's verbs connect to.")
