# SPDX-License-Identifier: GPL-2.0-or-later
"""What an agent of the tests answers: a cluster of two, one of them silent."""

from aa_cluster import api

NODES = tuple(
    api.NodeRow(
        id=number,
        name=f"gw{number}",
        role="primary" if number == 1 else "auxiliary",
        state=state,
        weight=weight,
        share=share,
        sessions=100 * number,
        last_heard=0.1 * (number - 1),
        ha_mac=f"02:00:00:00:00:0{number}",
        ha_address=f"10.77.0.10{number}",
        macs={"int": f"02:00:00:00:01:0{number}"},
        kernel="6.18",
    )
    for number, state, weight, share in ((1, "active", 1, 0.25), (2, "silent", 3, 0.75))
)
STATUS = api.Status(
    health="degraded",
    problems=("node gw2 is silent for 1.2 s",),
    name="gw1",
    node_id=1,
    role="primary",
    state="active",
    cluster_id=7,
    generation=3,
    epoch=5,
    schedule="weighted",
    uptime=3700,
    interfaces=(
        api.Interface(
            name="int",
            slot=0,
            mac="02:aa:00:07:00:00",
            physical_mac="02:00:00:00:01:01",
            virtual_mac="02:aa:00:07:00:00",
            addresses=("10.77.1.1/24",),
            xdp="native",
        ),
    ),
    nodes=NODES,
    flows=12,
    flow_capacity=262144,
)
FLOWS = api.Flows(
    total=40,
    flows=(
        api.FlowRow(
            family="ipv4",
            protocol="tcp",
            source="10.77.1.100",
            source_port=40000,
            destination="10.77.2.100",
            destination_port=80,
            reply_source="10.77.2.100",
            reply_source_port=80,
            reply_destination="10.77.2.1",
            reply_destination_port=1024,
            owner=2,
            owner_name="gw2",
            state="established",
            mark=255,
            age=75,
            idle=0.5,
        ),
    ),
)
STATS = api.Stats(
    reasons=(
        api.ReasonRow(name="steered", program="steer", verdict="steer", packets=9000, text="to its owner"),
        api.ReasonRow(name="bad_tag", program="adopt", verdict="drop", packets=0, text="the tag is wrong"),
    )
)
ARP = api.Arp(
    open=(api.ArpQuestion(interface="ext", target="10.77.2.100", asked_by=(2, 3), age=0.2),),
    answered_from_cache=5,
    answered_from_wire=6,
    relayed=11,
    refused=0,
)
SICK = api.Doctor(
    checks=(
        api.Check(name="kernel", result="pass", found="Linux 6.18"),
        api.Check(name="ip_forward", result="fail", found="forwarding is off", fix="sysctl net.ipv4.ip_forward=1"),
    )
)
JOINED = api.Joined(node_id=2, role="auxiliary", primary="gw1", generation=3)
ANSWERS = {
    "/v1/status": STATUS,
    "/v1/nodes": api.Nodes(nodes=NODES),
    "/v1/flows": FLOWS,
    "/v1/stats": STATS,
    "/v1/arp": ARP,
    "/v1/doctor": SICK,
    "/v1/join": JOINED,
    "/v1/leave": [
        api.Leaving(sessions=2, done=False),
        api.Leaving(sessions=2, done=False),
        api.Leaving(sessions=0, done=True, detached=("int", "ext")),
    ],
    "/v1/weight": api.WeightSet(nodes=NODES),
    "/v1/drain": api.Drained(nodes=NODES),
    "/v1/undrain": api.Drained(nodes=NODES),
    "/v1/schedule": api.Schedule(
        schedule="random",
        configured="weighted",
        nodes=(api.ScheduleRow(id=1, name="gw1", state="draining", weight=1, share=0.25, sessions=40),),
    ),
    "/v1/policy": api.Policy(
        rules=(api.PolicyRow(number=1, action="keep", text="keep ports 80", hits=12),),
        built_in=(api.PolicyRow(number=1, action="keep", text="keep protocol udp, ports 53", hits=21),),
        default="share",
        default_hits=34,
        keep_mark="0x1/0x1",
        keep_mark_in_use=True,
        keep_mark_hits=56,
    ),
    "/v1/policy/check": api.PolicyChecked(
        action="keep",
        interface="int",
        rule=2,
        why="rule 2 matches: keep ports 80",
        mismatches=("rule 1 does not match: port 80 is not in ports",),
        notes=("a session with a conntrack helper stays",),
    ),
    "/v1/policy/reload": api.PolicyReloaded(path="/etc/x", changes=("- rule 1: keep everything",), not_taken=("ha",)),
    "/v1/persist": api.Persist(
        enabled=True,
        idle=300,
        size=65536,
        hits=7,
        misses=8,
        removed=1,
        total=3,
        entries=(api.PersistRow(address="10.0.0.1", node=2, node_name="gw2", idle=61),),
    ),
    "/v1/events": [
        api.Event(time=1.5, event="drain", node="gw2", text="gw2 gets no new sessions, by order"),
        api.Event(time=2.25, event="dropped", text="3 events were left out here", detail={"count": "3"}),
    ],
    "/v1/top": api.Top(
        interval=1.0,
        kinds={"tcp/ipv4": 80, "udp/ipv6": 27},
        nodes=(
            api.LoadRow(
                id=1,
                name="gw1",
                role="primary",
                state="active",
                sessions=100,
                begun=2.5,
                packets=123456.0,
                octets=7.5e7,
                reasons={"STEER_TX": 100000.0, "A": 3.0, "B": 2.0, "C": 1.0},
            ),
            api.LoadRow(id=2, name="gw2", role="auxiliary", state="silent", sessions=7, begun=0.0),
        ),
        flows=107,
        flow_capacity=262144,
    ),
}
