# SPDX-License-Identifier: GPL-2.0-or-later
"""One node's agent: its configuration file, its process, its readiness. For the netns lab and for Mininet."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import aa_cluster
from aa_cluster.agent.client import AgentClient
from aa_cluster.api import Status
from aa_cluster.errors import AgentUnreachable, LabError
from aa_cluster.topology import processes
from aa_cluster.topology.deadline import until
from aa_cluster.topology.namespaces import enter

CLUSTER_ID = 77
CONFIG = """\
[cluster]
id = {cluster_id}
key_file = "{key}"

[node]
name = "{name}"

[ha]
interface = "{ha}"

[data]
interfaces = [{interfaces}]

[paths]
run = "{run}"
state = "{state}"
pins = "{pins}"

[log]
level = "info"
"""


@dataclass(frozen=True, slots=True)
class AgentSite:
    """Where an agent lives. ``namespace``: path of its network namespace; ``lab``: the mark its process carries."""

    lab: str
    name: str
    namespace: Path
    run: Path
    state: Path
    pins: Path
    key: Path

    @property
    def config(self) -> Path:
        return self.run / "aa-cluster.toml"

    @property
    def log(self) -> Path:
        return self.run / "agent.log"

    @property
    def pid_file(self) -> Path:
        return self.run / "lab-agent.pid"

    def client(self) -> AgentClient:
        return AgentClient(self.run / "agent.sock")

    def write_config(self, interfaces: tuple[str, ...], ha: str, extra: str = "") -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            CONFIG.format(
                cluster_id=CLUSTER_ID,
                key=self.key,
                name=self.name,
                ha=ha,
                interfaces=", ".join(f'"{interface}"' for interface in interfaces),
                run=self.run,
                state=self.state,
                pins=self.pins,
            )
            + extra
        )

    def pid(self) -> int | None:
        """Of the running agent (paused counts as running); None when it is not there."""
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if processes.alive(pid, self.lab) else None

    def condition(self) -> str:
        """``running``, ``paused`` or ``off``."""
        pid = self.pid()
        if pid is None:
            return "off"
        return "paused" if processes.stopped(pid) else "running"

    def start(self) -> None:
        """Start the agent, detached; returns at once (see ``wait_ready``)."""
        if self.pid() is not None:
            raise LabError(f"the agent of {self.name} runs already", "`aa-cluster lab status` shows it")
        argv = [*enter(self.namespace), sys.executable, "-m", "aa_cluster", "agent", "--config", str(self.config)]
        pid = processes.spawn(argv, environment(self.lab, self.config), self.log)
        self.pid_file.write_text(str(pid))

    def wait_ready(self, timeout: float) -> Status:
        """Until the socket answers; ``LabError`` with the end of the log when the process ends before."""
        return until(f"the agent of {self.name} to answer", self._answers, timeout)

    def _answers(self) -> Status | None:
        try:
            return self.status()
        except AgentUnreachable:
            if self.pid() is None:
                said = f"the agent of {self.name} ended; it said:\n{self.tail()}"
                raise LabError(said, f"all of it: {self.log}") from None
            return None

    def status(self) -> Status:
        answer = self.client().get("/v1/status", {})
        if not isinstance(answer, Status):
            raise LabError(f"the agent of {self.name} gave no status but {type(answer).__name__}")
        return answer

    def send(self, number: signal.Signals) -> None:
        """To the agent's process; ``LabError`` when there is none."""
        pid = self.pid()
        if pid is None:
            raise LabError(f"the agent of {self.name} does not run", "`aa-cluster lab revive` starts it")
        os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end; nothing when it is not there."""
        pid = self.pid()
        if pid is not None:
            processes.end([pid])
        self.pid_file.unlink(missing_ok=True)

    def tail(self, lines: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(nothing)"


def environment(lab: str, config: Path | None = None) -> dict[str, str]:
    """For any process of a lab: the mark, this interpreter's directory first in PATH, the node's configuration."""
    values = dict(os.environ)
    values.pop("AA_CLUSTER_CONFIG", None)
    values.pop("NOTIFY_SOCKET", None)
    values[processes.MARK] = lab
    values["PATH"] = f"{Path(sys.executable).parent}:{values.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
    values["PYTHONPATH"] = str(Path(aa_cluster.__file__).parent.parent)
    values["PYTHONUNBUFFERED"] = "1"
    if config is not None:
        values["AA_CLUSTER_CONFIG"] = str(config)
    return values
