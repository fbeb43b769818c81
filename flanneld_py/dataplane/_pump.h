/* What the userspace UDP data path decides about packets. No descriptor, no global, no allocation, no Python:
 * functions on bounded buffers, which a fuzzer can drive.
 *
 * Terms
 *   packet        one inner IPv4 packet. As a datagram's whole payload it is the wire format.
 *   super-packet  what the kernel hands over a TUN device with IFF_VNET_HDR: one header and up to 64 KiB of payload,
 * with a
 *                 struct virtio_net_hdr that says how to cut it (TSO, USO) and what checksum is still to be written.
 *   segment       one of the packets that a super-packet is cut into.
 *   train         packets of one flow that leave as one super-packet.
 *   peer          a node that leases a subnet; its index in the table stands for it.
 *
 * Byte order: addresses, ports and lengths in the structures below are host integers; packets are in network order,
 * and are only read and written through memcpy, so nothing needs alignment.
 */
#ifndef FLANNELD_PUMP_H
#define FLANNELD_PUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Why a packet goes no further. The order is that of wire.Drop, which a test compares. */
enum pump_drop {
	PUMP_OK,
	PUMP_TRUNCATED,           /* shorter than an IPv4 header */
	PUMP_NOT_IPV4,            /* another version, IPv6 among them */
	PUMP_BAD_HEADER,          /* header length below 20 or beyond the packet */
	PUMP_BAD_LENGTH,          /* total length is not the packet's length */
	PUMP_BAD_CHECKSUM,        /* of the IPv4 header (RFC 1812 5.2.2) */
	PUMP_UNKNOWN_PEER,        /* outer source is no peer's address */
	PUMP_FOREIGN_SOURCE,      /* inner source is not behind that peer */
	PUMP_FOREIGN_DESTINATION, /* inner destination is not ours */
	PUMP_TTL_EXPIRED,
	PUMP_NO_ROUTE,
	PUMP_TOO_BIG,             /* for the way to the peer, and must not be fragmented */
	PUMP_BAD_OFFLOAD,         /* a virtio_net_hdr that does not fit its packet */
	PUMP_OVERSIZE,            /* a datagram longer than any packet */
	PUMP_SEND_FAILED,         /* the socket refused it */
	PUMP_WRITE_FAILED,        /* the TUN device refused it */
	PUMP_DROPS
};

static inline uint16_t pump_get16(const uint8_t *p)
{
	return (uint16_t)((unsigned)p[0] << 8 | p[1]);
}

static inline uint32_t pump_get32(const uint8_t *p)
{
	return (uint32_t)pump_get16(p) << 16 | pump_get16(p + 2);
}

