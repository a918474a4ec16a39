#!/usr/bin/env bash
# Measures broker and delay server beside the least a server can do, interleaved, and makes
# docs/performance.md from what was measured. Nothing else should run on the machine.
#
# usage: bench.sh [--quick] [--rounds N] [--seconds S] [--backlog N] [--peer HOST:PORT[=NAME]]...
#                 [--peer-start COMMAND] [--only CASE]... [--results FILE] [--add] [--profile]
#
# --quick     a smoke run: one round of a second each, results in a folder of their own
# --rounds    how often everything is measured; default 5
# --seconds   how long each run is measured; default 10
# --backlog   messages of a backlog that is drained; default 5000000
# --peer      takes a running server in as another contender, in every case that it can serve;
#             one named java is taken for the Java broker, which several aims refer to
# --peer-start  runs before each round: (re)starts the peers with empty stores, for want of disk
# --only      only cases whose names begin like this
# --results   lines of results; default docs/performance/results.jsonl
# --add       leaves the results of other cases than those of --only in the file
# --profile   measures nothing: writes what the broker spends its processor time on, in the cases
#             that are as fast as possible, to docs/performance/profile-CASE.txt; needs perf
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
. "$here/base.sh"
# Each server here has a home and a configuration of its own.
unset QMQ_CONF
# Linux may share the processors out by session before it does by thread: in sessions of their own,
# servers would have other shares than what is measured beside them.
export QMQ_SAME_SESSION=1

TOKEN=bench
HOST=bench-host
# Ports are looked for here: below those of outgoing connections.
PORT_FIRST=20000
PORT_LAST=32000
# How long the ceiling may take to fill its log with zeros.
CEILING_SECONDS=120
WINDOWS=(1 8 64 256 512)

rounds=5
seconds=10
warm_up=2
backlog=5000000
messages_later=500000
# Seconds in which all of them can be sent before the first is due.
delay_lead=20
# Messages that wait in a delay store, and the most bytes of disk that each needs.
pending_most=100000000
pending_bytes=300
register_subjects=1000000
register_groups=10000
log_bytes=4294967296
# Memory that is not filled before a run, in KiB.
FILL_LEAVES_KIB=524288
page_mebibytes=512
page_pause=10
# Samples per second of a profile, and the least share of an item that it shows, in percent.
PROFILE_HERTZ=997
PROFILE_SHARE=0.5
PROFILE_TIME=60%-100%
quick=false
add=false
profile=false
results=
peers=()
peer_start=
only=()

usage() {
    sed -n '/^# usage/,/needs perf$/s/^# //p' -- "${BASH_SOURCE[0]}"
}

