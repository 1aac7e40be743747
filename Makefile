# SPDX-License-Identifier: MIT
#
## UPM: the one entry to build, test and install. Targets:
##
##   all         user space and the module for every kernel whose headers are installed
##   kmod        only the module: build/kmod/<release>/upm.ko
##   tests       what tests and benchmarks run, too (without running it)
##   test        unit tests here, then the test suite in a VM on 6.1 and 6.12
##   kmod-7.2    the module for the kernel of Debian sid, in a folder of sid (as root)
##   test-vm     only the suite in a VM (KERNEL=6.1, 6.12, 7.2 or debug; else 6.1 and 6.12)
##   test-long   the tests that take long (tests/preload/soak.py, tests/vm/suite.long), and
##               containers of containerd and Docker (as root; 700 MB in ~/.cache/upm, once)
##   test-programs  large programs under the hook, and with --layout keyed, do what they do
##               without (an hour; installs compilers of Go, Java and Rust: 1 GB)
##   test-packages  the Debian packages installed, upgraded and purged on Debian 12 and 13, and
##               their service run by a systemd of its own (as root; 2 GB in ~/.cache/upm, once)
##   test-first-hour  what an operator types in the first hour, in a Debian of its own, with
##               PyTorch in podman and a Prometheus (as root; 2 GB more; RECORD=1 writes
##               docs/first-hour.md)
##   test-debug  the suite on a kernel with KASAN, lockdep and page checks (built once)
##   lint        every static check (tools/dev/lint)
##   bench       benchmarks, in a VM
##   demo        N containers of a function, without and with UPM (N=16 MODEL=alexnet
##               or resnet50, BACKEND=auto); with KERNEL=6.1 in a VM with the module (N=4)
##   figures     the paper's evaluation on this system, with its numbers beside ours, as
##               SVG and a page in build/figures; an hour (ONLY=fig5, AGAIN=1, RECORD=1;
##               KERNEL=6.1: the module as well, in a VM)
##   docs        check that man pages render and links resolve
##   install     user space and man pages (PREFIX, DESTDIR)
##   uninstall   remove what install installed (DESTDIR)
##   gpu-bundle  build/gpu-bundle: a folder that measures sharing of GPU memory on a
##               machine with a GPU and nothing of ours (its run --help says how)
##   wheel       the Python package, with hook, broker and command, for any Linux with glibc
##               2.28: build/upm-<version>-<tags>.whl for each CPython 3.11 to 3.13 here
##   deb         Debian packages for this release: build/deb/*.deb
##   dkms        the module's source as /usr/src/upm-<version>, and build it if dkms is here
##   dkms-remove the module that DKMS built, for all kernels, and its source
##   clean       remove build/
##   help        this text
##
## Variables: PREFIX=/usr/local  DESTDIR=  JOBS=<cores>  N=  KERNEL=
##            ONLY=  AGAIN=  RECORD=
##            KERNELS=<releases to build the module for; default: all with headers>
##
## What is missing on a Debian system is installed by apt-get, saying so, when
## run as root or with sudo (tools/dev/deps); UPM_DEPS=skip turns that off.

PREFIX  ?= /usr/local
# A shell other than bash leaves the ~ of PREFIX=~/.local as it is.
override PREFIX := $(patsubst ~/%,$(HOME)/%,$(PREFIX))
DESTDIR ?=
JOBS    ?= $(shell nproc)
N       ?=
MODEL   ?= alexnet
BACKEND ?= auto
KERNEL  ?=
ONLY    ?=
AGAIN   ?=
RECORD  ?=
DEB_ARCH ?= amd64
# The kernel of Debian sid. When sid has gone on: make SID_KERNEL=7.3 kmod-7.3
SID_KERNEL ?= 7.2

BUILD   := build
SHELL   := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: all user kmod kmod-each kmod-debug kmod-$(SID_KERNEL) tests test test-vm \
	test-long test-programs test-packages test-first-hour test-debug lint bench demo figures \
	docs install uninstall wheel deb dkms dkms-remove gpu-bundle clean help

all: user kmod

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

# --- packages --------------------------------------------------------------

# One stamp for each group of tools/dev/deps.
deps = $(addprefix $(BUILD)/.deps/,$(1))

