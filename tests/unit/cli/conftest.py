# SPDX-License-Identifier: GPL-2.0-or-later
"""A configuration, the command, and an agent that answers from a table."""

import pytest
from click.testing import CliRunner

from aa_cluster.cli import aa_cluster
from tests.unit import agent_stub
from tests.unit.cli.answers import ANSWERS

CONFIG = """
[cluster]
id = 7
key_file = "{directory}/cluster.key"
[node]
name = "gw1"
[ha]
interface = "ha"
[data]
interfaces = ["int", "ext"]
virtual_macs = {{ int = "02:00:00:00:00:01" }}
[paths]
run = "{directory}"
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "aa-cluster.toml"
    path.write_text(CONFIG.format(directory=tmp_path))
    return path


@pytest.fixture
def call(config):
    """Runs the command line with the test's configuration."""
    return lambda *argv: CliRunner().invoke(aa_cluster, ["--config", str(config), *argv])


@pytest.fixture
def agent(tmp_path):
    with agent_stub.serving(tmp_path / "agent.sock", dict(ANSWERS)) as stub:
        yield stub
