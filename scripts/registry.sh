# Sourced by scripts that need a Schema Registry, after lib.sh: fetches Apicurio Registry below target/. It has the interface of
# Confluent's, and keeps its schemas in memory.
# shellcheck shell=bash

# Later ones need Java 21.
registry_version=3.0.9
export EVENT_OUTBOX_REGISTRY=$target/registry

fetch_registry() {
    local to=$EVENT_OUTBOX_REGISTRY archive=apicurio-registry-app-$registry_version-all.tar.gz
    if [[ -f $to/stamp && $(<"$to/stamp") == "$registry_version" ]]; then return; fi
    step "fetching Apicurio Registry from Maven Central (about 105 MB)"
    rm -rf "$to"
    mvn -B -q dependency:copy "-Dartifact=io.apicurio:apicurio-registry-app:$registry_version:tar.gz:all" \
        "-DoutputDirectory=$to" >&2
    tar -xzf "$to/$archive" -C "$to"
    rm "$to/$archive"
    printf '%s\n' "$registry_version" >"$to/stamp"
}