$(BUILD)/.deps/%: tools/dev/deps
	@mkdir -p $(@D)
	@tools/dev/deps $*
	@touch $@

# --- user space ------------------------------------------------------------

CMAKE_DIR := $(BUILD)/cmake

# All of them: a new one is no reason for ninja to look again.
CMAKE_LISTS = $(shell find . -path ./$(BUILD) -prune -o -name CMakeLists.txt -print)

# Without tests and benchmarks at first, which need more packages.
$(CMAKE_DIR)/build.ninja: $(CMAKE_LISTS) | $(call deps,user)
	@cmake -S . -B $(CMAKE_DIR) -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DCMAKE_INSTALL_PREFIX=$(PREFIX) \
		$(if $(wildcard $(CMAKE_DIR)/CMakeCache.txt),,-DUPM_BUILD_TESTS=OFF -DUPM_BUILD_BENCH=OFF)
	@touch $@

# With them from here on; `make` builds the targets `all` only, all the same.
# Again when other packages are wanted, which CMake then finds.
$(CMAKE_DIR)/.with-tests: tools/dev/deps | $(CMAKE_DIR)/build.ninja $(call deps,tests)
	@cmake -DUPM_BUILD_TESTS=ON -DUPM_BUILD_BENCH=ON $(CMAKE_DIR)
	@touch $@

build = @cmake --build $(CMAKE_DIR) -j $(JOBS)

user: $(CMAKE_DIR)/build.ninja
	$(build)

tests: $(CMAKE_DIR)/.with-tests $(CMAKE_DIR)/build.ninja
	$(build) --target all tests/all bench/all

# --- the module ------------------------------------------------------------

# Each kernel gets a copy of kmod/ to build in, so that releases do not clash
# and the source stays clean. What the build leaves there stays between runs.
# The probes come first and without the flags: a warning must not answer them.
KMOD_OUT   := $(BUILD)/kmod
KMOD_FLAGS := W=1 KCFLAGS=-Werror
KMOD_KEEP  := --exclude='.*' --exclude='*.o' --exclude='*.ko' --exclude='*.mod' \
	--exclude='*.mod.c' --exclude=Module.symvers --exclude=modules.order \
	--exclude=/compat/probed.h

# Headers packages, and what the running kernel has. Cloud and real-time
# flavours are built only when KERNELS names them. The debug kernel is built for
# once tests/vm/debug-kernel has made it.
RUNNING    := $(shell uname -r)
DEBUG_TREE  = $(shell tests/vm/debug-kernel --path 2>/dev/null)
headers     = $(if $(filter debug,$(1)),$(DEBUG_TREE),$(firstword $(wildcard \
	/usr/src/linux-headers-$(1) /lib/modules/$(1)/build)))
KERNELS    ?= $(sort $(filter-out %-cloud-$(DEB_ARCH) %-rt-$(DEB_ARCH), \
	$(patsubst /usr/src/linux-headers-%,%,$(wildcard /usr/src/linux-headers-*-$(DEB_ARCH)))) \
	$(if $(wildcard /lib/modules/$(RUNNING)/build),$(RUNNING))) $(if $(DEBUG_TREE),debug)

KMOD_SOURCES = $(shell find kmod -name '*.[ch]' ! -name '*.mod.c' ! -name probed.h \
	-o -name Kbuild -o -name Makefile -o -name probe -o -name dkms.conf)

# A second make, because it must look for headers after they were installed.
kmod: $(call deps,kernel)
	@$(MAKE) $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) --output-sync=recurse kmod-each

kmod-each: $(KERNELS:%=$(KMOD_OUT)/%/upm.ko)
	$(if $(KERNELS),@:,$(error no kernel headers in /usr/src or /lib/modules))

kmod-debug: $(call deps,debug)
	@tests/vm/debug-kernel --jobs $(JOBS)
	@$(MAKE) KERNELS=debug kmod-each

# Debian's kernel in development wants a newer compiler than the host's: the module
# is built in a folder of sid.
kmod-$(SID_KERNEL): $(call deps,sid)
	@tests/vm/sid-kernel $(SID_KERNEL) >/dev/null
	@out=$(KMOD_OUT)/$$(tests/vm/sid-kernel --release $(SID_KERNEL)); \
	mkdir -p $$out; \
	rsync -a --delete $(KMOD_KEEP) kmod/ $$out/; \
	tests/vm/sid-kernel --build $$out $(SID_KERNEL); \
	echo "built $$out/upm.ko"

