# PG chooses the major version of PostgreSQL (default 15), PG_CONFIG any installation.
.DEFAULT_GOAL := help
.PHONY: help demo example test test-long torture bench bench-compare up down all install package package-test docker-test drivers-test debezium-test registry-test build fmt lint deny doc bootstrap clean
MAKEFLAGS += --no-print-directory

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: build ## Real PostgreSQL, real Kafka, pgbench with rollbacks: count what arrived, then stop everything
	@scripts/lab demo

example: build ## A small bank to try out in a browser: see examples/bank. PORT=8080; STOP_AFTER=60 closes it by itself
	@scripts/example "$(PORT)" "$(STOP_AFTER)"

test: bootstrap ## Run everything: format, lints, documentation, all tests
	@scripts/test

test-long: bootstrap ## Run what takes hours: teeth of the torture test, all versions of PostgreSQL, drivers, a real Debezium
	@scripts/test long

bench: build ## Measure against Debezium, a polling relay and rdkafka alone; SCENARIO=drain,emit for some of it
	@scripts/bench "$(SCENARIO)"

bench-compare: bootstrap ## Measure another commit and this one in alternating rounds: BASE=<commit> SCENARIO=drain,emit ROUNDS=5
	@scripts/bench-compare "$(BASE)" "$(SCENARIO)" "$(ROUNDS)"

torture: bootstrap ## Writers, faults and a checker: MINUTES=10 SEED=… MODE=cluster (three brokers), kafka (one), mock (any error) once (delivery at most once) or exactly (exactly once)
	@scripts/build-failpoints
	@scripts/lab torture "$(or $(MINUTES),10)" "$(or $(MODE),cluster)" "$(SEED)"

up: build ## Start a PostgreSQL and a Kafka to play with
	@scripts/lab playground up

down: ## Stop what `make up` started
	@scripts/lab playground down

all: ## Compile what `make install` installs: `pgxn install` asks for it
	@scripts/bootstrap build
	@scripts/install compile

install: ## Install the extension into the PostgreSQL of PG_CONFIG
	@scripts/bootstrap build
	@scripts/install

drivers-test: build ## Run the programs of docs/guides/drivers.md and receivers.md with the drivers that they are for
	@scripts/drivers-test

debezium-test: build ## Compare the layout of Debezium with what a real Debezium writes
	@scripts/debezium-test

registry-test: build ## Have deserializers of Python and Java read what is published with a Schema Registry
	@scripts/registry-test

package: ## A Debian package for that PostgreSQL, and the source archive for PGXN, in target/dist
	@scripts/bootstrap build
	@scripts/package
	@scripts/package-source

package-test: ## Install the package into a bare Debian, use it, remove it: needs root and a mirror
	@scripts/package-test

docker-test: ## Build the images, run the playground, on an engine of its own and stand-ins for what registries hold: needs root
	@scripts/docker-test

build: bootstrap ## Build the extension for release, into a private PostgreSQL tree below target/
	@scripts/build-release

fmt: bootstrap ## Format the code
	@scripts/env cargo fmt --all

lint: bootstrap ## Run clippy over the workspace
	@scripts/lint

deny: bootstrap ## Check licences, sources and known advisories of all dependencies (needs the network)
	@scripts/deny

doc: bootstrap ## Build the documentation of the code
	@scripts/doc

bootstrap: ## Install what is missing to build and test
	@scripts/bootstrap

clean: ## Remove everything below target/
	@scripts/clean
