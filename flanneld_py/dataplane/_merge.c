/* Packets of one flow become one super-packet, by the rules of the kernel's GRO and no looser.
 *
 * A packet joins the open train of its flow, or closes it and stands behind it: so the order in a flow never changes,
 * and trains leave in the order in which their first packets came. Rules, with where the kernel keeps them:
 *
 *   header 20 bytes, no options, no fragment, header checksum right      net/ipv4/af_inet.c inet_gro_receive
 *   TTL, TOS (DSCP and ECN) and DF as in the first packet                include/net/gro.h inet_gro_flush
 *   IP ID one more with every packet; or, with DF, always the same       include/net/gro.h inet_gro_flush
 *   length below 65,536                                                  net/core/gro.c skb_gro_receive
 *   TCP: checksum right                                                  net/ipv4/tcp_offload.c tcp4_gro_receive
 *   TCP: payload not empty, and not above the first packet's             tcp_gro_receive
 *   TCP: sequence follows; ACK, window, flags, options as in the first   tcp_gro_receive
 *   TCP: urgent pointer as in the first (the kernel does not look at it when URG is not set)
 *   TCP: URG, SYN, RST alone; FIN, PSH or a shorter payload end a train  tcp_gro_receive
 *   TCP: CWR alone. Older kernels let it come first only; newer ones ask it of all packets (Accurate ECN).
 *     A virtio_net_hdr cannot say which of the two was meant, so neither is merged.
 *   UDP: checksum there and right, length that of the packet             net/ipv4/udp_offload.c udp_gro_receive_segment
 *   UDP: payload not empty, not above the first; a shorter one ends it   udp_gro_receive_segment
 *   UDP: at most 64                                                      udp_gro_receive_segment
 *
 * A train with one ID for all (RFC 6864: with DF the ID means nothing) is cut with rising IDs when it is ever cut
 * again, since a virtio_net_hdr has no word for SKB_GSO_TCP_FIXEDID.
 */
#include "_pump.h"

#include "_checksum.h"

enum {
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	TCP_HEADER_MIN = 20,
	UDP_HEADER = 8,
	TCP_CHECK = 16,
	UDP_CHECK = 6,
	TCP_FLAGS = 13,
	TCP_URGENT = 18,
	TCP_FIN = 0x01,
	TCP_PSH = 0x08,
	TCP_ALONE = 0x02 | 0x04 | 0x20 | 0x80, /* SYN, RST, URG, CWR */
	FLAG_DF = 0x4000,
	NOT_PLAIN = 0xbfff, /* every bit of the fragment field but DF */
};

void pump_merge_begin(struct pump_merge *merge, bool tcp, bool udp)
{
	merge->tcp = tcp;
	merge->udp = udp;
	merge->packets = 0;
	merge->trains = 0;
	merge->opened = 0;
}

/* Sum over pseudo header and all behind the IP header: 0xffff for a right checksum. */
static bool l4_checksum_right(const uint8_t *packet, uint32_t size)
{
	uint8_t pseudo[4] = {0, packet[9], 0, 0};
	const uint32_t length = size - PUMP_IPV4_MIN;
	pump_put16(pseudo + 2, (uint16_t)length);
	const uint64_t sum = pump_sum(packet + 12, 8) + pump_sum(pseudo, 4) + pump_sum(packet + PUMP_IPV4_MIN, length);
	return pump_fold(sum) == 0xffff;
}

/* Return: bytes in front of the payload if the packet has readable ports, else 0. */
static uint16_t ports_header(const uint8_t *packet, uint32_t size)
{
	if (packet[0] != 0x45 || pump_get16(packet + 6) & NOT_PLAIN)
		return 0;
	if (packet[9] == PROTOCOL_UDP && size >= PUMP_IPV4_MIN + UDP_HEADER)
		return PUMP_IPV4_MIN + UDP_HEADER;
	if (packet[9] != PROTOCOL_TCP || size < PUMP_IPV4_MIN + TCP_HEADER_MIN)
		return 0;
	const uint32_t l4 = (uint32_t)(packet[PUMP_IPV4_MIN + 12] >> 4) * 4;
	return l4 >= TCP_HEADER_MIN && PUMP_IPV4_MIN + l4 <= size ? (uint16_t)(PUMP_IPV4_MIN + l4) : 0;
}

