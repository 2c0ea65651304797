// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * relinquish: XDP on the data interfaces of a node that was the primary a moment ago and handed its role over. Switches
 * may go on sending it what is for the virtual MAC until they have learned where that is now: such a frame goes to the new
 * primary, out of the interface it came in on, with this node's own MAC as source, so that no switch learns the virtual
 * MAC here again. Detached when nothing comes any more (docs/promotion.md).
 * Reads config, ports, nodes.
 */
#include <linux/bpf.h>

#include "maps.h"
#include "parse.h"

int relinquish(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	const struct config *conf = configuration();
	const struct port *port = port_of(ctx->ingress_ifindex);
	struct ethhdr *eth;

	if (parse_ethernet(&cursor, &eth) < 0 || !port || !conf || !same_mac(eth->h_dest, port->virtual_mac))
		return verdict(XDP_PASS, RELINQUISH_OTHER);
	copy_mac(eth->h_source, port->physical_mac);
	copy_mac(eth->h_dest, mac_of(node_of(conf->primary), port->slot));
	return verdict(XDP_TX, RELINQUISH_TX);
}
