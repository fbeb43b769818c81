/* Datagrams on their way to the socket.
 *
 * A message is what one sendmsg() takes: one datagram, or a train of equal datagrams of which the last may be shorter
 * (UDP_SEGMENT). Trains go on across super-packets, so that 64 KiB of TCP do not become a long train and a stump. A
 * packet is only ever added to the newest message for its destination: so the order to a peer, and in a flow, never
 * changes.
 */
#ifndef FLANNELD_OUTBOX_H
#define FLANNELD_OUTBOX_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "_batchio.h"

enum {
	OUTBOX_HEADERS = 32 * 1024,
	OUTBOX_MESSAGES = 64,
	OUTBOX_TRAIN = 64,     /* datagrams: include/linux/udp.h UDP_MAX_SEGMENTS of the oldest kernels with UDP_SEGMENT */
	OUTBOX_BYTES = 65507,  /* of UDP payload in an IPv4 packet */
	OUTBOX_PIECES = 2 * OUTBOX_TRAIN,
};

struct outbox_message {
	uint32_t size;  /* of every datagram but the last */
	uint32_t bytes; /* in all */
	uint16_t count;
	uint16_t replayed; /* datagrams already sent one by one */
	bool refused;      /* as a train */
	bool open;         /* one more datagram may follow */
	bool retried;
};

union outbox_control {
	struct cmsghdr align;
	char space[CMSG_SPACE(sizeof(uint16_t))];
};

struct outbox {
	bool gso;
	unsigned built, sent; /* messages */
	size_t headers_used;
	struct outbox_message message[OUTBOX_MESSAGES];
	struct sockaddr_in to[OUTBOX_MESSAGES];
	union outbox_control control[OUTBOX_MESSAGES];
	struct mmsghdr header[OUTBOX_MESSAGES];
	struct iovec piece[OUTBOX_MESSAGES][OUTBOX_PIECES];
	uint8_t headers[OUTBOX_HEADERS];
};

/* A super-packet that is being cut. It is borrowed until every segment was sent. */
struct outbox_cut {
	struct pump_outbound packet;
	struct sockaddr_in to;
	uint32_t next; /* segment */
};

/* Turn segments into datagrams, from @cut->next on.
 *
 * Return: whether all of them are; else the box is full and must be flushed first.
 */
bool outbox_add(struct outbox *box, struct outbox_cut *cut);

/* Send everything, in order.
 *
 * Return: whether the box is empty; else the socket is full, and what it did not take is kept.
 */
bool outbox_flush(struct outbox *box, int sock, struct io_counters *counters);

#endif
