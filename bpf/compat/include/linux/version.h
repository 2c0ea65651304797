/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bcc asks for a kernel version; the programs depend on none, the loader looks capabilities up in BTF. */
#define LINUX_VERSION_CODE 0
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