/* Whether a packet with readable ports may be in a train at all, its neighbours aside. */
static bool may_merge(const struct pump_merge *merge, const uint8_t *packet, uint32_t size, uint16_t header)
{
	const uint8_t *l4 = packet + PUMP_IPV4_MIN;
	if (size == header)
		return false;
	if (packet[9] == PROTOCOL_TCP) {
		if (!merge->tcp || l4[TCP_FLAGS] & TCP_ALONE)
			return false;
	} else {
		if (!merge->udp || pump_get16(l4 + 4) != size - PUMP_IPV4_MIN || pump_get16(l4 + UDP_CHECK) == 0)
			return false;
	}
	return pump_fold(pump_sum(packet, PUMP_IPV4_MIN)) == 0xffff && l4_checksum_right(packet, size);
}

static const uint8_t *head_of(const struct pump_merge *merge, const struct pump_train *train)
{
	return merge->packet[train->head].bytes;
}

static bool ids_fit(struct pump_train *train, const uint8_t *head, const uint8_t *packet)
{
	const uint16_t step = (uint16_t)(pump_get16(packet + 4) - pump_get16(head + 4));
	if (train->count == 1 && step == 0 && pump_get16(head + 6) & FLAG_DF) {
		train->fixed_id = true;
		return true;
	}
	return step == (train->fixed_id ? 0 : train->count);
}

static bool tcp_follows(const struct pump_train *train, const uint8_t *head, const uint8_t *packet)
{
	const uint8_t *first = head + PUMP_IPV4_MIN, *next = packet + PUMP_IPV4_MIN;
	const uint32_t sent = train->size - train->header;
	const size_t alike = train->header - (size_t)PUMP_IPV4_MIN - TCP_URGENT; /* urgent pointer and options */
	return pump_get32(next + 4) == pump_get32(first + 4) + sent &&           /* sequence */
	       memcmp(next + 8, first + 8, 5) == 0 &&                            /* ACK; header length, reserved, AE */
	       ((next[TCP_FLAGS] ^ first[TCP_FLAGS]) & ~(TCP_FIN | TCP_PSH)) == 0 &&
	       memcmp(next + 14, first + 14, 2) == 0 &&                          /* window */
	       memcmp(next + TCP_URGENT, first + TCP_URGENT, alike) == 0;
}

/* Whether a packet that may merge follows the train that is open for its flow. */
static bool joins(const struct pump_merge *merge, struct pump_train *train, const uint8_t *packet, uint32_t size,
                  uint16_t header)
{
	const uint8_t *head = head_of(merge, train);
	const uint32_t payload = size - header;
	if (header != train->header || payload > train->mss || train->size + payload > PUMP_PACKET_MAX)
		return false;
	if (packet[1] != head[1] || packet[8] != head[8] || (packet[6] ^ head[6]) & (FLAG_DF >> 8))
		return false;
	if (train->kind == PUMP_TCP_TRAIN && !tcp_follows(train, head, packet))
		return false;
	return ids_fit(train, head, packet);
}

static void close_at(struct pump_merge *merge, unsigned position)
{
	merge->opened--;
	memmove(merge->open + position, merge->open + position + 1, (merge->opened - position) * sizeof merge->open[0]);
}

/* Return: position in `open` of the train for the packet's flow, or PUMP_FLOWS. */
static unsigned find_flow(const struct pump_merge *merge, const uint8_t *packet)
{
	for (unsigned i = 0; i < merge->opened; i++) {
		const uint8_t *head = head_of(merge, &merge->train[merge->open[i]]);
		if (packet[9] == head[9] && memcmp(packet + 12, head + 12, 12) == 0) /* both addresses, both ports */
			return i;
	}
	return PUMP_FLOWS;
}

/* A packet whose ports cannot be read may belong to any flow between its two addresses. */
static void close_between(struct pump_merge *merge, const uint8_t *packet)
{
	for (unsigned i = merge->opened; i-- > 0;)
		if (memcmp(packet + 12, head_of(merge, &merge->train[merge->open[i]]) + 12, 8) == 0)
			close_at(merge, i);
}

static void append(struct pump_merge *merge, struct pump_train *train, uint16_t index, uint32_t payload)
{
	const uint8_t *packet = merge->packet[index].bytes;
	merge->packet[train->tail].next = index;
	train->tail = index;
	train->count++;
	train->size += payload;
	if (train->kind == PUMP_TCP_TRAIN)
		train->tail_flags = packet[PUMP_IPV4_MIN + TCP_FLAGS] & (TCP_FIN | TCP_PSH);
}