static inline void pump_put16(uint8_t *p, uint16_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static inline void pump_put32(uint8_t *p, uint32_t value)
{
	pump_put16(p, (uint16_t)(value >> 16));
	pump_put16(p + 2, (uint16_t)value);
}

/* ---- table ------------------------------------------------------------------------------------------------------ */

#define PUMP_NO_PEER UINT32_MAX

enum pump_validation { PUMP_OFF, PUMP_LOOSE, PUMP_STRICT };

struct pump_peer {
	uint32_t address;
	uint16_t port;
	uint16_t mtu; /* largest packet that reaches the peer in one datagram */
};

/* Views into one image, laid out by lpm.py and never changed afterwards; a new table replaces it as a whole. */
struct pump_table {
	enum pump_validation validation;
	uint32_t own; /* our address on the TUN device: the source of ICMP errors */
	uint32_t peers, ranges, sources, locals;
	const uint64_t *source; /* sorted (outer source address << 32 | peer) */
	const uint32_t *first;  /* sorted; first[0] == 0. Range i ends where range i + 1 begins */
	const uint32_t *owner;  /* peer of range i, or PUMP_NO_PEER */
	const uint32_t *local;  /* sorted pairs (first, last) of the addresses behind us */
	const struct pump_peer *peer;
};

/* Read an image (lpm.py describes it) into @table, whose pointers stay in @image.
 * @image: aligned to 8 bytes
 *
 * Return: NULL, or what is wrong with the image; then @table must not be used.
 */
const char *pump_table_open(struct pump_table *table, const uint8_t *image, size_t size);

/* Return: the peer whose subnet is the longest that holds @address, or PUMP_NO_PEER. */
uint32_t pump_lookup(const struct pump_table *table, uint32_t address);

/* Return: whether any peer sends from the outer address @source. */
bool pump_knows_source(const struct pump_table *table, uint32_t source);

/* ---- one packet ------------------------------------------------------------------------------------------------- */

enum {
	PUMP_IPV4_MIN = 20,
	PUMP_PACKET_MAX = 65535,
	PUMP_VNET_SIZE = 10,
	PUMP_ICMP_MAX = 576, /* RFC 1812 4.3.2.3 */
	PUMP_HEADER_MAX = 120,
};

/* Return: PUMP_OK if @packet is a whole IPv4 packet of just @size bytes. The header checksum is looked at only when
 * @verify is set.
 */
enum pump_drop pump_check_ipv4(const uint8_t *packet, size_t size, bool verify);

/* Take one from the TTL and mend the header checksum (RFC 1624). The packet must have passed pump_check_ipv4().
 *
 * Return: false, and the packet untouched, if it must not be forwarded any more.
 */
bool pump_decrement_ttl(uint8_t *packet);

/* The pair of addresses accepted last. Zeroed at first, and whenever the table is another: packets come in runs, so
 * most need no look-up.
 */
struct pump_seen {
	bool valid;
	uint32_t outer, inner;
};

/* Decide about a datagram's payload that came from the outer address @outer; decrements its TTL.
 *
 * Return: PUMP_OK if the packet goes to the TUN device, else why not; a dropped packet is unchanged.
 */
enum pump_drop pump_inbound(const struct pump_table *table, struct pump_seen *seen, uint32_t outer, uint8_t *packet,
                            size_t size);

enum pump_icmp_kind { PUMP_NET_UNREACHABLE, PUMP_FRAGMENTATION_NEEDED, PUMP_TIME_EXCEEDED };

/* Write an ICMP error about @offender, as it was received, into @out.
 * @mtu: next-hop MTU of a PUMP_FRAGMENTATION_NEEDED (RFC 1191)
 *
 * Return: its size; 0 if no error may be sent about such a packet (RFC 1812 4.3.2.7).
 */
size_t pump_icmp(enum pump_icmp_kind kind, uint16_t mtu, uint32_t own, const uint8_t *offender, size_t size,
                 uint8_t out[PUMP_ICMP_MAX]);

/* A token bucket for ICMP errors. Zeroed, it is full. */
struct pump_bucket {
	uint64_t empty_at_ns; /* when an empty bucket began to fill: tokens are the time passed since then */
};

/* Return: whether one more error may be sent at @now_ns of a monotonic clock. */
bool pump_take_token(struct pump_bucket *bucket, uint64_t now_ns);

/* ---- segment ---------------------------------------------------------------------------------------------------- */

/* include/uapi/linux/virtio_net.h struct virtio_net_hdr, host order as a TUN device has it unless told otherwise */
struct pump_vnet {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
};
_Static_assert(sizeof(struct pump_vnet) == PUMP_VNET_SIZE, "the kernel's layout");

enum {
	PUMP_VNET_NEEDS_CSUM = 1,
	PUMP_VNET_NONE = 0,
	PUMP_VNET_TCPV4 = 1,
	PUMP_VNET_UDP_L4 = 5,
	PUMP_VNET_ECN = 0x80,
};

/* How a super-packet falls into segments. Each is `header` fresh bytes and a piece of the super-packet's payload. A
 * plain packet is one segment with `header` 0 and the whole packet as its payload.
 */
struct pump_cut {
	uint8_t *packet;
	uint32_t payload; /* bytes behind the header */
	uint32_t count;
	uint16_t header;
	uint16_t mss;
	uint16_t ip_header;
	bool tcp;
	uint32_t sum_from, sum_at; /* plain: where the checksum begins and where it is missing; sum_at 0: it is there */
	uint64_t ip_sum, l4_sum;   /* of the header without the fields that differ between segments */
};

/* Plan the segments of a packet that passed pump_check_ipv4(). Reads only.
 *
 * Return: PUMP_OK, or PUMP_BAD_OFFLOAD if @vnet does not fit the packet.
 */
enum pump_drop pump_plan_cut(struct pump_cut *cut, uint8_t *packet, size_t size, const struct pump_vnet *vnet);

/* Begin a planned cut, once the packet's header is final: a plain packet gets its missing checksum, in place. */
void pump_begin_cut(struct pump_cut *cut);

/* Write the header of segment @index < cut->count.
 * @header: cut->header bytes
 * @payload: where the segment's payload lies in the super-packet
 *
 * Return: the payload's size.
 */
size_t pump_cut_segment(const struct pump_cut *cut, uint32_t index, uint8_t *header, const uint8_t **payload);

struct pump_outbound {
	uint32_t peer;
	bool may_fragment; /* above the peer's MTU: the kernel fragments the datagram, so it cannot be in a train */
	struct pump_cut cut;
};

/* Decide about a packet read from the TUN device: where it goes and how it is cut. Decrements its TTL.
 *
 * Return: PUMP_OK, or why not; a dropped packet is unchanged. @out->peer is set for PUMP_TOO_BIG, too.
 */
enum pump_drop pump_outbound(const struct pump_table *table, uint8_t *packet, size_t size, const struct pump_vnet *vnet,
                             struct pump_outbound *out);

/* ---- merge ------------------------------------------------------------------------------------------------------ */

enum {
	PUMP_BATCH = 256,    /* packets that are looked at together */
	PUMP_FLOWS = 8,      /* trains open at a time: include/linux/netdevice.h MAX_GRO_SKBS */
	PUMP_UDP_COUNT = 64, /* packets in a UDP train: net/ipv4/udp_offload.c UDP_GRO_CNT_MAX */
};

enum pump_kind { PUMP_LONER, PUMP_TCP_TRAIN, PUMP_UDP_TRAIN };

struct pump_slice {
	uint8_t *bytes;
	uint32_t size;
	uint16_t next; /* index of the next packet in the train */
};

struct pump_train {
	uint16_t head, tail; /* indices of packets */
	uint16_t count;
	uint16_t header;     /* bytes in front of the payload; 0: not looked at */
	uint16_t mss;        /* payload of the first packet */
	uint8_t kind;
	uint8_t tail_flags;  /* FIN and PSH of the packets behind the first */
	uint32_t size;       /* of the super-packet */
	bool fixed_id;
};

/* Trains in the order in which their first packets came. All of the state of one batch; pump_merge_begin() makes it
 * ready.
 */
struct pump_merge {
	bool tcp, udp; /* which protocols may be merged */
	uint16_t packets, trains, opened;
	uint16_t open[PUMP_FLOWS]; /* indices of trains, oldest first */
	struct pump_slice packet[PUMP_BATCH];
	struct pump_train train[PUMP_BATCH];
};

void pump_merge_begin(struct pump_merge *merge, bool tcp, bool udp);

/* Add a packet that passed pump_check_ipv4(). It is borrowed until the batch is written.
 *
 * Return: false if the batch is full, and the packet was not added.
 */
bool pump_merge_add(struct pump_merge *merge, uint8_t *packet, size_t size);

/* Write vnet header and packet header of a train.
 * @out: PUMP_VNET_SIZE + PUMP_HEADER_MAX bytes
 *
 * Return: the bytes written, which are the vnet header and the first N bytes of every packet of the train at once. The
 * rest of the super-packet is each packet from byte N on, in order. N is 0 for a train of one packet.
 */
size_t pump_merge_header(const struct pump_merge *merge, const struct pump_train *train, uint8_t *out);

#endif
