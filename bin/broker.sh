#!/usr/bin/env bash
# Starts, stops and shows the broker: start | start-foreground | stop | status.
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/base.sh"
serve broker "$@"
