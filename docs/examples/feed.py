"""Publishes a reading over the control socket. The key makes it safe to run again when the outcome is unknown."""

import json
import socket
import sys

path = sys.argv[1] if len(sys.argv) > 1 else "/run/edge-agent/control.sock"
reading = {"channel": "data/temperature", "data": {"c": 21.5}, "key": "sensor-7/2026-12-01T00:00:00Z"}
with socket.socket(socket.AF_UNIX) as agent, agent.makefile("rw") as lines:
    agent.connect(path)
    lines.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "publish", "params": reading}) + "\n")
    lines.flush()
    answer = json.loads(lines.readline())
if "error" in answer:
    sys.exit(answer["error"]["message"])
sys.stdout.write(answer["result"]["id"] + "\n")
