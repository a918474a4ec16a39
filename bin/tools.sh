#!/usr/bin/env bash
# Runs one command of the tools; without arguments it lists them.
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/base.sh"
find_program qmq-tools
exec "$QMQ_BIN_DIR/qmq-tools" "$@"
