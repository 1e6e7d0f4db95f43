#!/usr/bin/env bash
# test.sh PACKAGE MAJOR: scripts/package-test runs it inside a minimal Debian, as root. The output of apt goes to
# descriptor 3.
set -euo pipefail
package=$1 major=$2
# Long enough for a server that starts slowly.
deadline='60 s'

step() { printf '    %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    tail -n 20 "/var/log/postgresql/postgresql-$major-main.log" >&2 || true
    exit 1
}
quietly() { "$@" >&3 2>&3 || die "that failed: $*"; }
as_postgres() { (cd / && runuser -u postgres -- "$@"); }
sql() { as_postgres psql -X -q -A -t -v ON_ERROR_STOP=1 -c "$1"; }
conf() { as_postgres pg_conftool "$major" main "$@"; }
# is EXPECTED SQL
is() {
    local got
    got=$(sql "$2")
    [[ $got == "$1" ]] || die "$2 returned '$got', expected '$1'"
}

quietly apt-get -q update
quietly apt-get -q -y install --no-install-recommends "postgresql-$major" kcat
step "installing the package with apt"
quietly apt-get -q -y install --no-install-recommends /package.deb
[[ -z $(find /usr/lib/postgresql /usr/share/postgresql -name '*event_outbox*' ! \( -user root -group root \)) ]] ||
    die "some files are not owned by root"

trap 'pg_ctlcluster "$major" main stop --mode immediate >&3 2>&3 || true' EXIT

step "starting a server that preloads it, and a Kafka"
# The Kafka is librdkafka's mock cluster, in a producer without messages.
kafka_log=$(mktemp)
sleep infinity | kcat -P -b none -t none -X test.mock.num.brokers=1 -X debug=mock >"$kafka_log" 2>&1 &
brokers() { grep -m 1 -oP 'mockCluster\S* bootstrap.servers=\K\S+' "$kafka_log"; }
for ((tries = 0; tries < 300; tries++)); do
    if brokers=$(brokers); then break; fi
    sleep 0.1
done
[[ -n $brokers ]] || die "no Kafka: $(<"$kafka_log")"
conf set listen_addresses ''
conf set shared_preload_libraries event_outbox
conf set event_outbox.bootstrap_servers "$brokers"
quietly pg_ctlcluster "$major" main start

step "testing that CREATE EXTENSION works and the relay publishes an event"
sql 'CREATE EXTENSION event_outbox'
is "$(dpkg-query -W -f '${Version}' "$package" | sed 's/-[^-]*$//')" \
    "SELECT extversion FROM pg_extension WHERE extname = 'event_outbox'"
sql "SELECT outbox.emit('orders', '{\"id\": 7}', key => '7')" >/dev/null
is t "SELECT outbox.wait_published('$deadline')"
is '1|connected' 'SELECT published, connection FROM outbox.status'
arrived=$(kcat -C -b "$brokers" -t orders -o beginning -e -q -f '%k %s\n')
[[ $arrived == '7 {"id":7}' ]] || die "Kafka has: $arrived"
is 'subscriptions|ok' 'SELECT subject, verdict FROM inbox.check()'

step "testing that removal of a preloaded package warns"
quietly apt-get -q -y install --no-install-recommends --reinstall /package.deb
warning=$(dpkg --remove "$package" 2>&1 >&3) || die "could not remove the package: $warning"
[[ $warning == *postgresql.conf*preloads\ event_outbox* ]] || die "no warning: $warning"
# Check that the warning is true.
if pg_ctlcluster "$major" main restart >&3 2>&3; then die "the server started without its preloaded library"; fi
quietly apt-get -q -y install --no-install-recommends /package.deb
quietly pg_ctlcluster "$major" main start
is t "SELECT outbox.wait_published('$deadline')"

step "testing that removal after DROP EXTENSION does not warn, and the server continues"
sql 'DROP EXTENSION event_outbox'
conf remove shared_preload_libraries
conf remove event_outbox.bootstrap_servers
quietly pg_ctlcluster "$major" main restart
warning=$(dpkg --purge "$package" 2>&1 >&3) || die "could not remove the package: $warning"
[[ $warning != *warning* ]] || die "unexpected warning: $warning"
quietly pg_ctlcluster "$major" main restart
is 0 "SELECT count(*) FROM pg_available_extensions WHERE name = 'event_outbox'"
left=$(find / -xdev -name '*event?outbox*' ! -path '/proc/*' ! -name 'package.deb')
[[ -z $left ]] || die "left behind: $left"
quietly pg_ctlcluster "$major" main stop
