# shellcheck shell=bash
# Sourced by the scripts beside it: folders, building, and starting and stopping one server.
#
# QMQ_HOME           folder with conf/, pid/, logs/ and data/; default: the folder above bin/
# QMQ_NAME           name of this server's files in pid/ and logs/; default: that of the script. Two
#                    servers of one kind in one QMQ_HOME need two names
# QMQ_CONF           read by the servers themselves: configuration to use instead of QMQ_HOME/conf
# QMQ_BIN_DIR        folder with the compiled programs; default: bin/ if they are there, as after
#                    bin/install.sh, else target/release, built when missing
# QMQ_START_SECONDS  how long `start` waits until the server is ready; default 120
# QMQ_STOP_SECONDS   how long `stop` waits until the server has ended; default 60
#
# bin/NAME-env.sh is sourced when it is there. JAVA_OPTS in it may hold -Dqmq.conf, -Dqmq.ip and
# -Dqmq.host, which mean what they meant to the Java servers; everything else in it is for a JVM.
set -euo pipefail

QMQ_SOURCE=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd -P)
QMQ_HOME=$(cd -- "${QMQ_HOME:-$QMQ_SOURCE}" && pwd -P)
export QMQ_HOME
QMQ_PACKAGES=(qmq-metaserver qmq-broker qmq-delay-server qmq-tools)
# An unready server is asked again after this many seconds.
LOOK_AGAIN=0.1
LOG_LINES_SHOWN=20

fail() {
    echo "$*" >&2
    exit 1
}

# Builds the programs in release mode; cargo itself takes turns with other builds.
build_programs() {
    local packages=() package
    for package in "${QMQ_PACKAGES[@]}"; do packages+=(-p "$package"); done
    (cd -- "$QMQ_SOURCE" && cargo build --release --locked "${packages[@]}")
}

# Sets QMQ_BIN_DIR to a folder that has the program.
find_program() {
    local program=$1
    if [[ -n ${QMQ_BIN_DIR:-} ]]; then
        QMQ_BIN_DIR=$(absolute "$QMQ_BIN_DIR")
        [[ -x $QMQ_BIN_DIR/$program ]] || fail "QMQ_BIN_DIR=$QMQ_BIN_DIR has no $program"
        return
    fi
    if [[ -x $QMQ_SOURCE/bin/$program ]]; then
        QMQ_BIN_DIR=$QMQ_SOURCE/bin
        return
    fi
    QMQ_BIN_DIR=$(absolute "${CARGO_TARGET_DIR:-$QMQ_SOURCE/target}")/release
    if [[ ! -x $QMQ_BIN_DIR/$program ]]; then
        PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
        command -v cargo >/dev/null ||
            fail "$QMQ_BIN_DIR/$program is missing and so is cargo to build it: bin/quickstart.sh installs what is needed"
        echo "$program is not built yet: building" >&2
        build_programs >&2
    fi
}

# The program of a server: settings, logs and scripts have its short name.
program_of() {
    case $1 in
    delay) echo qmq-delay-server ;;
    *) echo "qmq-$1" ;;
    esac
}

# The number of the running server, or nothing. A number that now belongs to another program is not it.
running_pid() {
    local pid
    pid=$(cat -- "$QMQ_HOME/pid/$instance.pid" 2>/dev/null) || return 0
    [[ $pid =~ ^[0-9]+$ ]] || return 0
    kill -0 "$pid" 2>/dev/null || return 0
    if [[ -r /proc/$pid/cmdline ]]; then
        [[ $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) == *"$(program_of "$1") "* ]] || return 0
    fi
    echo "$pid"
}

# One value of the server's file of addresses (`http=127.0.0.1:8080`), the port only.
port_of() {
    local key=$1 line
    line=$(grep -m 1 "^$key=" -- "$QMQ_HOME/pid/$instance.ports" 2>/dev/null) || return 0
    line=${line##*[=:]}
    echo "${line//[[:space:]]/}"
}

# The port that answers /readyz: the metaserver's own HTTP port, or a broker's admin port.
ready_port() {
    local port
    port=$(port_of admin)
    [[ -n $port ]] || port=$(port_of http)
    echo "$port"
}

# Whether /readyz on this port answers 200.
answers_ready() {
    local port=$1 line=
    [[ -n $port ]] || return 1
    (
        exec 3<>"/dev/tcp/127.0.0.1/$port" || exit 1
        printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
        read -r -t 2 line <&3 || exit 1
        [[ $line == *" 200 "* ]]
    ) 2>/dev/null
}

# Keeps a second start or stop of the same server waiting until the first is done.
take_turns() {
    mkdir -p -- "$QMQ_HOME/pid" "$QMQ_HOME/logs"
    if command -v flock >/dev/null; then
        exec 9>"$QMQ_HOME/pid/$instance.lock"
        flock -w 300 9 || fail "another start or stop of $instance is under way"
    fi
}

show_log() {
    echo "last lines of $1:" >&2
    tail -n "$LOG_LINES_SHOWN" -- "$1" >&2 || true
}

# Servers run in QMQ_HOME, where the relative paths of their settings begin. So what was named
# relative to this shell's folder is made absolute: sets `server_options`.
enter_home() {
    local option previous=
    server_options=()
    for option in "$@"; do
        case $previous in
        -c | --config) option=$(absolute "$option") ;;
        esac
        server_options+=("$option")
        previous=$option
    done
    [[ -z ${QMQ_CONF:-} ]] || QMQ_CONF=$(absolute "$QMQ_CONF")
    cd -- "$QMQ_HOME"
}

