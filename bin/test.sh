#!/usr/bin/env bash
# Runs every check and test of the project, the Java client's included; nothing is skipped.
#
# QMQ_KILLS  how often the test with kill -9 kills the broker; default 50
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
. "$here/base.sh"
. "$here/prerequisites.sh"
cd -- "$QMQ_SOURCE"

begin_all=$SECONDS
stages=()

show_stages() {
    printf '%s\n' "" "duration, stage:" "${stages[@]}"
}

# Runs one stage and notes how long it took; the first that fails ends the run.
stage() {
    local name=$1 begin=$SECONDS code=0
    shift
    printf '\n== %s\n' "$name"
    "$@" || code=$?
    stages+=("$(printf '%5d s  %s' $((SECONDS - begin)) "$name")")
    if [[ $code -ne 0 ]]; then
        show_stages
        fail "FAIL: $name (exit code $code)"
    fi
}

check_shell() {
    local script
    for script in bin/*.sh .ci/run; do bash -n "$script" || return 1; done
}

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
}

# Real processes, kill -9 and the Java client. They use the programs that were just built.
end_to_end() {
    QMQ_BIN_DIR=${CARGO_TARGET_DIR:-$QMQ_SOURCE/target}/debug \
        cargo test --locked --workspace --test e2e -- --test-threads=2 --show-output
}

stage "prerequisites" need curl cc rust lints jdk maven mariadb
stage "shell syntax" check_shell
stage "format" cargo fmt --all --check
stage "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
stage "build" cargo build --locked --workspace --all-targets
# The selection of packages is the same everywhere: another one would build libraries a second time.
stage "tests" cargo test --locked --workspace --lib --bins --test it
stage "tests of the documentation" cargo test --locked --workspace --doc
stage "documentation" documentation
stage "end to end" end_to_end

show_stages
echo "PASS: every stage, $((SECONDS - begin_all)) s"
