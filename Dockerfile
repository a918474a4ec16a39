# One image with all programs: docker build -t qmq . && docker run qmq qmq-broker -c conf/broker.properties
#
# It runs as user 10001, settings in /opt/qmq/conf, data in /opt/qmq/data, logs on standard error.

# The version is that of rust-toolchain.toml.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# The tool chain of the image: the file would ask for more of it.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN cargo build --release --locked \
        -p qmq-metaserver -p qmq-broker -p qmq-delay-server -p qmq-tools \
    && QMQ_BIN_DIR=/src/target/release bin/install.sh /opt/qmq

FROM debian:bookworm-slim
RUN groupadd --gid 10001 qmq \
    && useradd --uid 10001 --gid qmq --home-dir /opt/qmq --no-create-home --shell /usr/sbin/nologin qmq
COPY --from=build /opt/qmq /opt/qmq
RUN install -d -o qmq -g qmq /opt/qmq/data /opt/qmq/logs /opt/qmq/pid
ENV QMQ_HOME=/opt/qmq PATH=/opt/qmq/bin:$PATH
WORKDIR /opt/qmq
USER 10001:10001
VOLUME /opt/qmq/data
STOPSIGNAL SIGTERM
CMD ["qmq-tools", "help"]