# Module.symvers changes with a new package of the same kernel release.
.SECONDEXPANSION:
$(KMOD_OUT)/%/upm.ko: $(KMOD_SOURCES) Makefile $$(wildcard $$(call headers,$$*)/Module.symvers)
	$(if $(call headers,$*),,$(error no headers of kernel $*))
	@mkdir -p $(@D)
	@rsync -a --delete $(KMOD_KEEP) kmod/ $(@D)/
	@$(MAKE) -s -C $(@D) KDIR=$(call headers,$*) compat/probed.h
	@$(MAKE) -C $(call headers,$*) M=$(CURDIR)/$(@D) $(KMOD_FLAGS) modules
	@touch $@
	@echo "built $@"

# --- tests -----------------------------------------------------------------

TEST_KERNELS = $(or $(KERNEL),$(shell tools/dev/deps --kernels))
FOR_KERNEL  := $(if $(filter debug $(SID_KERNEL),$(KERNEL)),kmod-$(KERNEL))

test: tests kmod $(call deps,vm faas) $(FOR_KERNEL)
	@tests/run-steps scripts unit vm-self $(TEST_KERNELS:%=vm:%)

test-vm: tests kmod $(call deps,vm) $(FOR_KERNEL)
	@tests/run-steps $(TEST_KERNELS:%=vm:%)

test-long: tests kmod deb $(call deps,vm engines packages images advised) $(FOR_KERNEL)
	@[[ $$(id -u) -ne 0 ]] || tests/adopt/debian-folder base
	@tests/run-steps engines images soak $(TEST_KERNELS:%=long:%)

# Packages that Debian lacks: without them their tests are skipped, which exit status 4 says.
EXTRA_PYTHON := $(BUILD)/extra-python
$(EXTRA_PYTHON)/.done: | $(call deps,programs)
	@/usr/bin/python3 -m venv --system-site-packages $(EXTRA_PYTHON)
	@$(EXTRA_PYTHON)/bin/pip -q install safetensors onnx onnxruntime && touch $@ || \
		echo "no safetensors, onnx and onnxruntime: their tests will be skipped" >&2

test-programs: tests $(call deps,programs) $(EXTRA_PYTHON)/.done
	@PYTHON_EXTRA=$(abspath $(EXTRA_PYTHON))/bin/python3 tests/preload/programs_test.py || \
		[[ $$? -eq 4 ]]
	@tests/preload/layout_test.py Maps
	@JOBS=$(JOBS) tests/preload/real_programs.py

test-packages: deb $(call deps,packages)
	@for release in 12 13; do tests/adopt/debian-folder $$release; done
	@tests/adopt/packages_test.py
	@tests/adopt/service_test.py

test-first-hour: deb $(call deps,packages)
	@for what in 12 torch; do tests/adopt/debian-folder $$what; done
	@tests/adopt/first-hour $(if $(RECORD),--write)

test-debug: tests $(call deps,vm) kmod-debug
	@tests/run-steps vm:debug

bench: tests kmod $(call deps,vm) $(FOR_KERNEL)
	@bench/run $(if $(KERNEL),--kernel $(KERNEL))

# Builds no more than the demo runs: it is the first thing that people try.
demo: $(CMAKE_DIR)/build.ninja $(call deps,faas demo) $(if $(KERNEL),kmod $(call deps,vm)) \
		$(FOR_KERNEL)
	$(build) --target upm_command upm_preload upmd pss-report
	@faas-integration/demo --model $(MODEL) --backend $(BACKEND) $(if $(N),-n $(N)) \
		$(if $(KERNEL),--kernel $(KERNEL))

figures: $(CMAKE_DIR)/.with-tests $(CMAKE_DIR)/build.ninja $(call deps,faas demo) \
		$(if $(KERNEL),kmod $(call deps,vm)) $(FOR_KERNEL)
	$(build) --target upm_command upm_preload upmd pss-report upm-bench-store
	@bench/figures/run $(if $(ONLY),--only $(ONLY)) $(if $(AGAIN),--again) \
		$(if $(RECORD),--record) $(if $(KERNEL),--kernel $(KERNEL))

