# SPDX-License-Identifier: GPL-2.0-or-later
# setup: packages and virtual environment.  demo: the product on one machine.  test: everything.  check: under a minute.
# failover: every way a node can die, move or return, five times each.
# long: UDP, QUIC and DNS in full: a million datagrams, 100 MiB, 100,000 queries through every node.
# bench: what a packet, a session and a node cost, beside the alternatives.

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest

.PHONY: help setup demo test failover long check lint bench clean

help:
	@echo "make setup   install packages and make .venv (as root the first time; then instant)"
	@echo "make demo    three gateways in network namespaces, hundreds of sessions, what happened (root)"
	@echo "make test    every test (root; about half an hour)"
	@echo "make failover  every failover scenario ROUNDS=5 times under a thousand streams, its figures in a table (root)"
	@echo "make long    a million UDP datagrams, 100 MiB of QUIC, 100,000 DNS queries through every node (root)"
	@echo "make check   lint, types, BPF warnings, fast tests (under a minute)"
	@echo "make bench   measure ours and the alternatives into docs/bench (root; fifteen minutes on an idle machine)"
	@echo "make clean   remove what was built (a lab that was left behind: aa-cluster lab down)"

setup:
	@tools/setup.sh

demo: setup
	@$(PYTHON) tools/demo.py

test: setup
	@test "$$(id -u)" = 0 || { echo "make test makes network namespaces: run it as root" >&2; exit 1; }
	$(PYTEST)

ROUNDS := 5
failover: setup
	@test "$$(id -u)" = 0 || { echo "make failover makes network namespaces: run it as root" >&2; exit 1; }
	AA_FAILOVER_ROUNDS=$(ROUNDS) $(PYTEST) --timeout=900 tests/failover

LONG := AA_CLUSTER_DATAGRAMS=1000000 AA_CLUSTER_QUIC_MIB=100 AA_CLUSTER_QUERIES=100000
long: setup
	@test "$$(id -u)" = 0 || { echo "make long makes network namespaces: run it as root" >&2; exit 1; }
	$(LONG) $(PYTEST) tests/topology/test_udp.py tests/topology/test_quic.py tests/topology/test_dns.py

bench: setup
	@test "$$(id -u)" = 0 || { echo "make bench makes network namespaces: run it as root" >&2; exit 1; }
	$(PYTHON) -m tools.bench

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	@if [ -x tools/check-bpf.sh ]; then tools/check-bpf.sh; else echo "tools/check-bpf.sh: not there, BPF warnings unchecked"; fi

check: lint
	$(PYTEST) --quiet --timeout=20 -m "not slow" tests/unit tests/wire

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find aa_cluster tests tools topology -name __pycache__ -type d -prune -exec rm -rf {} +
