#!/usr/bin/env bash
# Starts, stops and shows the delay server: start | start-foreground | stop | status.
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/base.sh"
serve delay "$@"
