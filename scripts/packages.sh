# Installs missing Debian packages, as root where necessary. Scripts source it after lib.sh.
# shellcheck shell=bash

# The output that is of interest only if a command fails.
# shellcheck disable=SC2154
log=$target/bootstrap.log

have() { command -v "$1" >/dev/null 2>&1; }
installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }
at_least() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }

as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "this needs root: $*; install sudo, or run this as root once"
    fi
}

# quietly COMMAND...: runs the command, and shows its output only if it fails.
quietly() {
    if ! "$@" >>"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "that failed: its output is in $log"
    fi
}

apt_get() {
    # A machine that has just started may be installing updates: wait for them.
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@"
}

apt_update_once() {
    if [[ -z ${apt_updated:-} ]]; then apt_get update; fi
    apt_updated=1
}

apt_install() {
    have apt-get || die "please install the programs of these Debian packages: $*"
    step "installing packages: $*"
    apt_update_once
    apt_get install --no-install-recommends "$@"
}

# apt_offers PACKAGE VERSION: whether apt could install this version of the package, or a newer one.
apt_offers() {
    have apt-get || return 1
    apt_update_once
    at_least "$2" "$(LC_ALL=C apt-cache policy "$1" | awk '$1 == "Candidate:" { print $2 }')"
}
