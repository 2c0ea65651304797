/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Empty on purpose: bcc includes it and needs nothing of it. */
