# The commands that bin/test.sh runs, one by one.

# Everything, as the continuous integration does.
ci:
    bin/test.sh

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings

test:
    cargo test --locked --workspace --lib --bins --test it
    cargo test --locked --workspace --doc

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

# Messages for later with real processes, long: 100 000 fall due over a minute while delay server and
# broker are killed, and 10 000 are cancelled at the moment they fall due. QMQ_SEED as printed.
later:
    QMQ_LATER=100000 QMQ_LATER_SECONDS=60 QMQ_CANCELS=10000 cargo test --locked --workspace --test e2e -- --test-threads=1 --show-output delay::

# The model test, long: random worlds with crashes, see sim/src/lib.rs. `QMQ_SEED=n just sim 2000`
# repeats the world with that seed.
sim steps="10000000":
    QMQ_STEPS={{steps}} cargo test --locked -p qmq-sim --test it -- --nocapture promises_hold

# The same for the delay server: power cuts, a faulty link, cancellations that race.
sim-delay steps="10000000":
    QMQ_STEPS={{steps}} cargo test --locked -p qmq-sim --test it -- --nocapture delayed_messages_are

# Real processes, kill -9, the Java client (needs a JDK and Maven).
e2e *filter:
    cargo build --locked --workspace --all-targets
    cargo test --locked --workspace --test e2e -- --test-threads=2 --show-output {{filter}}

# The HTTP port of the metaserver, from its own description; needs Python 3.
fuzz-http *options:
    bin/fuzz-http.sh {{options}}

# Licences, sources and advisories; needs cargo-deny.
deny:
    cargo deny check

# Measures everything and makes docs/performance.md; --quick for a smoke run.
bench *options:
    bin/bench.sh {{options}}

# The hot pieces one by one.
bench-pieces *filter:
    cargo bench --locked -p qmq-benches --bench hot_path -- {{filter}}