absolute() {
    if [[ $1 == /* ]]; then echo "$1"; else echo "$PWD/$1"; fi
}

# Sets `instance` and, from what JAVA_OPTS says, `java_options`.
know_instance() {
    local option
    instance=${QMQ_NAME:-$1}
    [[ $instance =~ ^[A-Za-z0-9._-]+$ ]] || fail "QMQ_NAME=$instance: letters, digits, '.', '_' and '-' only"
    java_options=()
    # shellcheck source=/dev/null # the operator's
    if [[ -r $QMQ_SOURCE/bin/$1-env.sh ]]; then . "$QMQ_SOURCE/bin/$1-env.sh"; fi
    for option in ${JAVA_OPTS:-}; do
        case $option in
        -Dqmq.conf=*) QMQ_CONF=${QMQ_CONF:-${option#*=}} && export QMQ_CONF ;;
        -Dqmq.ip=* | -Dqmq.host=*) java_options+=(--set "${option#-D}") ;;
        esac
    done
}

start_server() {
    local name=$1 pid log ports detach=()
    shift
    find_program "$(program_of "$name")"
    take_turns
    pid=$(running_pid "$name")
    if [[ -n $pid ]]; then
        echo "$instance is already running (pid $pid)"
        return 0
    fi
    log=$QMQ_HOME/logs/$instance.out
    ports=$QMQ_HOME/pid/$instance.ports
    rm -f -- "$ports"
    # A session of its own: Ctrl-C in this terminal is not meant for the server.
    if [[ -z ${QMQ_SAME_SESSION:-} ]] && command -v setsid >/dev/null; then detach=(setsid); fi
    enter_home "$@"
    # `exec` in a subshell keeps the number the same through setsid.
    (exec "${detach[@]}" "$QMQ_BIN_DIR/$(program_of "$name")" --set "ports.file=$ports" "${java_options[@]}" "${server_options[@]}" </dev/null >>"$log" 2>&1 9>&-) &
    pid=$!
    printf '%s' "$pid" >"$QMQ_HOME/pid/$instance.pid"
    wait_until_ready "$pid" "$log"
}

wait_until_ready() {
    local pid=$1 log=$2 limit=${QMQ_START_SECONDS:-120}
    local end=$((SECONDS + limit))
    until answers_ready "$(ready_port)"; do
        if ! kill -0 "$pid" 2>/dev/null; then
            forget_instance
            show_log "$log"
            fail "$instance did not start"
        fi
        if ((SECONDS >= end)); then
            show_log "$log"
            fail "$instance (pid $pid) is running but not ready after $limit s"
        fi
        sleep "$LOOK_AGAIN"
    done
    echo "$instance is ready (pid $pid), log $log, addresses $QMQ_HOME/pid/$instance.ports"
}

forget_instance() {
    rm -f -- "$QMQ_HOME/pid/$instance.pid" "$QMQ_HOME/pid/$instance.ports"
}

stop_server() {
    local name=$1 pid limit=${QMQ_STOP_SECONDS:-60} end
    take_turns
    pid=$(running_pid "$name")
    if [[ -z $pid ]]; then
        forget_instance
        echo "$instance is not running"
        return 0
    fi
    echo "stopping $instance (pid $pid): SIGTERM, then up to $limit s until it has finished"
    kill -TERM "$pid"
    end=$((SECONDS + limit))
    while [[ -n $(running_pid "$name") ]]; do
        ((SECONDS < end)) || fail "$instance (pid $pid) still runs after $limit s; it was not killed: see $QMQ_HOME/logs/$instance.out"
        sleep "$LOOK_AGAIN"
    done
    forget_instance
    echo "$instance has stopped"
}

# Exit code 0: ready; 1: running but not ready; 3: not running.
show_status() {
    local name=$1 pid
    pid=$(running_pid "$name")
    if [[ -z $pid ]]; then
        echo "$instance is not running"
        return 3
    fi
    if answers_ready "$(ready_port)"; then
        echo "$instance is running (pid $pid) and ready"
        sed 's/^/  /' -- "$QMQ_HOME/pid/$instance.ports"
        return 0
    fi
    echo "$instance is running (pid $pid) but not ready"
    return 1
}

# The whole of a server's script.
serve() {
    local name=$1 action=${2:-}
    shift
    [[ $# -eq 0 ]] || shift
    know_instance "$name"
    case $action in
    start) start_server "$name" "$@" ;;
    start-foreground)
        find_program "$(program_of "$name")"
        enter_home "$@"
        exec "$QMQ_BIN_DIR/$(program_of "$name")" "${java_options[@]}" "${server_options[@]}"
        ;;
    stop) stop_server "$name" ;;
    status) show_status "$name" ;;
    *)
        echo "usage: $name.sh start | start-foreground | stop | status [options of the server, such as -c FILE]" >&2
        exit 2
        ;;
    esac
}
