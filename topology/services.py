# SPDX-License-Identifier: GPL-2.0-or-later
"""What hosts serve: an nginx of their own on port 80, over IPv4 and IPv6, which answers with who asked whom; and
names, for the tests that want them."""

from __future__ import annotations

from pathlib import Path

NGINX = """\
daemon off;
master_process off;
worker_rlimit_nofile 16384;
pid {run}/nginx.pid;
error_log {run}/nginx.error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {run}/body;
    proxy_temp_path {run}/proxy;
    fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi;
    scgi_temp_path {run}/scgi;
    keepalive_timeout 3600;
    keepalive_requests 1000000;
    default_type text/plain;
    server {{
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        location / {{ return 200 "{host} $server_addr:$server_port $remote_addr:$remote_port\\n"; }}
    }}
}}
"""


DNS_ZONE, DNS_ADDRESS = "lab.test", "192.0.2.53"
"""Each name under it has this address; ``traffic/dns.py`` asks for them."""


def nginx(run: Path, host: str) -> list[str]:
    """Write the configuration under ``run`` (made if missing); the command line that serves in the foreground."""
    run.mkdir(parents=True, exist_ok=True)
    config = run / "nginx.conf"
    config.write_text(NGINX.format(run=run, host=host))
    return ["nginx", "-e", str(run / "nginx.error.log"), "-p", str(run), "-c", str(config)]


def dnsmasq() -> list[str]:
    """The command line of a name server in the foreground, on port 53 of all addresses; no files, no other server."""
    silent = ("--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts", "--user=root")
    return ["dnsmasq", "--keep-in-foreground", *silent, f"--address=/{DNS_ZONE}/{DNS_ADDRESS}", "--cache-size=0"]
