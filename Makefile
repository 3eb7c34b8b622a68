# make demo  shows a pod from an image reference to an exit code     IMAGE=…  KEEP=1
# make test  runs formatting, lints, unit and integration tests
# make test-images  runs what real tools make of images (Debian 13's, in a tree) through pull, load,
#                   run and back
# make critest      runs the conformance suite with the default runtime   CRITEST=…  FOCUS=…
# make critest-all  the same with runc and with crun (CRIOXIDE_DEBIAN13=… for that of a Debian 13 tree)
# make kubelet-smoke KUBELET=…  runs a static pod by an unmodified kubelet 1.36
# make test-quotas  runs the tests of quotas on a user-mode kernel that has them
# make fuzz  runs every fuzz target for a while   SECONDS=… of each (600)
# demo and test install what they need on Debian 12 and 13, and say so first.

.PHONY: all demo test test-faults test-images critest critest-all kubelet-smoke check unit integration conformance test-node test-quotas setup release fuzz

all: setup
	@scripts/build >/dev/null

setup:
	@scripts/setup

release: setup
	@scripts/build --release

demo: setup
	@bin=$$(scripts/build --release) && exec $$bin/crioctl demo $(if $(IMAGE),--image $(IMAGE)) $(if $(KEEP),--keep)

test: setup check unit integration conformance

# Formatting and lints, where the tools are there: Debian's compiler may come without.
check:
	@if cargo fmt --version >/dev/null 2>&1; then cargo fmt --all --check; else echo "skipped: formatting (no rustfmt)"; fi
	@if cargo clippy --version >/dev/null 2>&1; then cargo clippy --locked --workspace --all-targets --features crioxide/faults -- -D warnings; else echo "skipped: lints (no clippy)"; fi
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check licenses bans sources; else echo "skipped: cargo deny (not installed)"; fi

unit:
	@scripts/build-static --debug >/dev/null
	cargo test --locked --workspace --exclude crioxide-tests --features crioxide/faults -q

integration:
	@bin=$$(scripts/build --faults) && CRIOXIDE_BIN_DIR=$$bin cargo test --locked -p crioxide-tests -q

# Every stage of every operation: failed, repeated, killed.
test-faults: setup
	@bin=$$(scripts/build --faults) && CRIOXIDE_BIN_DIR=$$bin CRIOXIDE_ALL_FAULTS=1 cargo test --locked -p crioxide-tests -q faults

# podman, skopeo, buildah and umoci of a Debian 13 tree, which is made where it is missing.
test-images: setup
	@bin=$$(scripts/build --faults) && export CRIOXIDE_DEBIAN13="$${CRIOXIDE_DEBIAN13:-$$PWD/.build/debian13}" && \
	scripts/in-debian13 -- true && \
	CRIOXIDE_BIN_DIR=$$bin cargo test --locked -p crioxide-tests -q image_matrix

# Needs a nightly compiler and cargo-fuzz; `make unit` feeds the same targets with any compiler.
fuzz:
	@scripts/fuzz $(SECONDS)

# With `make test` the suite runs where it is there; where it isn't, the script says so.
conformance:
	@scripts/critest || [ $$? = 3 ]

# The conformance suite is not ours: CRITEST names it, or it is in PATH (see README.md).
critest: setup
	@scripts/critest

critest-all: setup
	@scripts/critest runc && scripts/critest crun

# An unmodified kubelet is not ours either: KUBELET names it, or it is in PATH.
kubelet-smoke: setup
	@bin=$$(scripts/build --faults) && CRIOXIDE_BIN_DIR=$$bin $$bin/crioctl kubelet-smoke --kubelet "$${KUBELET:-$$(command -v kubelet)}"

# The tests of the whole on cgroup v2 alone, with AppArmor, with the systemd cgroup manager and with
# cgroupfs, in a guest: NODE_KVM=1 where KVM works, else it takes many times as long. With CRITEST=…
# the conformance suite runs there too; scripts/test-node tells what else may be picked.
test-node: setup
	@scripts/test-node $(TESTS)

# On Debian's user-mode kernel, which needs no virtual machine.
test-quotas: setup
	@scripts/test-quotas
