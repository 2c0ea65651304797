#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Compiles every BPF program with plain clang and all warnings on. bcc's own map syntax is declared by bpf/compat/check.
set -eu
cd "$(dirname "$0")/.."
multiarch=$(/usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_config_var("MULTIARCH"))')
for program in bpf/*.bpf.c bpf/bench/*.bpf.c bpf/tests/*.bpf.c; do
	clang -target bpf -O2 -fsyntax-only -std=gnu11 -Wall -Wextra -Werror -Wshadow \
		-include bpf/compat/check/bcc.h -Ibpf/include -I/usr/include -I"/usr/include/$multiarch" "$program"
done
echo "bpf: $(ls bpf/*.bpf.c bpf/bench/*.bpf.c bpf/tests/*.bpf.c | wc -l) programs clean"
