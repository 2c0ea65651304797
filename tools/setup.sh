#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Make this clone ready to run: Debian packages and the virtual environment .venv.
#
# A stamp in .venv holds the checksum of what set-up depends on, so that a second run has nothing to do.
# Needs root and the network the first time only.
set -eu
cd "$(dirname "$0")/.."

VENV=.venv
STAMP=$VENV/.set-up
POLICY=/usr/sbin/policy-rc.d

# python3-bpfcc: bcc, which does not come from PyPI.  linux-libc-dev: the uapi headers bcc reads.  clang: make check.
RUNTIME="python3 python3-venv python3-bpfcc linux-libc-dev nftables iptables conntrack iproute2 ethtool keepalived"
TRIALS="nginx-light dnsmasq-base vsftpd conntrackd iperf3 curl iputils-ping procps tshark tcpdump mininet bridge-utils clang ca-certificates"

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$1" >&2
    shift
    for line; do printf '  %s\n' "$line" >&2; done
    exit 1
}

fingerprint() { sha256sum tools/setup.sh pyproject.toml | sha256sum | cut -d' ' -f1; }

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing() {
    for package in $RUNTIME $TRIALS; do
        installed "$package" || printf '%s ' "$package"
    done
}

# Packages of daemons start them; nothing here wants that. Undone when the script ends, however it ends.
hold_services() {
    [ -e "$POLICY" ] && return 0
    trap 'rm -f "$POLICY"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
}

disable_new() {
    command -v systemctl >/dev/null || return 0
    for package in $1; do
        case $package in
        nginx-light) systemctl disable --quiet nginx.service 2>/dev/null || say "nginx.service could not be disabled" ;;
        vsftpd) systemctl disable --quiet vsftpd.service 2>/dev/null || say "vsftpd.service could not be disabled" ;;
        conntrackd) systemctl disable --quiet conntrackd.service 2>/dev/null || say "conntrackd.service could not be disabled" ;;
        keepalived) systemctl disable --quiet keepalived.service 2>/dev/null || say "keepalived.service could not be disabled" ;;
        esac
    done
}

install_packages() {
    wanted=$(missing)
    [ -n "$wanted" ] || return 0
    command -v apt-get >/dev/null || fail "these packages are missing, and there is no apt-get to install them:" "$wanted"
    [ "$(id -u)" = 0 ] || fail "these packages are missing, and only root can install them:" "$wanted" "run 'make setup' as root once"
    say "installing $wanted"
    hold_services
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -o Acquire::Retries=3 update >/dev/null || fail "apt-get update failed; still missing:" "$wanted" "check the network and /etc/apt/sources.list"
    # shellcheck disable=SC2086  # a list of words
    apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install --no-install-recommends $wanted >"$LOG" 2>&1 || {
        tail -n 20 "$LOG" >&2
        fail "apt-get could not install:" "$wanted" "the last lines it said are above"
    }
    disable_new "$wanted"
}

make_venv() {
    if [ ! -x "$VENV/bin/python" ] || ! grep -qi '^include-system-site-packages = true' "$VENV/pyvenv.cfg"; then
        say "making the virtual environment $VENV"
        rm -rf "$VENV"
        /usr/bin/python3 -m venv --system-site-packages "$VENV"
    fi
    say "installing the Python packages"
    "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet --retries 5 --editable '.[dev]' ||
        fail "pip could not install what pyproject.toml asks for" "check the network, or set PIP_INDEX_URL to a mirror"
    "$VENV/bin/python" -c 'import bcc' || fail "bcc cannot be imported by /usr/bin/python3" "apt-get install --reinstall python3-bpfcc"
}

[ -r "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ] && exit 0
LOG=$(mktemp)
install_packages
rm -f "$LOG"
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "/usr/bin/python3 is older than 3.11" "use Debian 12 or later"
make_venv
fingerprint >"$STAMP"
say "ready: $VENV/bin/aa-cluster"
