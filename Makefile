# Everything here runs as root or through sudo, on Debian with Rust installed; what else is missing is installed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
TORTIE := target/release/tortie
# Flags for `make lab`, as in: make lab LAB="--nodes 3 --kernel-peer"
LAB ?=
# Flags for `make lab-bench`, as in: make lab-bench BENCH="--cases tcp1,udp64 --chart bench.svg"
BENCH ?=

# Seconds per target for `make fuzz`.
FUZZ_SECONDS ?= 60

.PHONY: help lab lab-down lab-bench test bench fuzz needs test-needs root

help:
	@echo "make lab        build, and bring up a lab of nodes and pods on this machine"
	@echo "make lab-down   take the lab down"
	@echo "make lab-bench  measure the lab's pods beside the kernel's own VXLAN device"
	@echo "make test       run every test (as root: they make network namespaces)"
	@echo "make bench      run the benchmarks, and print one table of them"
	@echo "make fuzz       run every fuzz target for FUZZ_SECONDS"

# Asked for before anything is built. `sudo true` and not `sudo -v`: a rule without a password may cover commands only.
root:
	@[ -z "$(SUDO)" ] || sudo true || { \
		echo "network namespaces need root: run make as root, or as a user who may use sudo" >&2; \
		exit 1; \
	}

# Tools by the Debian package that has them; apt-get runs only if one is missing.
needs: root
	@command -v cargo >/dev/null || { \
		echo "cargo is not on the PATH: install Rust (https://rustup.rs) and open a new shell; with Rust in a user's home, run make as that user and without sudo, which make calls where it is needed" >&2; \
		exit 1; \
	}
	@missing=(); \
	have() { PATH="$$PATH:/usr/sbin:/sbin" command -v "$$1" >/dev/null || missing+=("$$2"); }; \
	have cc gcc; have ip iproute2; have ping iputils-ping; have ethtool ethtool; \
	[ -f /usr/include/stdio.h ] || missing+=(libc6-dev); \
	[ -f /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates); \
	if [ $${#missing[@]} -gt 0 ]; then \
		echo "installing: $${missing[*]}"; \
		$(SUDO) apt-get update -q; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$${missing[@]}"; \
	fi

# What the tests run beside it: a container runtime, the plugins that are chained behind ours, a reader of captures.
test-needs: needs
	@missing=(); \
	have() { PATH="$$PATH:/usr/sbin:/sbin" command -v "$$1" >/dev/null || missing+=("$$2"); }; \
	have containerd containerd; have ctr containerd; have runc runc; have busybox busybox-static; have iptables iptables; have tc iproute2; have tshark tshark; \
	[ -x /usr/lib/cni/portmap ] || missing+=(containernetworking-plugins); \
	if [ $${#missing[@]} -gt 0 ]; then \
		echo "installing: $${missing[*]}"; \
		$(SUDO) apt-get update -q; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$${missing[@]}"; \
	fi

lab: needs
	cargo build --release
	$(SUDO) $(TORTIE) lab up $(LAB)

lab-down: root
	$(SUDO) $(TORTIE) lab down

lab-bench: needs
	cargo build --release
	$(SUDO) $(TORTIE) lab bench $(BENCH)

# Built as the user, run as root: the namespace tests need it, and skip nothing.
test: test-needs
	cargo test --all-features --no-run
	$(if $(SUDO),sudo -E env "PATH=$$PATH" )cargo test --all-features

# Instructions are counted by valgrind. Built as the user; the daemon's own figures need root, for a network namespace.
bench: needs
	command -v valgrind >/dev/null || { $(SUDO) apt-get update -q; $(SUDO) apt-get install -q -y --no-install-recommends valgrind; }
	cargo bench --features testing --no-run
	cargo bench --features testing --bench calc --bench encap --bench fib --bench forward --bench instructions
	$(if $(SUDO),sudo -E env "PATH=$$PATH" )cargo bench --features testing --bench sync
	cargo bench --features testing --bench report

# On a stable toolchain: coverage without the address sanitizer, which only nightly has.
fuzz: needs
	command -v c++ >/dev/null || { $(SUDO) apt-get update -q; $(SUDO) apt-get install -q -y --no-install-recommends g++; }
	command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	cargo run --quiet --all-features --example fuzz-seeds
	cargo fuzz build -s none
	for target in $$(cargo fuzz list); do \
		cargo fuzz run -s none $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096; \
	done
