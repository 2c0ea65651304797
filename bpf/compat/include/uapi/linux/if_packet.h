/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The uapi header of linux-libc-dev, found further down the include path. */
#include_next <linux/if_packet.h>