lint: tests kmod $(call deps,lint docs)
	@tools/dev/lint

docs: $(call deps,docs)
	@tools/dev/check-docs

# --- installation ----------------------------------------------------------

# What was installed, without DESTDIR. CMake's own list is that of its last run only,
# which may have been a test.
INSTALLED   ?= $(BUILD)/installed.txt
DKMS_VERSION = $(shell sed -n 's/^PACKAGE_VERSION="\{0,1\}\([^"]*\)"\{0,1\}$$/\1/p' kmod/dkms.conf)
DKMS_SOURCE  = $(DESTDIR)/usr/src/upm-$(DKMS_VERSION)

# The prefix is known to the build: it says where Python looks, and libupm for its broker.
install: $(CMAKE_DIR)/build.ninja
	@grep -qxF "CMAKE_INSTALL_PREFIX:PATH=$(PREFIX)" $(CMAKE_DIR)/CMakeCache.txt || \
		cmake -DCMAKE_INSTALL_PREFIX="$(PREFIX)" $(CMAKE_DIR) >/dev/null
	$(build)
	@DESTDIR="$(DESTDIR)" cmake --install $(CMAKE_DIR) --strip
	@sed '$$a\' $(CMAKE_DIR)/install_manifest.txt | \
		sort -u -o "$(INSTALLED)" - $(wildcard $(INSTALLED))
	@[[ -n "$(DESTDIR)" || $$(id -u) -ne 0 ]] || ldconfig

uninstall:
	$(if $(wildcard $(INSTALLED)),,$(error nothing was installed from here: no $(INSTALLED)))
	@tools/dev/uninstall "$(DESTDIR)" <"$(INSTALLED)"
	@[[ -n "$(DESTDIR)" ]] || rm "$(INSTALLED)"
	@[[ -n "$(DESTDIR)" || $$(id -u) -ne 0 ]] || ldconfig

gpu-bundle: $(CMAKE_DIR)/.with-tests $(CMAKE_DIR)/build.ninja
	$(build) --target upm_cuda_measure upm_cuda_fake upm_cuda_preload upm_cudad upm-cuda-tests
	@cuda-cow/measure/bundle $(BUILD)/gpu-bundle

# For each Python that is here; the tools of the build are pip's to fetch, nothing else.
wheel: $(CMAKE_DIR)/build.ninja $(call deps,user wheel)
	$(build) --target upm_preload
	@tools/dev/wheel

deb: $(call deps,user deb)
	@tools/dev/deb --jobs $(JOBS)

# The folder kmod/ is the DKMS source. With DESTDIR it is only copied.
dkms:
	$(if $(DKMS_VERSION),,$(error no PACKAGE_VERSION in kmod/dkms.conf))
	@mkdir -p "$(DKMS_SOURCE)"
	@rsync -a --delete $(KMOD_KEEP) --exclude=COPYING kmod/ "$(DKMS_SOURCE)/"
	@install -m 644 LICENSES/GPL-2.0-only.txt "$(DKMS_SOURCE)/COPYING"
	@echo "installed $(DKMS_SOURCE)"
	@if [[ -n "$(DESTDIR)" ]]; then :; \
	elif ! command -v dkms >/dev/null; then \
		echo "dkms is not installed. Run: apt-get install dkms, then make dkms"; \
	elif [[ -d /lib/modules/$(RUNNING)/build ]]; then \
		dkms install --force upm/$(DKMS_VERSION); \
	else \
		[[ -n $$(dkms status upm/$(DKMS_VERSION)) ]] || dkms add upm/$(DKMS_VERSION); \
		echo "not built: no headers of the running kernel $(RUNNING)"; \
	fi

# Of the version that this tree has. A module that is loaded stays so until the next start.
dkms-remove:
	$(if $(DKMS_VERSION),,$(error no PACKAGE_VERSION in kmod/dkms.conf))
	@if [[ -z "$(DESTDIR)" ]] && command -v dkms >/dev/null && \
			[[ -n $$(dkms status upm/$(DKMS_VERSION)) ]]; then \
		dkms remove upm/$(DKMS_VERSION) --all; \
	fi
	@rm -rf "$(DKMS_SOURCE)"
	@echo "removed $(DKMS_SOURCE)"

clean:
	rm -rf $(BUILD)
