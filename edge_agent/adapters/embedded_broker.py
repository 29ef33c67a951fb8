"""The demo's broker: iotcore, an MQTT 5 broker in one wheel, in a process of its own because it cannot be stopped.

``python -m edge_agent.adapters.embedded_broker PORT`` serves until it is killed.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
from pathlib import Path
from typing import Final

from edge_agent.errors import EdgeAgentError

LISTEN: Final = "127.0.0.1"


def require() -> None:
    """Check that the broker is installed.

    Raises:
        EdgeAgentError: it is not; the message says how to get it.
    """
    if importlib.util.find_spec("iotcore") is None:
        raise EdgeAgentError("the demo's broker is not installed: pip install 'edge-agent[demo]'")


def configuration(port: int) -> str:
    """Return the broker's configuration as TOML: MQTT 5 on loopback only.

    Its logs of messages stay in memory, at most ``max_segment_count`` segments for each filter.
    """
    return f"""\
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 4
[v5.1]
name = "v5"
listen = "{LISTEN}:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = 262144
max_inflight_count = 100
dynamic_filters = true
"""


def serve(port: int) -> None:
    """Serve for ever, or until the process is killed.

    Raises:
        EdgeAgentError: the package is missing.
        OSError: the port is taken.
    """
    require()
    from iotcore import IotCoreBroker  # noqa: PLC0415  # an optional package

    # It reports every packet as an error, so that its log would grow without bound.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "broker.toml"  # it takes its configuration from nothing but a file of this suffix
        file.write_text(configuration(port))
        broker = IotCoreBroker(config_path=str(file))
    broker.check_ports()
    broker.run_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
