# The three things a person does here: run it, test it, check its style.
.DEFAULT_GOAL := run
SHELL := /bin/bash

# rustup puts cargo here; a shell that has not been opened anew does not know it.
export PATH := $(HOME)/.cargo/bin:$(PATH)

# clang compiles what the kernel does of the packet path.
BUILD_PACKAGES := gcc libc6-dev linux-libc-dev clang pkg-config libopus-dev ca-certificates
# SIPp, baresip, PostgreSQL, a browser, Wireshark, promtool and Schemathesis (Python) are the peers that tests talk to.
# faketime sets the clock of one process.
TEST_PACKAGES := $(BUILD_PACKAGES) sip-tester baresip-core postgresql iproute2 nftables chromium tshark prometheus \
  python3 python3-venv faketime
# Kamailio and rtpengine are what benchmarks compare with.
BENCH_PACKAGES := $(BUILD_PACKAGES) kamailio kamailio-postgres-modules rtpengine-daemon postgresql valgrind

# Docker comes from more than one place: what is there is left alone. WITHOUT_DOCKER=1 leaves out what needs it.
DOCKER_PACKAGES = $(if $(WITHOUT_DOCKER),,binutils debootstrap \
  $(if $(shell command -v docker),,docker.io) \
  $(if $(shell command -v docker-compose),,docker-compose))
# Both editions of Compose are tested: the second comes out of a later Debian's package where the machine has none.
define need_compose
@[ -n "$(WITHOUT_DOCKER)" ] || docker compose version >/dev/null 2>&1 || docker/compose-v2.sh target/compose-v2 \
  || echo "COMPOSE V2 CANNOT BE HAD: tests/containers uses docker-compose in its place"
endef

# Schemathesis reads the OpenAPI document; nothing else that is tested comes from PyPI.
define need_schemathesis
@tests/openapi/install.sh target/tmp/schemathesis \
  || echo "PYPI CANNOT BE REACHED: tests/openapi is left out"
endef

# Installs what is missing of the Debian packages $(1); asks nobody, and does nothing when all are there.
define need
@missing=; \
for package in $(1); do \
  [ "$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null)" = installed ] \
    || missing="$$missing $$package"; \
done; \
if [ -n "$$missing" ]; then \
  command -v apt-get >/dev/null \
    || { echo "no apt-get here; please install what these Debian packages hold:$$missing"; exit 1; }; \
  echo "installing:$$missing"; \
  root=; [ "$$(id -u)" = 0 ] || root=sudo; \
  $$root apt-get update -qq \
    && $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing \
    || exit 1; \
fi; \
command -v cargo >/dev/null || { echo "no cargo here; get Rust from https://rustup.rs"; exit 1; }
endef

.PHONY: run build images test openapi bench lint

run: build ## Build what is needed and start a server for the phones of this network
	./target/release/holdfast serve

build: ## The release binary
	$(call need,$(BUILD_PACKAGES))
	cargo build --release --locked

images: ## The images that compose.yaml runs; without a registry on a base that is made here
	docker/build-images.sh

# The simulator runs many calls: its code is worth optimizing.
test: export CARGO_PROFILE_TEST_OPT_LEVEL := 1
test: export HOLDFAST_SIM_CLUSTER_CALLS := 100000
test: ## All tests: units, vectors, simulator, both databases, real phones
	$(call need,$(TEST_PACKAGES) $(DOCKER_PACKAGES))
	$(need_compose)
	$(need_schemathesis)
	[ -x target/tmp/schemathesis/bin/schemathesis ] || export WITHOUT_PYPI=1; cargo test --locked --no-fail-fast

openapi: ## More requests of the served OpenAPI document than `make test` makes, right and wrong ones, by Schemathesis
	$(call need,$(TEST_PACKAGES))
	cargo test --locked --test openapi -- --ignored

bench: ## Load on Holdfast and its peers in turn; BENCH="call --rate 400" chooses, BENCH=--quick only tries it
	$(call need,$(BENCH_PACKAGES) $(if $(findstring containers,$(BENCH)),$(DOCKER_PACKAGES)))
	$(if $(findstring containers,$(BENCH)),$(need_compose))
	cargo bench --locked --bench load -- $(BENCH)

lint: ## Formatting and clippy, no warning left
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
