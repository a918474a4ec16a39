# shellcheck shell=bash
# Sourced after base.sh by quickstart.sh and test.sh: installs what is missing and says what.

RUSTUP_INIT_URL=https://static.rust-lang.org/rustup/rustup-init.sh
# Two runs at once install one after the other; no longer than this.
INSTALL_SECONDS_MAX=1800

have() {
    command -v "$1" >/dev/null 2>&1
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "not root, and there is no sudo: cannot run $*"
    fi
}

# Whether cargo is there and no older than the workspace asks for.
have_rust() {
    local wanted found
    have cargo || return 1
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$QMQ_SOURCE/Cargo.toml")
    # With rustup this also installs the toolchain that rust-toolchain.toml names.
    found=$(cd -- "$QMQ_SOURCE" && rustc --version | awk '{print $2}') || return 1
    [[ $(printf '%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1) == "$wanted" ]]
}

# Whether cargo can check format and lints; a cargo of a distribution may come without.
have_lints() {
    # In the project: elsewhere rustup may have no toolchain to run.
    (cd -- "$QMQ_SOURCE" && cargo fmt --version && cargo clippy --version) >/dev/null 2>&1
}

# Whether there is a compiler (javac, not only java) of at least version 17.
have_jdk() {
    local version
    have javac || return 1
    version=$(javac -version 2>&1 | awk '{print $2}')
    [[ ${version%%[.-]*} -ge 17 ]]
}

# Whether a C compiler can link a program: SQLite is C.
have_cc() {
    local cc program
    cc=$(command -v cc || command -v gcc) || return 1
    program=$(mktemp)
    echo 'int main(void) { return 0; }' | "$cc" -x c -o "$program" - 2>/dev/null || {
        rm -f -- "$program"
        return 1
    }
    rm -f -- "$program"
}

have_curl() { have curl; }
have_maven() { have mvn; }

# Distributions put servers where only root looks.
have_mariadb() {
    (
        PATH=$PATH:/usr/sbin:/usr/local/sbin
        have mariadbd && have mariadb-install-db && have mariadb
    )
}

# The Debian and Ubuntu packages for one thing.
packages_of() {
    case $1 in
    curl) echo curl ca-certificates ;;
    cc) echo gcc libc6-dev ;;
    jdk) if apt_has openjdk-17-jdk-headless; then echo openjdk-17-jdk-headless; else echo default-jdk-headless; fi ;;
    maven) echo maven ;;
    # The programs only: mariadb-server would also start one.
    mariadb) echo mariadb-server-core mariadb-client-core ;;
    rust) if apt_has rustup && ! have cargo; then echo rustup; fi ;;
    esac
}

# Whether apt knows a version of this package.
apt_has() {
    [[ $(LC_ALL=C apt-cache policy "$1" 2>/dev/null) == *Candidate:\ [0-9]* ]]
}

apt_install() {
    echo "installing with apt-get: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 \
        install --no-install-recommends "$@"
}

install_rust() {
    # A cargo of the distribution that is too old stays where it is; ours goes before it.
    export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    hash -r
    if ! have rustup; then
        echo "installing with rustup-init: rustup, to ${CARGO_HOME:-$HOME/.cargo}"
        curl --proto '=https' --tlsv1.2 -sSf --retry 3 "$RUSTUP_INIT_URL" |
            RUSTUP_INIT_SKIP_PATH_CHECK=yes sh -s -- -y -q --no-modify-path --profile minimal --default-toolchain none ||
            return
        hash -r
    fi
    echo "installing with rustup: the toolchain of rust-toolchain.toml"
    local channel
    channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$QMQ_SOURCE/rust-toolchain.toml")
    rustup toolchain install "$channel" --profile minimal --component rustfmt --component clippy --no-self-update
}

install_missing() {
    local thing wanted=() packages=()
    for thing in "$@"; do "have_$thing" || wanted+=("$thing"); done
    [[ ${#wanted[@]} -gt 0 ]] || return 0
    echo "missing: ${wanted[*]}"
    if have apt-get; then
        as_root apt-get -q -o DPkg::Lock::Timeout=600 update || return
        for thing in "${wanted[@]}"; do
            # shellcheck disable=SC2207 # names of packages have no spaces
            packages+=($(packages_of "$thing"))
        done
        [[ ${#packages[@]} -eq 0 ]] || apt_install "${packages[@]}" || return
    fi
    for thing in "${wanted[@]}"; do
        case $thing in
        rust | lints) "have_$thing" || install_rust ;;
        esac
    done
}

# Installs those of curl, cc, rust, lints, jdk, maven and mariadb that are missing. One that cannot be had ends the run.
need() {
    local thing lock
    # Where rustup puts cargo, in case this shell does not know yet.
    export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    lock=${TMPDIR:-/tmp}/qmq-install-$(id -u).lock
    if have flock; then
        exec 8>"$lock"
        flock -w "$INSTALL_SECONDS_MAX" 8 || fail "another installation does not end"
        # What failed is named below.
        install_missing "$@" 8>&- || true
        exec 8>&-
    else
        install_missing "$@" || true
    fi
    hash -r
    for thing in "$@"; do
        "have_$thing" || fail "missing and could not be installed: $thing$(hint "$thing")"
    done
}

hint() {
    case $1 in
    rust) echo " (cargo, at least the rust-version of Cargo.toml: https://rustup.rs)" ;;
    lints) echo " (cargo fmt and cargo clippy)" ;;
    jdk) echo " (a JDK with javac, 17 or newer)" ;;
    maven) echo " (the mvn command of Apache Maven)" ;;
    mariadb) echo " (mariadbd, mariadb-install-db and mariadb of MariaDB)" ;;
    cc) echo " (a C compiler with the C library's headers)" ;;
    esac
}
