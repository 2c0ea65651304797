/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Why a packet was passed, steered, handed off, adopted, relayed, dropped or punted. One number, one per-CPU counter,
 * one line here; user space reads this very list (dataplane/reasons.py). Append only: a number is never used again.
 *
 *    R(number, NAME, program, verdict, "what happened")
 */
#ifndef AA_REASONS_H
#define AA_REASONS_H

#define AA_REASONS(R) \
	R(0, STEER_TX, steer, steer, "packet of a known flow sent on to its owner") \
	R(1, STEER_LOCAL, steer, pass, "packet of a flow this node owns") \
	R(2, STEER_MISS, steer, pass, "no such flow: the stack decides") \
	R(3, STEER_SYN, steer, pass, "a SYN goes through the ruleset, again if it is repeated") \
	R(4, STEER_NOT_OURS, steer, pass, "not addressed to the virtual MAC") \
	R(5, STEER_NOT_IPV4, steer, pass, "neither IPv4 nor IPv6") \
	R(6, STEER_OPTIONS, steer, pass, "IPv4 with options (counted no more: see STEER_OPTIONS_TX)") \
	R(7, STEER_FRAGMENT, steer, pass, "a later fragment whose first went to the stack, or has not come") \
	R(8, STEER_NOT_TCP, steer, pass, "neither TCP nor UDP nor an ICMP error: the primary's") \
	R(9, STEER_MALFORMED, steer, pass, "headers cut short or of impossible length") \
	R(10, STEER_NO_OWNER, steer, pass, "the flow's owner is not in the node map") \
	R(11, STEER_NOT_READY, steer, pass, "no configuration for this interface yet") \
	R(12, STEER_COLLISION, steer, pass, "shares a flow's fingerprint, not its tuple") \
	R(13, STEER_ICMP, steer, steer, "ICMP error about a known flow sent on to its owner") \
	R(14, STEER_ICMP_LOCAL, steer, pass, "ICMP error about a flow this node owns") \
	R(15, STEER_ICMP_MISS, steer, pass, "ICMP error about no known flow, or too short to tell") \
	R(86, STEER_FRAGMENT_FIRST, steer, steer, "first fragment of a known flow sent on to its owner") \
	R(87, STEER_FRAGMENT_LATER, steer, steer, "later fragment sent on behind its first") \
	R(88, STEER_FRAGMENT_LOCAL, steer, pass, "fragment of a flow this node owns") \
	R(89, STEER_FRAGMENT_EARLY, steer, pass, "first fragment behind a later one, which the stack has already") \
	R(90, STEER_TAGGED, steer, steer, "packet of a known flow sent on to its owner inside its VLAN tag") \
	R(91, STEER_OPTIONS_TX, steer, steer, "packet of a known flow with IPv4 options or IPv6 extension headers sent on to its owner") \
	R(65, STEER_EXTENSIONS, steer, pass, "IPv6 extension headers that end too early, or more than four") \
	R(16, HANDOFF_SENT, handoff, handoff, "SYN or first datagram handed off to an auxiliary with its block") \
	R(17, HANDOFF_AGAIN, handoff, handoff, "repeated SYN, or datagram before its flow is known everywhere, handed off to the same owner") \
	R(18, HANDOFF_LOCAL, handoff, pass, "SYN or first datagram that the schedule gives to this node, or datagram of a flow it owns") \
	R(19, HANDOFF_OTHER, handoff, pass, "neither a SYN nor a datagram that may begin a session") \
	R(20, HANDOFF_OWN, handoff, pass, "made by this node, not forwarded") \
	R(21, HANDOFF_ON_ITS_WAY, handoff, pass, "a handed-off packet leaving through its ingress interface") \
	R(22, HANDOFF_NOT_DATA, handoff, punt, "came in on an interface that is not a data interface") \
	R(23, HANDOFF_NO_ENTRY, handoff, punt, "no conntrack entry: the session is not tracked") \
	R(24, HANDOFF_HELPER, handoff, punt, "the session has a conntrack helper") \
	R(25, HANDOFF_NO_ROOM, handoff, punt, "no room for the block under the MTU") \
	R(26, HANDOFF_TABLE_FULL, handoff, punt, "flow table full") \
	R(27, HANDOFF_NO_OWNER, handoff, punt, "the owner is gone, the session stays here") \
	R(28, HANDOFF_UNSUPPORTED, handoff, punt, "a header that cannot be restored") \
	R(29, HANDOFF_FAILED, handoff, drop, "the packet could not be rewritten") \
	R(31, HANDOFF_UNPLACED, handoff, punt, "no free entry where the flow's hash points, or its fingerprint is taken") \
	R(30, HANDOFF_NOT_READY, handoff, punt, "no configuration or schedule yet") \
	R(32, HANDOFF_KEPT_BY_RULE, handoff, pass, "a policy rule keeps the session on the primary") \
	R(33, HANDOFF_KEPT_BY_DEFAULT, handoff, pass, "no policy rule matches, and the default keeps the session here") \
	R(34, HANDOFF_KEPT_BY_MARK, handoff, pass, "the ruleset's mark keeps the session on the primary") \
	R(35, HANDOFF_HALF_OPEN, handoff, punt, "half-open flows have used their share of the table") \
	R(36, HANDOFF_UNDER_WAY, handoff, pass, "inside a session that this node processes without a flow: it stays, and has one from now on") \
	R(96, HANDOFF_OPTIONS, handoff, punt, "IPv4 options that forwarding has changed, so that they cannot be restored, or IPv6 extension headers") \
	R(97, HANDOFF_TAGGED, handoff, punt, "leaves through a VLAN on top of a data interface") \
	R(68, HANDOFF_RACED, handoff, pass, "datagram that raced another of its session through this node: netfilter gave it an entry for one second") \
	R(110, HANDOFF_EXPECTED, handoff, pass, "a conntrack helper expected the session: it stays where its master is") \
	R(111, ADOPT_BY_AGENT, adopt, punt, "block verified, its helper needs an entry that the agent makes: it gets the SYN") \
	R(112, ADOPT_NO_AGENT, adopt, drop, "block with a helper, and the agent does not keep up, or is not there") \
	R(66, GUARD_UNKNOWN, adopt, relay, "datagram of a session without an entry here: back to the primary, which hands it off anew") \
	R(67, ADMIT_UNKNOWN, admit, punt, "an auxiliary has no entry for a UDP flow of its own: the flow is ended, the datagram begins anew") \
	R(40, ADOPT_NEW, adopt, adopt, "block verified, conntrack entry created") \
	R(41, ADOPT_AGAIN, adopt, adopt, "block verified, the entry was already there") \
	R(42, GUARD_PASS, adopt, pass, "packet of a connection this node has adopted") \
	R(43, GUARD_STRANGER, adopt, drop, "not sent by the primary") \
	R(44, GUARD_NOT_MINE, adopt, drop, "not addressed to this node") \
	R(45, GUARD_ARP, adopt, drop, "ARP on an auxiliary's data interface") \
	R(46, GUARD_NOT_IPV4, adopt, drop, "neither IPv4 nor IPv6") \
	R(47, GUARD_NOT_TCP, adopt, drop, "neither TCP nor UDP nor an ICMP error: never handed to an auxiliary") \
	R(48, GUARD_MALFORMED, adopt, drop, "headers cut short or of impossible length") \
	R(49, GUARD_NO_ENTRY, adopt, drop, "no conntrack entry for a packet inside a connection") \
	R(50, GUARD_NO_BLOCK, adopt, drop, "a new connection without a handoff block") \
	R(51, BLOCK_VERSION, adopt, drop, "handoff block of another version or length") \
	R(52, BLOCK_CLUSTER, adopt, drop, "handoff block of another cluster") \
	R(53, BLOCK_OLD, adopt, drop, "handoff block of another generation or an old epoch") \
	R(54, BLOCK_NODE, adopt, drop, "handoff block for another node or interface") \
	R(55, BLOCK_MALFORMED, adopt, drop, "handoff block with fields that make no sense") \
	R(56, BLOCK_TAG, adopt, drop, "handoff block whose tag is wrong") \
	R(57, ADOPT_CLASH, adopt, drop, "the conntrack entry could not be created: its NAT tuple is taken, or the table is full") \
	R(64, ADOPT_EVICTED, adopt, adopt, "block verified, entry created in the place of one that had its NAT tuple") \
	R(58, ADOPT_FAILED, adopt, drop, "the block could not be stripped") \
	R(59, GUARD_NOT_READY, adopt, drop, "no configuration for this interface yet") \
	R(92, GUARD_ICMP, adopt, pass, "ICMP error about a connection this node has adopted") \
	R(93, GUARD_ICMP_NO_ENTRY, adopt, drop, "ICMP error about no conntrack entry, or too short to tell") \
	R(94, GUARD_FRAGMENT, adopt, pass, "first fragment of a connection this node has adopted, or a later one") \
	R(70, ARP_ASKED, arp_relay, relay, "auxiliary: request sent to the primary as 201") \
	R(71, ARP_KEPT, arp_relay, drop, "auxiliary: other ARP kept off the data segment") \
	R(72, ARP_OUT, arp_relay, pass, "auxiliary: neither ARP nor NDP, leaves as it is") \
	R(73, ARP_FROM_CACHE, arp_relay, relay, "primary: 201 answered from the neighbour table") \
	R(74, ARP_ON_WIRE, arp_relay, relay, "primary: 201 asked on the wire") \
	R(75, ARP_ANSWERED, arp_relay, relay, "primary: answer from the wire sent as 202") \
	R(76, ARP_TAKEN, arp_relay, relay, "auxiliary: 202 given to the kernel") \
	R(77, ARP_UNASKED, arp_relay, drop, "202 without an open question") \
	R(78, ARP_STRANGER, arp_relay, drop, "201 from a node that is not in the node map") \
	R(79, ARP_ON_DATA, arp_relay, drop, "opcode 201 or 202 on a data interface") \
	R(80, ARP_NO_ROUTE, arp_relay, drop, "primary: target of a 201 is not on that segment") \
	R(81, ARP_MALFORMED, arp_relay, drop, "ARP frame cut short or of another kind") \
	R(82, ARP_OTHER, arp_relay, pass, "nothing for the relay") \
	R(83, ARP_MISPLACED, arp_relay, drop, "201 at an auxiliary or 202 at the primary") \
	R(84, ARP_FAILED, arp_relay, drop, "the frame could not be rewritten") \
	R(85, RELAY_TWICE, arp_relay, drop, "201 or 202 that came before: each is sent twice") \
	R(100, NDP_ASKED, arp_relay, relay, "auxiliary: neighbour solicitation sent to the primary as 201") \
	R(101, NDP_KEPT, arp_relay, drop, "auxiliary: other NDP, MLD and IPv6 multicast kept off the data segment") \
	R(102, NDP_FROM_CACHE, arp_relay, relay, "primary: 201 for IPv6 answered from the neighbour table") \
	R(103, NDP_ON_WIRE, arp_relay, relay, "primary: 201 for IPv6 asked on the wire") \
	R(104, NDP_ANSWERED, arp_relay, relay, "primary: neighbour advertisement from the wire sent as 202") \
	R(105, NDP_TAKEN, arp_relay, relay, "auxiliary: 202 given to the kernel as a neighbour advertisement") \
	R(106, NDP_UNASKED, arp_relay, drop, "202 for IPv6 without an open question") \
	R(107, NDP_NO_ROUTE, arp_relay, drop, "primary: target of a 201 for IPv6 is not on that segment") \
	R(108, GUARD_NDP, adopt, drop, "NDP or MLD on an auxiliary's data interface") \
	R(98, STEER_DATAGRAM, steer, steer, "UDP datagram of a known flow sent on to its owner") \
	R(99, STEER_EXPECTED, steer, steer, "SYN of a session that an auxiliary's helper expects, sent there") \
	R(60, GUARD_DATAGRAM, adopt, pass, "UDP datagram of a session this node has adopted, or began itself") \
	R(61, GUARD_EXPECTED, adopt, pass, "SYN of a session that a helper of this node expects") \
	R(62, ADOPT_REFUSED, adopt, drop, "SYN of a session of ours that the primary refuses: its tuple is another's") \
	R(63, ADOPT_ANOTHER_PORT, adopt, relay, "datagram of ours that the primary refuses, announced with another port") \
	R(120, ANNOUNCE_OUT, announce, pass, "nothing to announce, leaves as it is") \
	R(121, ANNOUNCE_FLOW, announce, relay, "a session that begins here, announced with its packet by way of the primary") \
	R(122, ANNOUNCE_EXPECTED, announce, relay, "an expected session, announced by way of the primary") \
	R(123, ANNOUNCE_NO_ENTRY, announce, pass, "own session without a conntrack entry: its answers will not find it") \
	R(124, ANNOUNCE_NO_ROOM, announce, pass, "no room for the block under the MTU: not announced") \
	R(125, ANNOUNCE_FAILED, announce, drop, "the packet could not be rewritten") \
	R(126, ANNOUNCE_TAGGED, announce, pass, "own session through a VLAN on top of a data interface: not announced") \
	R(127, ANNOUNCE_EXPECTATION, announce, relay, "what a helper expects, announced with the packet it read that in") \
	R(130, ADMIT_NEW, admit, relay, "announced session recorded, its packet sent on") \
	R(131, ADMIT_AGAIN, admit, relay, "packet of a session announced before, sent on") \
	R(132, ADMIT_EXPECTED, admit, relay, "expectation recorded, its packet sent on") \
	R(133, ADMIT_CLASH, admit, relay, "announced session's tuple is another's: refused, its node is told") \
	R(134, ADMIT_FULL, admit, drop, "no room in the flow table for an announced session") \
	R(135, ADMIT_STRANGER, admit, drop, "announcement that is not of a node of this cluster") \
	R(136, ADMIT_BLOCK, admit, drop, "announcement with a block of another version, cluster or generation, or that makes no sense") \
	R(137, ADMIT_TAG, admit, drop, "announcement whose tag is wrong") \
	R(138, ADMIT_MALFORMED, admit, drop, "announcement cut short") \
	R(139, ADMIT_FAILED, admit, drop, "the announcement could not be rewritten") \
	R(140, ADMIT_OTHER, admit, pass, "no announcement") \
	R(170, PULSE_SENT, pulse, relay, "pulse sent to a node, on one of its links") \
	R(171, PULSE_FAILED, pulse, drop, "pulse or answer that could not be made or sent") \
	R(172, PULSE_ANSWERED, pulse, relay, "pulse verified and answered") \
	R(173, PULSE_HEARD, pulse, relay, "answer to a pulse verified and noted") \
	R(174, PULSE_STRANGER, pulse, drop, "pulse or answer of or for another node, or of another link") \
	R(175, PULSE_GENERATION, pulse, drop, "pulse or answer of another generation") \
	R(176, PULSE_TAG, pulse, drop, "pulse or answer whose tag is wrong") \
	R(177, PULSE_OLD, pulse, drop, "pulse or answer that came before, or an answer to no pulse") \
	R(178, PULSE_MALFORMED, pulse, drop, "pulse or answer cut short, or of another version, kind or cluster") \
	R(179, PULSE_OTHER, pulse, pass, "no pulse") \
	R(190, MUTED, mute, drop, "this node was cut off and has not asked yet whether it is still the primary, or stands down") \
	R(189, STEER_HANDING_OVER, steer, drop, "SYN, or a dead node's datagram, at the moment in which another node becomes primary") \
	R(193, HANDOFF_HANDING_OVER, handoff, drop, "SYN or first datagram that was in the stack at the moment in which another node becomes primary") \
	R(194, ADMIT_HANDING_OVER, admit, drop, "own session announced at the moment in which another node becomes primary") \
	R(185, RELINQUISH_TX, relinquish, steer, "former primary: frame to a virtual MAC sent on to the new one") \
	R(186, RELINQUISH_OTHER, relinquish, pass, "former primary: not to a virtual MAC") \
	R(187, GUARD_VRRP, adopt, pass, "VRRP advertisement") \
	R(188, ADMIT_LATE, admit, pass, "addressed to the MAC this interface had, or is about to have") \
	R(150, REPLICA_SENT, compose, relay, "replica frame sent") \
	R(151, REPLICA_OUT, compose, pass, "nothing to be composed, leaves as it is") \
	R(152, REPLICA_NOTHING, compose, drop, "a replica frame was wanted, and nothing pended") \
	R(153, REPLICA_GONE, compose, drop, "asked for records again that the journal no longer names") \
	R(154, REPLICA_FAILED, compose, drop, "the replica frame could not be written") \
	R(155, REPLICA_TAKEN, mirror, relay, "replica frame applied to this node's flow table") \
	R(156, REPLICA_OTHER, mirror, pass, "no replica frame") \
	R(157, REPLICA_NOT_READY, mirror, drop, "no configuration yet, or the agent is at the table") \
	R(158, REPLICA_MALFORMED, mirror, drop, "replica frame of another version, or whose lengths make no sense") \
	R(159, REPLICA_STRANGER, mirror, drop, "replica frame of another cluster, not of the primary, or not for this node") \
	R(160, REPLICA_OLD, mirror, drop, "replica frame of another generation") \
	R(161, REPLICA_TAG, mirror, drop, "replica frame whose tag is wrong") \
	R(162, REPLICA_BUSY, mirror, drop, "another CPU was applying a frame for too long") \
	R(163, REPLICA_NO_ROOM, mirror, drop, "a record whose number or whose entries have no room in this node's table")

#define AA_REASON_COUNT 200

/* The map's value: one line holds what `steer` counts most. */
struct reasons {
	__u64 packets[AA_REASON_COUNT];
};

enum reason {
#define AA_REASON_ENUM(number, name, program, verdict, text) name = number,
	AA_REASONS(AA_REASON_ENUM)
#undef AA_REASON_ENUM
};

#endif
