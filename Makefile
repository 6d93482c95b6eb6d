# make run            one node in the foreground, its data in ./sofs-data (ARGS='--user me:secret ...')
# make test           everything continuous integration checks
# make lint           style, types and the import contract only
# make conformance    others' suites (pike, smbtorture, pynfs) against a node of its own; ARGS='smbtorture --only smb2.lock', ARGS=--forwarded
# make bench          sofs beside Samba and NFS-Ganesha, in one run
# make crash KILLS=N  kill -9 under verifying writers
# make soak SEEDS=N   whole clusters in simulation, with every fault
# make failover ROUNDS=N  a cluster of real processes, killed, stopped, cut off and robbed of etcd, disks and power under verifying writers (root)
# make mutations      production code broken on purpose, and how many seeds it takes to catch it
# make fuzz N=…       every decoder of bytes from a network or a disk
# make explore        the property tests with examples that nobody has tried yet
#
# Every target does its own set-up: the virtual environment in .venv, and for tests and benchmarks
# the Debian packages they drive. Stamp files under .venv make the second time quick.

SHELL = /bin/sh
BIN = .venv/bin
KILLS ?= 200
ROUNDS ?= 10
POINTS ?= 10000
SEEDS ?= 1000
N ?= 1000000
JOBS ?= 2

TEST_PACKAGES = etcd-server smbclient libnfs-utils qemu-utils qemu-block-extra iproute2 util-linux \
    qemu-system-x86 linux-image-cloud-amd64 busybox-static kmod cifs-utils nfs-common \
    fio xfsprogs attr acl strace keyutils samba-testsuite
BENCH_PACKAGES = samba nfs-ganesha nfs-ganesha-vfs rpcbind iproute2 util-linux

.PHONY: run test lint conformance bench crash soak mutations fuzz explore clean .venv

run: .venv/run-stamp
	@exec $(BIN)/sofs quickstart $(ARGS)

# Both halves always run, so that one failure does not hide another; pytest's summary comes last.
test: .venv/dev-stamp .venv/test-packages-stamp
	@status=0; $(MAKE) --no-print-directory lint || status=1; \
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(TESTS) || status=1; exit $$status

lint: .venv/dev-stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

conformance: .venv/dev-stamp .venv/test-packages-stamp
	@$(BIN)/python -m tests.conformance $(ARGS)

bench: .venv/dev-stamp .venv/bench-packages-stamp
	@$(BIN)/python -m bench $(ARGS)

crash: .venv/dev-stamp .venv/test-packages-stamp
	@$(BIN)/python -m tests.simulation.crash --points $(POINTS)
	@$(BIN)/python -m tests.interop.crash --kills $(KILLS)

soak: .venv/dev-stamp
	@$(BIN)/python -m tests.simulation.cluster.soak --seeds $(SEEDS)

failover: .venv/dev-stamp .venv/test-packages-stamp
	@$(BIN)/python -m tests.failover --rounds $(ROUNDS) $(ARGS)

mutations: .venv/dev-stamp
	@$(BIN)/python -m tests.simulation.cluster.mutations

fuzz: .venv/dev-stamp
	@$(BIN)/python -m tests.protocol.fuzz --inputs $(N)

explore: .venv/dev-stamp
	@SOFS_EXPLORE=1 $(BIN)/pytest -n $(JOBS) $$(grep -rl --include='test_*.py' hypothesis tests)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv: .venv/dev-stamp

.venv/run-stamp: pyproject.toml .ci/python
	@.ci/python
	@touch $@

# The developers' environment is also enough to run.
.venv/dev-stamp: pyproject.toml .ci/python
	@.ci/python dev
	@touch $@ .venv/run-stamp

.venv/test-packages-stamp: Makefile .ci/apt | .venv/dev-stamp
	@.ci/apt $(TEST_PACKAGES)
	@touch $@

.venv/bench-packages-stamp: Makefile .ci/apt | .venv/dev-stamp
	@.ci/apt $(BENCH_PACKAGES)
	@touch $@
