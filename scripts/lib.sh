# Sourced by the other scripts: finds the directories, the selected PostgreSQL and the user that runs the servers.
# shellcheck shell=bash disable=SC2153

# The major versions of PostgreSQL, oldest first.
supported="15 16 17 18"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)

# The programs that the bootstrap installs for this project come first. A shell that is older than the user's Rust lacks
# Rust's directory in its PATH, and the shell of a plain `su` lacks the system's.
export PATH="$target/tools/bin:${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"
export CARGO_TARGET_DIR=$target
# The user's ~/.pgrx stays untouched.
export PGRX_HOME=$target/pgrx
# build.rs passes the link flag. If cargo-pgrx passed it too, every crate would be compiled twice.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1

# Holds everything that the servers must be able to reach: PostgreSQL trees, clusters, Kafka's data.
# target/lab may be a link to a place that they can reach: see make_lab.
lab=$(readlink -m "$target/lab")
export EVENT_OUTBOX_LAB=$lab
export EVENT_OUTBOX_KAFKA_LIBS=$target/kafka/libs

step() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
complain() {
    printf 'error: %s\n' "$*" >&2
}

die() {
    complain "$@"
    exit 1
}

# The exit status of a script that lacks something that others must provide. sysexits.h calls it EX_UNAVAILABLE.
# shellcheck disable=SC2034
unavailable=69

# The directories of a major version's programs: in Debian's packages (PGDG's use the same), and in our own build if there
# is no package.
packaged_bindir() { printf '/usr/lib/postgresql/%s/bin' "$PG_MAJOR"; }
own_bindir() { printf '%s/postgresql-%s/bin' "$lab" "$PG_MAJOR"; }

# PG_CONFIG selects a PostgreSQL. Without it, PG selects a major version.
given_pg_config=${PG_CONFIG:-}
choose_postgres() {
    local bindir
    if [[ -n $given_pg_config ]]; then
        PG_CONFIG=$(command -v "$given_pg_config") || die "PG_CONFIG is not a program: $given_pg_config"
        PG_MAJOR=$("$PG_CONFIG" --version | grep -oE '[0-9]+' | head -n 1)
        bindir=$("$PG_CONFIG" --bindir)
        [[ ${PG:-$PG_MAJOR} == "$PG_MAJOR" ]] || die "PG is $PG, but PG_CONFIG belongs to PostgreSQL $PG_MAJOR"
    else
        PG_MAJOR=${PG:-15}
        bindir=$(packaged_bindir)
        if [[ ! -x $bindir/pg_config && -x $(own_bindir)/pg_config ]]; then bindir=$(own_bindir); fi
        PG_CONFIG=$bindir/pg_config
    fi
    [[ " $supported " == *" $PG_MAJOR "* ]] || die "PostgreSQL $PG_MAJOR is not supported: choose one of $supported"
    # The private trees of this PostgreSQL. Another installation of the same major version has its own.
    pg_home=$lab/pg$PG_MAJOR
    if [[ $bindir != "$(packaged_bindir)" && $bindir != "$(own_bindir)" ]]; then
        pg_home+=-$(sha256sum <<<"$bindir" | cut -c 1-8)
    fi
    export EVENT_OUTBOX_PG_HOME=$pg_home
}
choose_postgres

# Postgres refuses to run as root, so root's servers run as the user of Debian's package.
as_server_user() {
    if [[ $EUID -eq 0 ]]; then
        (cd / && exec runuser -u postgres -- "$@")
    else
        "$@"
    fi
}

# If the server's user cannot traverse the directories above the checkout, the lab goes to /var/tmp.
make_lab() {
    if [[ -d $lab ]] && as_server_user test -x "$lab/."; then return; fi
    local link=$target/lab
    rm -rf "$lab" "$link"
    mkdir "$link"
    if ! as_server_user test -x "$link/."; then
        rmdir "$link"
        ln -s "$(mktemp -d /var/tmp/event_outbox.XXXXXX)" "$link"
        lab=$(readlink -m "$link")
        choose_postgres
        step "servers live in $lab: user postgres cannot reach $target"
    fi
    chmod 755 "$lab"
}

# The features the extension is compiled with for this PostgreSQL.
codecs=json-schema,avro,protobuf
features() { printf -- '--no-default-features --features pg%s,%s%s' "$PG_MAJOR" "$codecs" "${1:+,$1}"; }

# cargo-pgrx overwrites the library in place, which breaks servers that have it mapped: leave the old file to them.
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

# Builds the extension, with an additional feature if one is given, and installs it into a private tree.
# install_into TREE PROFILE [FEATURE]
install_into() {
    step "building the extension for PostgreSQL $PG_MAJOR${3:+, with $3} (the first time takes some minutes)"
    detach_library "$(tree_pg_config "$1")"
    # Update scripts that another version has left would add update paths.
    rm -f "$("$(tree_pg_config "$1")" --sharedir)"/extension/event_outbox--*.sql
    # shellcheck disable=SC2046
    cargo pgrx install --profile "$2" --package event_outbox --pg-config "$(tree_pg_config "$1")" $(features "${3:-}")
    chmod -R go+rX "$pg_home/$1"
}