static void begin_train(struct pump_merge *merge, uint16_t index, uint16_t header, bool mergeable)
{
	const struct pump_slice *packet = &merge->packet[index];
	const bool tcp = packet->bytes[9] == PROTOCOL_TCP;
	const uint16_t at = merge->trains++;
	merge->train[at] = (struct pump_train){
		.head = index,
		.tail = index,
		.count = 1,
		.size = packet->size,
		.kind = PUMP_LONER,
	};
	if (!mergeable || (tcp && packet->bytes[PUMP_IPV4_MIN + TCP_FLAGS] & (TCP_FIN | TCP_PSH)))
		return;
	merge->train[at].header = header;
	merge->train[at].mss = (uint16_t)(packet->size - header);
	merge->train[at].kind = tcp ? PUMP_TCP_TRAIN : PUMP_UDP_TRAIN;
	if (merge->opened == PUMP_FLOWS)
		close_at(merge, 0);
	merge->open[merge->opened++] = at;
}

bool pump_merge_add(struct pump_merge *merge, uint8_t *packet, size_t size)
{
	if (merge->packets == PUMP_BATCH)
		return false;
	const uint16_t index = merge->packets++;
	const uint32_t bytes = (uint32_t)size;
	merge->packet[index] = (struct pump_slice){.bytes = packet, .size = bytes};

	const uint16_t header = ports_header(packet, bytes);
	if (header == 0) {
		close_between(merge, packet);
		begin_train(merge, index, 0, false);
		return true;
	}
	const bool mergeable = may_merge(merge, packet, bytes, header);
	const unsigned position = find_flow(merge, packet);
	if (position < PUMP_FLOWS) {
		struct pump_train *train = &merge->train[merge->open[position]];
		if (mergeable && joins(merge, train, packet, bytes, header)) {
			append(merge, train, index, bytes - header);
			if (bytes - header < train->mss || train->tail_flags != 0 ||
			    (train->kind == PUMP_UDP_TRAIN && train->count == PUMP_UDP_COUNT))
				close_at(merge, position);
			return true;
		}
		close_at(merge, position);
	}
	begin_train(merge, index, header, mergeable);
	return true;
}

size_t pump_merge_header(const struct pump_merge *merge, const struct pump_train *train, uint8_t *out)
{
	if (train->count == 1) {
		memset(out, 0, PUMP_VNET_SIZE);
		return PUMP_VNET_SIZE;
	}
	const bool tcp = train->kind == PUMP_TCP_TRAIN;
	const struct pump_vnet vnet = {
		.flags = PUMP_VNET_NEEDS_CSUM,
		.gso_type = tcp ? PUMP_VNET_TCPV4 : PUMP_VNET_UDP_L4,
		.hdr_len = train->header,
		.gso_size = train->mss,
		.csum_start = PUMP_IPV4_MIN,
		.csum_offset = tcp ? TCP_CHECK : UDP_CHECK,
	};
	memcpy(out, &vnet, PUMP_VNET_SIZE);

	uint8_t *packet = out + PUMP_VNET_SIZE, *l4 = packet + PUMP_IPV4_MIN;
	memcpy(packet, head_of(merge, train), train->header);
	pump_put16(packet + 2, (uint16_t)train->size);
	memset(packet + 10, 0, 2);
	uint16_t sum = (uint16_t)~pump_fold(pump_sum(packet, PUMP_IPV4_MIN));
	memcpy(packet + 10, &sum, 2);

	uint8_t pseudo[4] = {0, packet[9], 0, 0};
	const uint16_t length = (uint16_t)(train->size - PUMP_IPV4_MIN);
	pump_put16(pseudo + 2, length);
	if (tcp)
		l4[TCP_FLAGS] |= train->tail_flags;
	else
		pump_put16(l4 + 4, length);
	sum = pump_fold(pump_sum(packet + 12, 8) + pump_sum(pseudo, 4)); /* the kernel adds the rest */
	memcpy(l4 + (tcp ? TCP_CHECK : UDP_CHECK), &sum, 2);
	return PUMP_VNET_SIZE + train->header;
}
