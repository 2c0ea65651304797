/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pulses (docs/liveness.md): the primary asks each node on each of its links, the node's kernel answers at once. So a node
 * whose agent is busy or stopped is alive, and one that forwards no frame on some link is not, whatever its agent says.
 * A node that has heard nothing of the primary asks it in the same way, before it takes its place.
 */
#ifndef AA_PULSE_H
#define AA_PULSE_H

#include "hl.h"
#include "maps.h"

struct pulse_frame {
	struct hl_head head;
	__u8 link; /* slot of the data interface, or AA_HA_LINK */
	__u8 reserved[3];
	__be64 sequence;
	__be64 sent_ns;      /* the asker's clock, repeated by the answer */
	__be64 journal_head; /* see replica frames; 0 in an answer */
	__u8 tag[8];
};
_Static_assert(sizeof(struct pulse_frame) == 56, "the pulse is a wire format");

#define PULSE_WORDS ((sizeof(struct pulse_frame) - sizeof(((struct pulse_frame *)0)->tag)) / 8)

struct pulse_packet {
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
	struct pulse_frame frame;
} __attribute__((packed));

/* Pulses are few: the loop is not unrolled, as several programs have it. */
static __always_inline __u64 tag_of_pulse(const struct config *conf, const struct pulse_frame *frame)
{
	return siphash24_long(conf->replica_key, (const __u64 *)frame, PULSE_WORDS, PULSE_WORDS);
}

static __always_inline void seal_pulse(const struct config *conf, struct pulse_frame *frame)
{
	__u64 tag = tag_of_pulse(conf, frame);

	__builtin_memcpy(frame->tag, &tag, 8);
}

static __always_inline int store_pulse(struct __sk_buff *skb, const __u8 *to, const __u8 *from,
				       const struct pulse_frame *frame)
{
	struct pulse_packet packet;

	__builtin_memcpy(packet.destination, to, 6);
	__builtin_memcpy(packet.source, from, 6);
	packet.type = be16(ETH_P_HL);
	__builtin_memcpy(&packet.frame, frame, sizeof(*frame));
	return bpf_skb_store_bytes(skb, 0, &packet, sizeof(packet), 0);
}

static __always_inline struct pulse *pulse_of(__u8 node, __u32 link)
{
	__u32 index = (node & (AA_MAX_NODES - 1)) * AA_LINKS + link;

	return pulses.lookup(&index);
}

/* The tag last: it is the dearest check. PULSE_HEARD stands for "nothing wrong". */
static __always_inline enum reason inspect_pulse(const struct config *conf, const struct pulse_frame *frame, __u32 link)
{
	const struct hl_head *head = &frame->head;
	__u64 tag;

	if (head->magic != HL_MAGIC || head->version != HL_VERSION_1 || head->length != be16(sizeof(*frame)) ||
	    (head->kind != HL_KIND_PULSE && head->kind != HL_KIND_ANSWER) || head->cluster_id != be16(conf->cluster_id))
		return PULSE_MALFORMED;
	/* A new primary asks nodes that do not follow it yet: they can say that they live. */
	if (host32(head->generation) < conf->generation ||
	    (head->kind != HL_KIND_PULSE && head->generation != be32(conf->generation)))
		return PULSE_GENERATION;
	if (head->target != conf->self || head->sender >= AA_MAX_NODES || head->sender == conf->self || frame->link != link)
		return PULSE_STRANGER;
	__builtin_memcpy(&tag, frame->tag, 8);
	return tag == tag_of_pulse(conf, frame) ? PULSE_HEARD : PULSE_TAG;
}

/* A pulse that was sent again, by whomever, is neither noted nor answered. */
static __always_inline bool is_new(const struct pulse *row, __u32 generation, __u64 sequence)
{
	return generation > row->generation || (generation == row->generation && sequence > row->heard);
}

/* Out of the interface it came in on, which is where `link` begins. */
static __always_inline int answer_pulse(struct __sk_buff *skb, const struct config *conf, struct pulse_frame *frame,
					const __u8 *to, const __u8 *from)
{
	struct pulse *row = pulse_of(frame->head.sender, frame->link);

	if (frame->head.sender != conf->primary && conf->self != conf->primary &&
	    frame->head.generation == be32(conf->generation))
		return verdict(TC_ACT_SHOT, PULSE_STRANGER);
	if (!row || !is_new(row, host32(frame->head.generation), host64(frame->sequence)))
		return verdict(TC_ACT_SHOT, PULSE_OLD);
	row->heard = host64(frame->sequence);
	row->heard_ns = bpf_ktime_get_ns();
	row->generation = host32(frame->head.generation);

	frame->head.kind = HL_KIND_ANSWER;
	frame->head.target = frame->head.sender;
	frame->head.sender = conf->self;
	frame->journal_head = 0;
	seal_pulse(conf, frame);
	if (store_pulse(skb, to, from, frame))
		return verdict(TC_ACT_SHOT, PULSE_FAILED);
	count(PULSE_ANSWERED);
	return bpf_redirect(skb->ifindex, 0);
}

/* An answer counts once, and only to a pulse that was sent. */
static __always_inline int note_answer(const struct pulse_frame *frame)
{
	struct pulse *row = pulse_of(frame->head.sender, frame->link);
	__u64 sequence = host64(frame->sequence), now = bpf_ktime_get_ns();

	if (!row || sequence > row->sent || sequence <= row->answered)
		return verdict(TC_ACT_SHOT, PULSE_OLD);
	row->answered = sequence;
	row->answered_ns = now;
	row->rtt_ns = now - host64(frame->sent_ns);
	return verdict(TC_ACT_SHOT, PULSE_HEARD);
}

static __always_inline enum reason load_pulse(struct __sk_buff *skb, const struct config *conf, __u32 link,
					      struct pulse_frame *frame)
{
	if (bpf_skb_load_bytes(skb, ETH_HLEN, frame, sizeof(*frame)))
		return PULSE_MALFORMED;
	return inspect_pulse(conf, frame, link);
}

/* One that came in on `link`, from the MAC `peer`; `own` is this node's there. */
static __always_inline int take_pulse(struct __sk_buff *skb, const struct config *conf, __u32 link, const __u8 *peer,
				      const __u8 *own)
{
	struct pulse_frame frame;
	enum reason why = load_pulse(skb, conf, link, &frame);

	if (why != PULSE_HEARD)
		return verdict(TC_ACT_SHOT, why);
	if (frame.head.kind == HL_KIND_ANSWER)
		return note_answer(&frame);
	return answer_pulse(skb, conf, &frame, peer, own);
}

#endif
