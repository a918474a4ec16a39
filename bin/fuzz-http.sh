#!/usr/bin/env bash
# Fuzzes the HTTP port of a metaserver from its own description (/openapi.json) with schemathesis,
# which is installed into target/schemathesis if need be. Needs Python 3 with venv.
#
# usage: fuzz-http.sh [EXAMPLES]   per path, default 300; options of schemathesis may follow
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
. "$here/base.sh"
. "$here/prerequisites.sh"

VERSION=4.32.5
TOKEN=fuzz
# The metaserver says whether it did what it was asked in the body, not in the status: what these
# check cannot hold.
CHECKS_WITHOUT_MEANING=negative_data_rejection,positive_data_acceptance,missing_required_header,ignored_auth
READY_TRIES=600

examples=${1:-300}
shift || true

tool=$(absolute "${CARGO_TARGET_DIR:-$QMQ_SOURCE/target}")/schemathesis
if [[ ! -x $tool/bin/st ]] || ! "$tool/bin/st" --version | grep -qF "$VERSION"; then
    have python3 || fail "python3 is missing"
    python3 -m venv "$tool"
    "$tool/bin/pip" install --quiet "schemathesis==$VERSION"
fi
find_program qmq-metaserver

folder=$(mktemp -d)
server=
end() {
    [[ -z $server ]] || kill "$server" 2>/dev/null || true
    wait
    rm -rf --one-file-system -- "$folder"
}
trap end EXIT
: >"$folder/metaserver.properties"
echo "$TOKEN = fuzzing" >"$folder/valid-api-tokens.properties"
"$QMQ_BIN_DIR/qmq-metaserver" -c "$folder/metaserver.properties" --set meta.server.port=0 \
    --set meta.server.discover.port=0 --set "jdbc.url=sqlite:$folder/meta.db" \
    --set "ports.file=$folder/ports" 2>"$folder/log" &
server=$!
for ((tries = 0; tries < READY_TRIES; tries++)); do
    [[ ! -s $folder/ports ]] || break
    kill -0 "$server" 2>/dev/null || fail "the metaserver ended: $(cat -- "$folder/log")"
    sleep "$LOOK_AGAIN"
done
port=$(sed -n 's/^http=.*://p' "$folder/ports")
[[ -n $port ]] || fail "the metaserver did not start: $(cat -- "$folder/log")"

# It leaves notes about its examples where it runs.
cd -- "$folder"
"$tool/bin/st" run "http://127.0.0.1:$port/openapi.json" --header "X-Api-Token: $TOKEN" \
    --max-examples "$examples" --exclude-checks "$CHECKS_WITHOUT_MEANING" --suppress-health-check all \
    "$@"
kill -0 "$server" 2>/dev/null || fail "the metaserver ended: $(cat -- "$folder/log")"
if grep -q panicked "$folder/log"; then
    fail "a panic: $(grep -A 3 panicked "$folder/log")"
fi
