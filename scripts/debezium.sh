# Sourced by scripts that need Debezium, after lib.sh: fetches its jars below target/.
# shellcheck shell=bash

export EVENT_OUTBOX_DEBEZIUM_LIBS=$target/debezium/libs

fetch_debezium() {
    local stamp pom=pgrx-tests/lab/debezium/pom.xml libs=$EVENT_OUTBOX_DEBEZIUM_LIBS
    stamp=$(sha256sum <$pom)
    if [[ -f $libs/stamp && $(<"$libs/stamp") == "$stamp" ]]; then return; fi
    step "fetching Debezium from Maven Central (about 30 MB)"
    rm -rf "$libs"
    mvn -B -q -f $pom dependency:copy-dependencies "-DoutputDirectory=$libs" >&2
    printf '%s\n' "$stamp" >"$libs/stamp"
}
