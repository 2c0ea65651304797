# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration and key: shown, checked, refused."""

import json

import pytest
from click.testing import CliRunner

from aa_cluster.cli import aa_cluster
from aa_cluster.config import load


def test_no_configuration(tmp_path):
    result = CliRunner().invoke(aa_cluster, [], env={"AA_CLUSTER_CONFIG": str(tmp_path / "none.toml")})
    assert result.exit_code == 3
    assert f"no configuration file at {tmp_path}/none.toml" in result.stderr


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('id = "x"', "$.cluster.id"),
        ("id = 0", "$.cluster.id"),
        ("id = 7\ncolour = 1", "colour"),
        ("id = ", "is not TOML"),
        ("id = 7\nkey_file = 3", "$.cluster.key_file"),
    ],
)
def test_configuration_errors_name_file_and_key(call, config, broken, said):
    config.write_text(config.read_text().replace("id = 7", broken).replace("key_file = 3\nkey_file", "key_file = 3\n#"))
    result = call("config", "check")
    assert result.exit_code == 3
    assert str(config) in result.stderr
    assert said in result.stderr


def test_accounting_is_on_or_off(call, config):
    before = config.read_text()
    config.write_text(before + "[flows]\naccounting = true\n")
    assert load(config).flows.accounting
    config.write_text(before + "[flows]\naccounting = 1\n")
    assert "$.flows.accounting" in call("config", "check").stderr


def test_config_show_is_read_back_as_equal(call, config, tmp_path):
    again = tmp_path / "again.toml"
    again.write_text(call("config", "show").stdout)
    assert load(again) == load(config)


def test_config_show_in_json(call):
    shown = json.loads(call("config", "show", "-j").stdout)
    assert (shown["version"], shown["kind"]) == (1, "config")
    assert shown["flows"]["accounting"] is False
    assert shown["ha"] == {
        "interface": "ha",
        "port": 4201,
        "heartbeat_ms": 500,
        "silent_ms": 1500,
        "pulse_ms": 60,
        "dead_ms": 150,
        "forget_s": 3600,
    }


def test_the_example_is_valid_and_shows_the_defaults(call, tmp_path):
    example = call("config", "show", "--example").stdout
    commented, plain = tmp_path / "commented.toml", tmp_path / "plain.toml"
    plain.write_text(example)
    commented.write_text(
        "\n".join(
            line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
            for line in example.splitlines()
        ).replace("virtual_macs = { eth0", "# virtual_macs = { eth0")
    )
    assert load(commented) == load(plain)


def test_config_check_looks_at_the_key(call, tmp_path):
    assert call("config", "check").exit_code == 3
    assert call("keygen").exit_code == 0
    assert call("config", "check").exit_code == 0
    (tmp_path / "cluster.key").chmod(0o644)
    result = call("config", "check")
    assert result.exit_code == 3
    assert f"chmod 600 {tmp_path}/cluster.key" in result.stderr


def test_keygen_makes_a_private_file_and_never_overwrites(call, tmp_path):
    path = tmp_path / "new.key"
    assert call("keygen", str(path)).exit_code == 0
    key = path.read_text()
    assert len(bytes.fromhex(key)) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    result = call("keygen", str(path))
    assert result.exit_code == 3
    assert "exists already" in result.stderr
    assert path.read_text() == key
