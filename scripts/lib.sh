# Sourced by the other scripts: where things live, which PostgreSQL is meant, who runs the servers.
# shellcheck shell=bash disable=SC2153

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)

# What the bootstrap puts aside for this project comes first. A shell that is older than the user's Rust lacks Rust's
# directory, that of a plain `su` lacks the system's.
export PATH="$target/tools/bin:${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"
export CARGO_TARGET_DIR=$target
# The user's ~/.pgrx is left alone.
export PGRX_HOME=$target/pgrx
# build.rs passes the link flag; with cargo-pgrx passing it too, every crate would be compiled twice.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1

# PG_CONFIG names a PostgreSQL; without it, PG_MAJOR names one of Debian's.
if [[ -n ${PG_CONFIG:-} ]]; then
    PG_CONFIG=$(command -v "$PG_CONFIG") || { printf 'error: PG_CONFIG is no program\n' >&2 && exit 1; }
    PG_MAJOR=$("$PG_CONFIG" --version | grep -oE '[0-9]+' | head -n 1)
else
    PG_MAJOR=${PG_MAJOR:-15}
    PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
fi
export PG_CONFIG PG_MAJOR

# Everything the servers must be able to reach: PostgreSQL trees, clusters, Kafka's data.
# target/lab may be a link to where they can: see make_lab.
lab=$(readlink -m "$target/lab")
export EVENT_OUTBOX_LAB=$lab
export EVENT_OUTBOX_KAFKA_LIBS=$target/kafka/libs

# The private trees of this PostgreSQL; another installation of the same major version has its own.
pg_home=$lab/pg$PG_MAJOR
if [[ -x $PG_CONFIG && $("$PG_CONFIG" --bindir) != "/usr/lib/postgresql/$PG_MAJOR/bin" ]]; then
    pg_home+=-$("$PG_CONFIG" --bindir | sha256sum | cut -c 1-8)
fi
export EVENT_OUTBOX_PG_HOME=$pg_home

step() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Postgres refuses to run as root: root's servers run as the user of Debian's package.
as_server_user() {
    if [[ $EUID -eq 0 ]]; then
        (cd / && exec runuser -u postgres -- "$@")
    else
        "$@"
    fi
}

# A checkout below a directory that the server's user cannot traverse gets its lab under /var/tmp.
make_lab() {
    if [[ -d $lab ]] && as_server_user test -x "$lab/."; then return; fi
    local link=$target/lab
    rm -rf "$lab" "$link"
    mkdir "$link"
    if ! as_server_user test -x "$link/."; then
        rmdir "$link"
        ln -s "$(mktemp -d /var/tmp/event_outbox.XXXXXX)" "$link"
        pg_home=$(readlink -m "$link")/${pg_home##*/}
        lab=$(readlink -m "$link")
        step "servers live in $lab: user postgres cannot reach $target"
    fi
    chmod 755 "$lab"
}

# The features the extension is compiled with for this PostgreSQL.
features() { printf -- '--no-default-features --features pg%s%s' "$PG_MAJOR" "${1:+,$1}"; }

# cargo-pgrx overwrites the library in place, under the feet of servers that have it mapped: give them the old file.
# detach_library PG_CONFIG [sudo]
detach_library() {
    local library
    library=$("$1" --pkglibdir)/event_outbox.so
    if [[ -f $library ]]; then
        ${2:-} cp -p "$library" "$library.new"
        ${2:-} mv "$library.new" "$library"
    fi
}

tree_pg_config() { printf '%s/%s/bin/pg_config' "$pg_home" "$1"; }

# Builds the extension for release, with a further feature if one is named, and installs it into a private tree.
# install_into TREE [FEATURE]
install_into() {
    step "building the extension for PostgreSQL $PG_MAJOR${2:+, with $2} (the first time takes some minutes)"
    detach_library "$(tree_pg_config "$1")"
    # shellcheck disable=SC2046
    cargo pgrx install --release --package event_outbox --pg-config "$(tree_pg_config "$1")" $(features "${2:-}")
    chmod -R go+rX "$pg_home/$1"
}