while [[ $# -gt 0 ]]; do
    case $1 in
    --quick) quick=true ;;
    --profile) profile=true ;;
    --add) add=true ;;
    --rounds | --seconds | --backlog | --peer | --peer-start | --only | --results)
        [[ $# -ge 2 ]] || fail "$1 needs a value"
        case $1 in
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --backlog) backlog=$2 ;;
        --peer) peers+=("$2") ;;
        --peer-start) peer_start=$2 ;;
        --only) only+=("$2") ;;
        --results) results=$(absolute "$2") ;;
        esac
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done
[[ $rounds =~ ^[1-9][0-9]*$ ]] || fail "--rounds $rounds is no number"
[[ $seconds =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--seconds $seconds is no number"

find_program qmq-broker
if [[ ! -x $QMQ_BIN_DIR/qmq-ceiling ]]; then
    echo "building what is measured and what measures" >&2
    QMQ_PACKAGES+=(qmq-benches)
    build_programs >&2
fi
for program in qmq-metaserver qmq-delay-server qmq-tools qmq-ceiling qmq-bench-report qmq-allocations qmq-delay-pending qmq-registers; do
    find_program "$program"
done

# On a disk, not in memory: below the source, as everything that is run from it.
mkdir -p -- "$QMQ_SOURCE/data"
work=$(mktemp -d -- "$QMQ_SOURCE/data/bench.XXXXXX")
document=$QMQ_SOURCE/docs/performance.md
short=$QMQ_SOURCE/README.md
if $quick; then
    rounds=1 seconds=1 warm_up=0.2 backlog=20000 log_bytes=134217728 messages_later=20000 delay_lead=3
    pending_most=100000 register_subjects=5000 register_groups=50 page_mebibytes=16 page_pause=0.1
    results=${results:-$work/results.jsonl}
    cp -- "$document" "$work/performance.md"
    cp -- "$short" "$work/README.md"
    document=$work/performance.md short=$work/README.md
else
    results=${results:-$QMQ_SOURCE/docs/performance/results.jsonl}
fi
mkdir -p -- "$(dirname -- "$results")"
failed=0

# ---- servers ----

reserve_port() {
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        port=$((PORT_FIRST + RANDOM % (PORT_LAST - PORT_FIRST)))
        (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || return 0
    done
    fail "no free port found"
}

# Runs one of the scripts for the home folder of a server.
script() {
    local home=$1 name=$2
    shift 2
    QMQ_HOME=$home QMQ_BIN_DIR=$QMQ_BIN_DIR "$here/$name" "$@"
}

start_metaserver() {
    local home=$work/metaserver
    mkdir -p -- "$home/conf"
    printf 'meta.server.discover.port=0\nmeta.server.port=0\nqmq.ip=127.0.0.1\n' >"$home/conf/metaserver.properties"
    echo "jdbc.url=sqlite:$home/metaserver.db" >"$home/conf/datasource.properties"
    echo "$TOKEN=bench" >"$home/conf/valid-api-tokens.properties"
    script "$home" metaserver.sh start >/dev/null
    metaserver=127.0.0.1:$(QMQ_HOME=$home instance=metaserver port_of http)
}

# Makes the home folder of the delay server, and registers it.
prepare_delay_server() {
    local home=$work/delay
    reserve_port
    mkdir -p -- "$home/conf"
    cat >"$home/conf/delay.properties" <<END
meta.server.endpoint=http://$metaserver/meta/address
store.root=$home/store
broker.port=$port
sync.port=0
admin.port=0
qmq.host=$HOST-delay
qmq.ip=127.0.0.1
END
    echo "$port" >"$home/port"
    "$QMQ_BIN_DIR/qmq-tools" AddBroker --metaserver="$metaserver" --token="$TOKEN" \
        --brokerGroup=bench-delay --role=5 --hostname="$HOST-delay" --ip=127.0.0.1 \
        --servePort="$port" --syncPort="$((port + 1))" >/dev/null
}

# Makes the home folder of a broker with one kind of durability, and registers it.
prepare_broker() {
    local durability=$1 home=$work/broker-$1
    reserve_port
    mkdir -p -- "$home/conf"
    cat >"$home/conf/broker.properties" <<END
meta.server.endpoint=http://$metaserver/meta/address
store.root=$home/store
broker.port=$port
sync.port=0
admin.port=0
qmq.host=$HOST-$durability
qmq.ip=127.0.0.1
flush.disk.type=$durability
END
    echo "$port" >"$home/port"
    "$QMQ_BIN_DIR/qmq-tools" AddBroker --metaserver="$metaserver" --token="$TOKEN" \
        --brokerGroup="bench-$durability" --role=0 --hostname="$HOST-$durability" --ip=127.0.0.1 \
        --servePort="$port" --syncPort="$((port + 1))" >/dev/null
}

ceiling_pid=
start_ceiling() {
    local durability=$1 home=$work/ceiling end flags=()
    mkdir -p -- "$home"
    [[ $durability == sync ]] || flags=(--async)
    "$QMQ_BIN_DIR/qmq-ceiling" serve "${flags[@]}" --file "$home/log" --file-bytes "$log_bytes" \
        --ports-file "$home/ports" >"$home/out" 2>&1 &
    ceiling_pid=$!
    end=$((SECONDS + CEILING_SECONDS))
    until [[ -s $home/ports ]]; do
        kill -0 "$ceiling_pid" 2>/dev/null || fail "the ceiling did not start: $(cat -- "$home/out")"
        ((SECONDS < end)) || fail "the ceiling is not ready after $CEILING_SECONDS s"
        sleep "$LOOK_AGAIN"
    done
    address=127.0.0.1:$(sed -n 's/^tcp=//p' -- "$home/ports")
}

stop_ceiling() {
    [[ -n $ceiling_pid ]] || return 0
    kill -TERM "$ceiling_pid" 2>/dev/null || true
    wait "$ceiling_pid" 2>/dev/null || true
    ceiling_pid=
    rm -rf --one-file-system -- "$work/ceiling"
}

start_broker() {
    local home=$work/broker-$1
    script "$home" broker.sh start >/dev/null
    address=127.0.0.1:$(cat -- "$home/port")
}

stop_broker() {
    local home=$work/broker-$1
    script "$home" broker.sh stop >/dev/null
    rm -rf --one-file-system -- "$home/store"
}

clean_up() {
    local code=$?
    trap - EXIT INT TERM
    set +e
    stop_ceiling
    local home
    for home in "$work"/broker-*; do
        [[ ! -d $home ]] || script "$home" broker.sh stop >/dev/null
        rm -rf --one-file-system -- "$home/store"
    done
    [[ ! -d $work/delay ]] || script "$work/delay" delay.sh stop >/dev/null
    rm -rf --one-file-system -- "$work/delay/store"
    [[ ! -d $work/metaserver ]] || script "$work/metaserver" metaserver.sh stop >/dev/null
    if [[ $code -ne 0 ]]; then
        echo "logs are in $work" >&2
    elif ! $quick; then
        rm -rf --one-file-system -- "$work"
    fi
    exit "$code"
}

# ---- results ----

# A fact of the machine as text that is safe within JSON.
fact() {
    tr -d '"\\\n\r' <<<"$1"
}

machine() {
    local commit cpu memory file_system
    commit=$(git -C "$QMQ_SOURCE" describe --always --dirty 2>/dev/null || echo unknown)
    cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
    memory=$(sed -n 's/^MemTotal:[[:space:]]*//p' /proc/meminfo)
    file_system=$(df --output=fstype,source -- "$work" | tail -n 1)
    printf '{"machine":{"commit":"%s","kernel":"%s","cpu":"%s","cores":"%s","memory":"%s","file system":"%s","date":"%s","rounds":"%s","seconds per run":"%s"}}\n' \
        "$(fact "$commit")" "$(fact "$(uname -sr)")" "$(fact "$cpu")" "$(nproc)" "$(fact "$memory")" \
        "$(fact "$file_system")" "$(date -u +%Y-%m-%d)" "$rounds" "$seconds"
}

# Drops what is measured now, or everything.
begin_results() {
    local line name machine= kept=$work/kept
    : >"$kept"
    if $add && [[ -f $results ]]; then
        while IFS= read -r line; do
            name=${line#\{\"case\":\"}
            name=${name%%\"*}
            if [[ $line == '{"machine"'* ]]; then
                # Told only if something is left of what was measured there.
                machine=$line
            elif ! wanted "$name"; then
                [[ -z $machine ]] || printf '%s\n' "$machine"
                machine=
                printf '%s\n' "$line"
            fi
        done <"$results" >"$kept"
    fi
    mv -- "$kept" "$results"
}

# Adds the report of one run, which may be missing.
add_result() {
    local name=$1 contender=$2 report=$3
    if [[ $report != \{* ]]; then
        echo "$name: $contender gave no result" >&2
        failed=1
        report=null
    fi
    printf '{"case":"%s","contender":"%s","round":%d,"report":%s}\n' "$name" "$contender" "$round" "$report" >>"$results"
}

# Fills the memory with what can be dropped at once: a file with nothing in it, read. A server that has
# worked for some hours has no free memory, it uses some again. On a virtual machine memory that was
# free for some seconds may have to be asked for from the host, which costs more than all the rest.
# The file is a new one each time: pages that are read again are kept longer than those that were just
# written, and a backlog would leave memory before it is drained.
fill_memory() {
    local available
    $quick && return 0
    rm -f -- "$work/fill"
    available=$(sed -n 's/^MemAvailable:[[:space:]]*\([0-9]*\) kB/\1/p' /proc/meminfo)
    truncate -s "$((available - FILL_LEAVES_KIB))K" "$work/fill"
    cat -- "$work/fill" >/dev/null
}

# Runs the bench against $address; $contender and $name say what it is. What earlier runs left to be
# written is written before: nobody waits for the disk because of another.
measure() {
    local report code=0
    sync
    fill_memory
    report=$("$QMQ_BIN_DIR/qmq-tools" bench "$@" "--connect=$address" --json) || code=$?
    [[ $code -eq 0 ]] || {
        echo "$name: $contender: exit code $code" >&2
        failed=1
    }
    add_result "$name" "$contender" "$report"
}

wanted() {
    local begin
    [[ ${#only[@]} -gt 0 ]] || return 0
    for begin in "${only[@]}"; do
        if [[ $1 == "$begin"* ]]; then return 0; fi
    done
    return 1
}

# Samples the broker while the bench runs against it. The bench makes what it needs and warms up
# first: what counts are the samples of the end.
profile_broker() {
    local name=$1 pid code=0 data=$work/profile out=$QMQ_SOURCE/docs/performance/profile-$1.txt
    shift
    pid=$(QMQ_HOME=$work/broker-$durability instance=broker running_pid broker)
    [[ -n $pid ]] || fail "the broker does not run"
    [[ $1 != produce ]] || set -- "$@" --no-check
    perf record -q -F "$PROFILE_HERTZ" -p "$pid" -o "$data" >/dev/null 2>&1 &
    local recorder=$!
    "$QMQ_BIN_DIR/qmq-tools" bench "$@" "--connect=$address" --json >/dev/null || code=$?
    kill -INT "$recorder"
    wait "$recorder" || true
    [[ $code -eq 0 ]] || fail "$name: exit code $code"
    {
        echo "$name at $(git -C "$QMQ_SOURCE" describe --always --dirty): share of the broker's processor time"
        for key in comm comm,sym; do
            echo
            perf report -i "$data" --stdio --no-children --sort "$key" --time "$PROFILE_TIME" \
                --percent-limit "$PROFILE_SHARE" 2>/dev/null |
                sed -n '/^ *[0-9]/s/[[:space:]]*$//p'
        done
    } >"$out"
    echo "profile: $out"
}

# One case: all contenders in turn, each with a fresh folder; each round begins with another one. A
# ceiling only takes messages.
run_case() {
    local name=$1 durability=$2 what=$3 contenders=(qmq) contender address turn
    shift 3
    wanted "$name" || return 0
    echo "round $round: $name"
    if $profile; then
        start_broker "$durability"
        profile_broker "$name" "$what" "$@"
        stop_broker "$durability"
        return 0
    fi
    [[ $what != produce ]] || contenders+=(ceiling)
    contenders+=("${peers[@]}")
    for ((turn = 0; turn < ${#contenders[@]}; turn++)); do
        contender=${contenders[$(((round - 1 + turn) % ${#contenders[@]}))]}
        case $contender in
        qmq)
            start_broker "$durability"
            measure "$what" "$@"
            stop_broker "$durability"
            ;;
        ceiling)
            start_ceiling "$durability"
            measure "$what" "$@" --no-check
            stop_ceiling
            ;;
        *)
            address=${contender%%=*}
            [[ $contender == *=* ]] || contender+='=peer'
            contender=${contender#*=}
            measure "$what" "$@"
            ;;
        esac
    done
}

# ---- the table ----

produce() {
    local name=$1 durability=$2 connections=$3 in_flight=$4 batch=$5
    shift 5
    run_case "$name" "$durability" produce "--duration=$seconds" "--warm-up=$warm_up" \
        "--connections=$connections" "--in-flight=$in_flight" "--batch=$batch" "$@"
}

end_to_end() {
    run_case "$1" "$2" e2e "--duration=$seconds" "--warm-up=$warm_up" --connections=1 \
        --in-flight=1024 "--rate=$3"
}

# Messages for later: through a delay server to a broker, both with fresh folders.
delayed() {
    local name=$1 contender=qmq address delay=$work/delay
    shift
    wanted "$name" || return 0
    echo "round $round: $name"
    start_broker sync
    script "$delay" delay.sh start >/dev/null
    measure delay "--delay-server=127.0.0.1:$(cat -- "$delay/port")" "--subject=$name" "$@"
    script "$delay" delay.sh stop >/dev/null
    rm -rf --one-file-system -- "$delay/store"
    stop_broker sync
}

# The cases that are as fast as possible.
saturated() {
    produce sync-4x512 sync 4 512 1
    produce sync-batch100 sync 4 32 100
    produce async-4x512 async 4 512 1
    produce async-batch30 async 4 64 30
    produce async-64x1 async 64 1 1
    produce async-1x1 async 1 1 1
    run_case drain-1 async consume "--messages=$backlog"
    run_case drain-10 async consume "--messages=$backlog" --subjects=10
}

half_rate() {
    local rate
    wanted sync-half || return 0
    rate=$("$QMQ_BIN_DIR/qmq-bench-report" rate "$results" sync-4x512 qmq 2>/dev/null) || {
        echo "sync-half needs a valid run of sync-4x512" >&2
        failed=1
        return 0
    }
    produce sync-half sync 4 512 1 "--rate=$((rate / 2))"
}

bare_disk() {
    local report
    wanted fsync || return 0
    echo "round $round: fsync"
    report=$("$QMQ_BIN_DIR/qmq-ceiling" fsync --file "$work/fsync" "--seconds=$seconds") || true
    rm -f -- "$work/fsync"
    add_result fsync disk "$report"
}

bare_memory() {
    local report
    wanted pages || return 0
    echo "round $round: pages"
    sync
    report=$("$QMQ_BIN_DIR/qmq-ceiling" pages --file "$work/pages" "--mebibytes=$page_mebibytes" \
        "--pause=$page_pause") || true
    rm -f -- "$work/pages"
    add_result pages machine "$report"
}

allocations() {
    local report
    wanted allocations || return 0
    echo "round $round: allocations"
    report=$("$QMQ_BIN_DIR/qmq-allocations" --folder "$work") || true
    add_result allocations qmq "$report"
}

# What messages that wait cost: put straight into a store, in the first round only.
pending() {
    local messages=$1 name=pending-$1 folder=$work/pending report= free
    [[ $round -eq 1 ]] && wanted "$name" || return 0
    free=$(df --output=avail -B1 -- "$work" | tail -n 1)
    if ((messages * pending_bytes > free)); then
        echo "$name is left out: it needs $((messages * pending_bytes >> 30)) GiB of disk" >&2
        return 0
    fi
    echo "round $round: $name"
    if "$QMQ_BIN_DIR/qmq-delay-pending" fill "$folder" "$messages" >/dev/null; then
        report=$("$QMQ_BIN_DIR/qmq-delay-pending" open "$folder") || true
    fi
    rm -rf --one-file-system -- "$folder"
    add_result "$name" qmq "$report"
}

# A metaserver with very many subjects, on a MariaDB of its own; in the first round only.
registers() {
    local report
    [[ $round -eq 1 ]] && wanted meta-registers || return 0
    echo "round $round: meta-registers"
    report=$("$QMQ_BIN_DIR/qmq-registers" "--metaserver=$QMQ_BIN_DIR/qmq-metaserver" "--seconds=$seconds" \
        "--subjects=$register_subjects" "--groups=$register_groups") || true
    add_result meta-registers qmq "$report"
}

one_round() {
    local window durability
    [[ -z $peer_start ]] || bash -c "$peer_start" >/dev/null || fail "the peer does not start: $peer_start"
    saturated
    half_rate
    end_to_end e2e-async-1k async 1000
    end_to_end e2e-async-10k async 10000
    end_to_end e2e-sync-1k sync 1000
    bare_disk
    bare_memory
    run_case isolation sync isolation "--duration=$seconds" "--warm-up=$warm_up" --ratio-max=1000
    delayed delay-idle --delay=2 --rate=100 "--duration=$seconds" --warm-up=0
    delayed delay-10k --delay=5 --rate=10000 "--duration=$seconds" --warm-up=0
    delayed delay-burst --delay="$delay_lead" --messages="$messages_later" --within=1 --size=100
    delayed delay-accept --delay="$delay_lead" --messages="$messages_later" --within=10
    pending 1000
    [[ $pending_most -le 1000000 ]] || pending 1000000
    pending "$pending_most"
    for window in "${WINDOWS[@]}"; do
        for durability in sync async; do
            produce "window-$durability-$window" "$durability" 4 "$window" 1
        done
    done
    allocations
    registers
}

trap clean_up EXIT
trap 'exit 130' INT TERM
start_metaserver
prepare_broker sync
prepare_broker async
prepare_delay_server
if $profile; then
    round=1
    saturated
    exit 0
fi
facts=$(machine)
begin_results
printf '%s\n' "$facts" >>"$results"
for ((round = 1; round <= rounds; round++)); do one_round; done
"$QMQ_BIN_DIR/qmq-bench-report" render "$results" "$document" --short "$short"
echo "results: $results"
echo "tables: $document"
[[ $failed -eq 0 ]] || fail "some runs are not valid: see above"
