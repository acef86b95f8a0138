# Atoll: `make help` lists what can be made.
BUILD := build

.PHONY: help up down deps build kernel guest test test-unit test-sdk bench bench-peers lint clean

help:
	@echo 'make up         install, build, start the service and prove it with a first sandbox (as root)'
	@echo 'make down       stop the service and all that belongs to it'
	@echo 'make deps       install what building and testing need (Debian 12, as root)'
	@echo 'make build      build all programs into $(BUILD)/bin'
	@echo 'make kernel     build the guest kernel, or find it in the cache'
	@echo 'make guest      build the root file systems of the templates, or find them in the cache'
	@echo 'make test       run all tests; starts the service for its part and ends it if it was not running'
	@echo 'make test-sdk E2B_REPO=CHECKOUT   run the suites of E2B itself against the running service'
	@echo 'make bench      measure the running service and write docs/benchmarks.md'
	@echo 'make bench-peers measure the monitor beside QEMU, Firecracker and kvmtool, those that are there'
	@echo 'make lint       warnings as errors with gcc and clang, formatting, cppcheck, layering'
	@echo 'make clean      remove $(BUILD)/'

up: build
	@./atoll up

down:
	@./atoll down

deps:
	@deps/install

$(BUILD)/release/build.ninja: | deps
	meson setup $(BUILD)/release --prefix=$(CURDIR)/$(BUILD) --bindir=bin >$(BUILD)-meson.log || { cat $(BUILD)-meson.log; exit 1; }
	@rm -f $(BUILD)-meson.log

build: deps $(BUILD)/release/build.ninja
	@meson compile -C $(BUILD)/release
	@meson install -C $(BUILD)/release --only-changed --quiet

kernel: deps
	@guest/kernel

guest: build
	@guest/build-rootfs base $(BUILD)/bin
	@guest/build-rootfs code-interpreter-v1 $(BUILD)/bin

bench: build
	@tests/bench/run

bench-peers: build
	@tests/bench/peers

test: build
	@tests/run

test-unit: deps
	@tests/unit/run

test-sdk: build
	@E2B_REPO='$(E2B_REPO)' tests/sdk/run

lint: deps
	@tests/lint

clean:
	rm -rf $(BUILD)
