/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the relay's programs do alike for ARP and NDP: who asks, who waits for an answer, who is told. */
#ifndef AA_RELAY_H
#define AA_RELAY_H

#include "arp.h"
#include "maps.h"
#include "parse.h"

/* Who sent a 201, and what it asks about. */
struct asking {
	const struct node *node;
	const struct port *port;
	__u8 asker;
	__u8 slot;
};

#define ASKING_WELL (-1)

/* The reason not to serve it, or ASKING_WELL. `claim`: its target hardware address; `source`: the frame's. */
static __always_inline int who_asks(const struct config *conf, const __u8 *source, const __u8 *claim,
				    struct asking *asking)
{
	__u8 asker = claim[ASKER_BYTE];
	int slot = claim[SLOT_BYTE];
	const struct node *node;
	const struct port *port;

	if (asker >= AA_MAX_NODES || slot >= AA_MAX_PORTS)
		return ARP_MALFORMED;
	node = node_of(asker);
	port = slots.lookup(&slot);
	if (!conf || !node || node->hop == HOP_NONE || !same_mac(node->ha_mac, source))
		return ARP_STRANGER;
	asking->node = node;
	asking->port = port && port->ifindex ? port : 0;
	asking->asker = asker;
	asking->slot = slot;
	return ASKING_WELL;
}

/*
 * Over the HA link, twice: one frame lost in ten each way would have one session in a hundred end with "host unreachable",
 * since the kernel asks three times and then gives up.
 */
static __always_inline int send_twice(struct __sk_buff *skb, const struct config *conf)
{
	bpf_clone_redirect(skb, conf->ha_ifindex, 0);
	return bpf_redirect(conf->ha_ifindex, 0);
}

/* One more node waits for the answer. False: it has asked a moment ago, and this is the copy. */
static __always_inline bool note_asker(const struct question_key *key, __u8 asker)
{
	struct question fresh = {}, *question;
	__u64 now = bpf_ktime_get_ns();
	bool again = false;

	asker &= AA_MAX_NODES - 1;
	question = questions.lookup((struct question_key *)key);
	if (!is_open(question, now)) {
		fresh.asked_ns = now;
		questions.update((struct question_key *)key, &fresh);
		question = questions.lookup((struct question_key *)key);
	}
	if (!question)
		return true;
	if (now - question->asked_ns >= QUESTION_COPY_NS)
		question->asked_ns = now;
	else
		again = question->asker[asker];
	question->asker[asker] = 1;
	return !again;
}

/* Auxiliary: the open question that a 202 answers, or the reason to drop it. Its copy answers nothing. */
static __always_inline int take_answer(struct question *question, enum reason unasked)
{
	if (!is_open(question, bpf_ktime_get_ns()))
		return unasked;
	if (question->asker[ANSWERED])
		return RELAY_TWICE;
	question->asker[ANSWERED] = 1;
	return ASKING_WELL;
}

static __always_inline void tell_neighbour(const struct question_key *key, const __u8 *mac)
{
	struct event event = {.time_ns = bpf_ktime_get_ns(), .kind = EVENT_NEIGHBOUR, .slot = key->slot};

	__builtin_memcpy(event.address, key->target, 16);
	__builtin_memcpy(event.mac, mac, 6);
	events.ringbuf_output(&event, sizeof(event), 0);
}

/* The data interface that has this MAC, and its slot; 0 when there is none. */
static __always_inline const struct port *port_by_mac(const __u8 *mac, __u32 *slot)
{
	const struct port *port;
	int index;

	for (index = 0; index < AA_MAX_PORTS; index++) {
		int key = index;

		port = slots.lookup(&key);
		if (port && port->ifindex && same_mac(port->physical_mac, mac)) {
			*slot = index;
			return port;
		}
	}
	return 0;
}

#endif
