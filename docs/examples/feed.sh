#!/bin/sh
# Publishes the load of this machine, once: a line for cron or a timer. Ends with 0 only if the record is safe.
read -r one five _ </proc/loadavg
printf '{"load1": %s, "load5": %s}' "$one" "$five" | edge-agent publish data/load "$@"
