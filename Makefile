# Atoll: `make help` lists what can be made.
BUILD := build

.PHONY: help deps build kernel test test-unit lint clean

help:
	@echo 'make deps       install what building and testing need (Debian 12, as root)'
	@echo 'make build      build all programs into $(BUILD)/bin'
	@echo 'make kernel     build the guest kernel, or find it in the cache'
	@echo 'make test       build with ASan and UBSan and run the tests'
	@echo 'make lint       warnings as errors with gcc and clang, formatting, cppcheck, layering'
	@echo 'make clean      remove $(BUILD)/'

deps:
	@deps/install

$(BUILD)/release/build.ninja: | deps
	meson setup $(BUILD)/release --prefix=$(CURDIR)/$(BUILD) --bindir=bin >$(BUILD)-meson.log || { cat $(BUILD)-meson.log; exit 1; }
	@rm -f $(BUILD)-meson.log

build: deps $(BUILD)/release/build.ninja
	@meson compile -C $(BUILD)/release
	@meson install -C $(BUILD)/release --only-changed --quiet

kernel: deps
	@guest/build-kernel

test: build
	@tests/run

test-unit: deps
	@tests/unit/run

lint: deps
	@tests/lint

clean:
	rm -rf $(BUILD)
