# SPDX-License-Identifier: GPL-2.0-or-later
"""Exit codes, help, completion: what holds for every verb."""

import subprocess
import sys

import pytest

from aa_cluster import api
from aa_cluster.cli.group import VERBS
from aa_cluster.errors import BY_EXIT_CODE
from tests.unit.cli.answers import JOINED


@pytest.mark.parametrize("code", sorted(set(BY_EXIT_CODE) - {5}))
def test_every_error_keeps_its_exit_code(call, agent, code):
    agent.answers["/v1/status"] = api.Error(code=code, message="what was found", hint="what to do")
    result = call("status")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "error: what was found\n  what to do\n"


def test_an_answer_of_another_kind_is_refused(call, agent):
    agent.answers["/v1/status"] = JOINED
    result = call("status")
    assert result.exit_code == 4
    assert "the agent answered with Joined, expected Status" in result.stderr


def test_no_agent(call):
    result = call("nodes")
    assert result.exit_code == 4
    assert "no agent answers at" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(call, shell):
    assert "_AA_CLUSTER_COMPLETE" in call("completion", shell).stdout


def test_wrong_use_is_2(call):
    assert call("no-such-verb").exit_code == 2
    assert call("flows", "--address", "10.0.0.x").exit_code == 2
    assert call("flows", "--limit", "0").exit_code == 2


def test_help_names_every_verb_and_every_exit_code(call):
    text = call("--help").stdout
    for verb in VERBS:
        assert f"  {verb} " in text
    for code in BY_EXIT_CODE:
        assert f"  {code:2}  " in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(call, verb):
    result = call(verb, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: aa-cluster {verb}")


def test_help_starts_without_heavy_modules():
    probe = "import sys, aa_cluster.cli; print(*{'aiohttp', 'numpy', 'pyroute2', 'rich', 'bcc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_reader_that_leaves_is_no_error(config):
    with subprocess.Popen(
        [sys.executable, "-m", "aa_cluster", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
