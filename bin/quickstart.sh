#!/usr/bin/env bash
# Builds everything, starts a metaserver, a broker and a delay server in a folder of their own, and
# sends and receives a few messages, one of them for later. The cluster runs until Ctrl-C; with --once it is stopped at the end.
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
. "$here/base.sh"
. "$here/prerequisites.sh"

MESSAGES=3
# How far ahead the message for later is sent.
LATER=5s
SUBJECT=quick.start
GROUP=quickstart
TOKEN=quickstart
# How long a message may take until it has arrived.
ARRIVE_SECONDS=60
# Ports are looked for here when the usual ones are taken: below those of outgoing connections.
PORT_FIRST=20000
PORT_LAST=32000

once=false
case ${1:-} in
"") ;;
--once) once=true ;;
-h | --help)
    echo "usage: quickstart.sh [--once]"
    exit 0
    ;;
*)
    echo "usage: quickstart.sh [--once]" >&2
    exit 2
    ;;
esac

say() {
    printf '\n== %s\n' "$*"
}

# Shows a command in a form that can be copied, then runs it.
run() {
    printf '$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

# Sets `port` to one that nobody uses: the usual one if possible. A lock file that is held as long as
# this script runs keeps a second quick start away from it.
reserve_port() {
    local usual=$1 lock tries
    port=$usual
    for ((tries = 0; tries < 200; tries++)); do
        lock=${TMPDIR:-/tmp}/qmq-port-$port.lock
        if ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && { : >>"$lock"; } 2>/dev/null; then
            exec {descriptor}>>"$lock"
            if ! have flock || flock -n "$descriptor"; then
                [[ $port == "$usual" ]] || echo "port $usual is taken: using $port"
                return 0
            fi
            exec {descriptor}>&-
        fi
        port=$((PORT_FIRST + RANDOM % (PORT_LAST - PORT_FIRST)))
    done
    fail "no free port found"
}

say "what is needed"
need curl cc rust
echo "all there: $(cd -- "$QMQ_SOURCE" && cargo --version)"

if [[ -z ${QMQ_BIN_DIR:-} ]]; then
    say "build"
    build_programs
fi
find_program qmq-tools
cd -- "$QMQ_SOURCE"

say "a folder of its own"
mkdir -p -- "$QMQ_SOURCE/data"
QMQ_HOME=$(mktemp -d -- "$QMQ_SOURCE/data/quickstart.XXXXXX")
unset QMQ_CONF
echo "$QMQ_HOME"
reserve_port 8080 && http_port=$port
reserve_port 20880 && meta_port=$port
reserve_port 20881 && broker_port=$port
reserve_port 20882 && sync_port=$port
reserve_port 20883 && admin_port=$port
# The documented ports of a delay server are those of a broker, and both run here.
reserve_port 20801 && delay_port=$port
reserve_port 20802 && delay_sync_port=$port
reserve_port 20884 && delay_admin_port=$port
host=$(uname -n)
metaserver=127.0.0.1:$http_port

mkdir -- "$QMQ_HOME/conf"
cat >"$QMQ_HOME/conf/metaserver.properties" <<END
meta.server.discover.port=$http_port
meta.server.port=$meta_port
qmq.ip=127.0.0.1
END
cat >"$QMQ_HOME/conf/datasource.properties" <<END
jdbc.url=sqlite:$QMQ_HOME/metaserver.db
END
cat >"$QMQ_HOME/conf/valid-api-tokens.properties" <<END
$TOKEN=made by the quick start
END
cat >"$QMQ_HOME/conf/broker.properties" <<END
meta.server.endpoint=http://$metaserver/meta/address
store.root=$QMQ_HOME/store
broker.port=$broker_port
sync.port=$sync_port
admin.port=$admin_port
qmq.host=$host
qmq.ip=127.0.0.1
END
cat >"$QMQ_HOME/conf/delay.properties" <<END
meta.server.endpoint=http://$metaserver/meta/address
store.root=$QMQ_HOME/delay-store
broker.port=$delay_port
sync.port=$delay_sync_port
admin.port=$delay_admin_port
qmq.host=$host
qmq.ip=127.0.0.1
END

subscriber=
# Stops what runs; a second Ctrl-C during this does not leave servers behind.
stop_cluster() {
    trap '' INT TERM
    set +e
    [[ -z $subscriber ]] || kill -TERM "$subscriber" 2>/dev/null
    (serve delay stop)
    (serve broker stop)
    (serve metaserver stop)
}

# Whatever goes wrong: nothing keeps running, and the files stay to be looked at.
failed() {
    local code=$?
    trap - EXIT
    echo "the quick start failed; logs are in $QMQ_HOME/logs" >&2
    stop_cluster >&2
    exit $((code == 0 ? 1 : code))
}

finish() {
    trap - EXIT
    say "stop"
    stop_cluster
    if $once; then
        rm -rf -- "$QMQ_HOME"
    else
        echo "messages and logs are kept in $QMQ_HOME"
    fi
    exit 0
}

# Lines of the subscriber's output with this text.
received() {
    grep -c -F -- "$1" "$QMQ_HOME/received.json" || true
}

await_received() {
    local text=$1 count=$2 end=$((SECONDS + $3))
    until (($(received "$text") >= count)); do
        ((SECONDS < end)) || return 1
        sleep "$LOOK_AGAIN"
    done
}

trap failed EXIT
trap 'exit 130' INT TERM

say "start a metaserver (SQLite), a broker and a delay server"
run export "QMQ_HOME=$QMQ_HOME" "QMQ_BIN_DIR=$QMQ_BIN_DIR"
run bin/metaserver.sh start
run bin/tools.sh AddBroker "--metaserver=$metaserver" "--token=$TOKEN" --brokerGroup=group1 --role=0 \
    "--hostname=$host" --ip=127.0.0.1 "--servePort=$broker_port" "--syncPort=$sync_port"
run bin/broker.sh start
run bin/tools.sh AddBroker "--metaserver=$metaserver" "--token=$TOKEN" --brokerGroup=delay1 --role=5 \
    "--hostname=$host" --ip=127.0.0.1 "--servePort=$delay_port" "--syncPort=$delay_sync_port"
run bin/delay.sh start

say "send and receive"
subscribe=(bin/tools.sh sub "--metaserver=$metaserver" "--subject=$SUBJECT" "--group=$GROUP")
publish=(bin/tools.sh pub "--metaserver=$metaserver" "--subject=$SUBJECT")
printf '$'
printf ' %q' "${subscribe[@]}"
printf ' &\n'
"${subscribe[@]}" >"$QMQ_HOME/received.json" 2>"$QMQ_HOME/logs/subscriber.out" &
subscriber=$!
# A group gets what is sent from its first pull on, so something is sent until it gets it.
end=$((SECONDS + ARRIVE_SECONDS))
until "${publish[@]}" --body=probe >/dev/null && await_received probe 1 1; do
    ((SECONDS < end)) || fail "no message arrived within $ARRIVE_SECONDS s"
done
run "${publish[@]}" "--count=$MESSAGES" "--body=hello"
await_received hello "$MESSAGES" "$ARRIVE_SECONDS" || fail "the messages did not arrive within $ARRIVE_SECONDS s"
echo "received:"
grep -F hello "$QMQ_HOME/received.json"

say "send for later"
run "${publish[@]}" "--delay=$LATER" --body=later
run bin/tools.sh delay list "--metaserver=$metaserver" "--admin-port=$delay_admin_port" "--token=$TOKEN"
await_received later 1 "$ARRIVE_SECONDS" || fail "the message for later did not arrive within $ARRIVE_SECONDS s"
echo "received, $LATER after it was sent:"
grep -F later "$QMQ_HOME/received.json"
kill -TERM "$subscriber"
wait "$subscriber" || fail "the subscriber did not end in order"
subscriber=

say "it works"
cat <<END
metaserver  http://$metaserver/meta/address   (what a Java application gets with setMetaServer)
broker      127.0.0.1:$broker_port, health and metrics at http://127.0.0.1:$admin_port/readyz and /metrics
delay       127.0.0.1:$delay_port, health and metrics at http://127.0.0.1:$delay_admin_port/readyz and /metrics
files       $QMQ_HOME

Try it from another terminal:
  cd $(printf '%q' "$QMQ_SOURCE")
  export QMQ_HOME=$(printf '%q' "$QMQ_HOME") QMQ_BIN_DIR=$(printf '%q' "$QMQ_BIN_DIR")
 $(printf ' %q' "${subscribe[@]}")
 $(printf ' %q' "${publish[@]}") --count=10 --body=hello
 $(printf ' %q' "${publish[@]}") --delay=30s --body=later
  bin/tools.sh ListBrokers --metaserver=$metaserver
  bin/broker.sh status
END

if $once; then finish; fi
trap finish INT TERM
echo
echo "the cluster runs until Ctrl-C"
while (show_status metaserver && show_status broker && show_status delay) >/dev/null; do
    # In the background, so that a signal is served at once.
    sleep 2 &
    wait $! || true
done
fail "a server ended by itself; its log is in $QMQ_HOME/logs"
