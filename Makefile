# make run: a controller with a small simulated fleet.   make test: all tests, with everything they need.
# Both need Rust and a C compiler; see README.md.

CARGO ?= cargo
DEVICES ?= 20
HTTP ?= 127.0.0.1:8080
QUIC ?= 127.0.0.1:7443

.PHONY: run test lint build help

help:
	@echo "make run    build and start Flotilla with $(DEVICES) simulated gateways (DEVICES=n HTTP=addr QUIC=addr)"
	@echo "make test   run all tests, the short chaos run included"
	@echo "make lint   formatting and clippy, warnings denied"

build:
	$(CARGO) build --release --locked -p flotilla-controller -p flotilla-device-node

run: build
	@exec "$${CARGO_TARGET_DIR:-target}/release/flotilla" demo --devices $(DEVICES) --http $(HTTP) --quic $(QUIC)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

test:
	./.ci/prepare
	# The programs that the live tests run. Without the features of tests they are compiled once more; here no test waits for it.
	$(CARGO) build --locked --workspace --bins
	FLOTILLA_TESTS_REQUIRE_ALL=1 $(CARGO) test --locked --workspace
	# What stands on the catalog, once more on PostgreSQL.
	FLOTILLA_TESTS_REQUIRE_ALL=1 FLOTILLA_TEST_STORE=postgres $(CARGO) test --locked --workspace --lib -- fleet:: ca:: gateway:: providers:: webhooks:: settings::
