/* Random packets, and what must become of them; for the fuzzers in this folder. What is compared with the code under
 * test is computed here in the plainest way.
 */
#ifndef FLANNELD_FUZZ_TRAFFIC_H
#define FLANNELD_FUZZ_TRAFFIC_H

#include <stdio.h>
#include <stdlib.h>

#include "_pump.h"

#define CHECK(condition)                                                                              \
	do {                                                                                          \
		if (!(condition)) {                                                                   \
			fprintf(stderr, "round %lu: line %d: %s\n", current_round, __LINE__, #condition); \
			abort();                                                                      \
		}                                                                                     \
	} while (0)

static unsigned long current_round;
static uint64_t random_state;

static inline uint32_t draw(uint32_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 32) % below;
}

static inline bool one_in(uint32_t n)
{
	return draw(n) == 0;
}

/* ---- the plainest checksum -------------------------------------------------------------------------------------- */

static inline uint32_t plain_sum(uint32_t sum, const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		sum += i & 1 ? bytes[i] : (uint32_t)bytes[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

static inline uint32_t l4_sum(const uint8_t *packet, size_t size)
{
	const size_t header = (size_t)(packet[0] & 15) * 4, length = size - header;
	const uint8_t pseudo[4] = {0, packet[9], (uint8_t)(length >> 8), (uint8_t)length};
	return plain_sum(plain_sum(plain_sum(0, packet + 12, 8), pseudo, 4), packet + header, length);
}

static inline void complete(uint8_t *packet, size_t size)
{
	const size_t header = (size_t)(packet[0] & 15) * 4;
	pump_put16(packet + 2, (uint16_t)size);
	pump_put16(packet + 10, 0);
	pump_put16(packet + 10, (uint16_t)~plain_sum(0, packet, header));
	const size_t at = header + (packet[9] == 6 ? 16 : 6);
	if ((packet[9] != 6 && packet[9] != 17) || at + 2 > size)
		return;
	if (packet[9] == 17)
		pump_put16(packet + header + 4, (uint16_t)(size - header));
	pump_put16(packet + at, 0);
	const uint16_t sum = (uint16_t)~l4_sum(packet, size);
	pump_put16(packet + at, sum == 0 && packet[9] == 17 ? 0xffff : sum);
}

/* ---- traffic ---------------------------------------------------------------------------------------------------- */

struct flow {
	uint8_t protocol, sport, options;
	uint16_t id, payload;
	uint32_t sequence;
	bool df, fixed_id;
};

static inline struct flow new_flow(void)
{
	static const uint16_t sizes[] = {1, 2, 31, 64, 65, 127, 128, 129, 500};
	return (struct flow){
		.protocol = (const uint8_t[]){6, 6, 6, 17, 17, 1}[draw(6)],
		.sport = (uint8_t)draw(3),
		.options = (uint8_t)(one_in(3) ? 12 : 0),
		.id = (uint16_t)draw(65536),
		.payload = sizes[draw(sizeof sizes / sizeof sizes[0])],
		.sequence = one_in(4) ? 0xffffff80u : draw(1000),
		.df = !one_in(3),
		.fixed_id = one_in(4),
	};
}

/* Return: a heap block of just the packet, whose size goes to @size. */
static inline uint8_t *next_packet(struct flow *flow, size_t *size, size_t payload)
{
	const size_t l4 = flow->protocol == 6 ? 20u + flow->options : 8;
	*size = 20 + l4 + payload;
	uint8_t *packet = calloc(1, *size);
	packet[0] = 0x45;
	packet[6] = flow->df ? 0x40 : 0;
	packet[8] = 64;
	packet[9] = flow->protocol;
	pump_put16(packet + 4, flow->id);
	pump_put32(packet + 12, 0x0af40202);
	pump_put32(packet + 16, 0x0af40102);
	packet[21] = flow->sport;
	packet[23] = 9;
	if (flow->protocol == 6) {
		pump_put32(packet + 24, flow->sequence);
		packet[32] = (uint8_t)(l4 / 4 << 4);
		packet[33] = 0x10;
	}
	for (size_t i = 20 + l4; i < *size; i++)
		packet[i] = (uint8_t)draw(256);
	flow->sequence += (uint32_t)payload;
	flow->id = (uint16_t)(flow->id + !flow->fixed_id);
	return packet;
}

static inline void spoil(uint8_t *packet, size_t *size, bool whole)
{
	for (uint32_t n = 1 + draw(3); n > 0; n--)
		packet[draw((uint32_t)(one_in(2) && *size > 44 ? 44 : *size))] ^= (uint8_t)(1u << draw(8));
	if (whole && one_in(2)) { /* still true, but different */
		packet[0] = 0x45;
		complete(packet, *size);
	}
	if (!whole && one_in(4))
		*size = draw((uint32_t)*size + 1);
}

static inline uint8_t *exact_copy(const uint8_t *bytes, size_t size)
{
	uint8_t *copy = malloc(size); /* of size 0, too: any access to it is an error */
	if (size)
		memcpy(copy, bytes, size);
	return copy;
}

/* ---- what came in must come out --------------------------------------------------------------------------------- */

enum { LIST_MAX = 1024 };

struct list {
	uint8_t *bytes[LIST_MAX];
	size_t size[LIST_MAX];
	bool taken[LIST_MAX];
	unsigned count;
};

static inline bool same_but_atomic_id(const uint8_t *a, const uint8_t *b, size_t size)
{
	if (!(a[6] & 0x40))
		return memcmp(a, b, size) == 0;
	return memcmp(a, b, 4) == 0 && memcmp(a + 6, b + 6, 4) == 0 && memcmp(a + 12, b + 12, size - 12) == 0;
}

static inline bool same_flow(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size)
{
	const bool ports = a_size >= 24 && b_size >= 24 && a[0] == 0x45 && b[0] == 0x45 && !(pump_get16(a + 6) & 0xbfff) &&
	                   !(pump_get16(b + 6) & 0xbfff) && (a[9] == 6 || a[9] == 17);
	return a[9] == b[9] && memcmp(a + 12, b + 12, 8) == 0 && (!ports || memcmp(a + 20, b + 20, 4) == 0);
}

/* The piece must be the oldest packet of its flow that did not come out yet. */
static inline void expect_next(struct list *in, const uint8_t *piece, size_t size)
{
	for (unsigned i = 0; i < in->count; i++) {
		if (in->taken[i] || !same_flow(in->bytes[i], in->size[i], piece, size))
			continue;
		CHECK(in->size[i] == size);
		CHECK(same_but_atomic_id(in->bytes[i], piece, size));
		in->taken[i] = true;
		return;
	}
	CHECK(false && "a packet that never came in");
}

static inline void cut_again(struct list *in, const uint8_t *frame, size_t size)
{
	struct pump_vnet vnet;
	struct pump_cut cut;
	memcpy(&vnet, frame, sizeof vnet);
	uint8_t *packet = exact_copy(frame + PUMP_VNET_SIZE, size - PUMP_VNET_SIZE);
	CHECK(pump_check_ipv4(packet, size - PUMP_VNET_SIZE, false) == PUMP_OK);
	CHECK(pump_plan_cut(&cut, packet, size - PUMP_VNET_SIZE, &vnet) == PUMP_OK);
	pump_begin_cut(&cut);
	for (uint32_t i = 0; i < cut.count; i++) {
		uint8_t piece[PUMP_PACKET_MAX];
		const uint8_t *payload;
		const size_t payload_size = pump_cut_segment(&cut, i, piece, &payload);
		memcpy(piece + cut.header, payload, payload_size);
		expect_next(in, piece, cut.header + payload_size);
	}
	free(packet);
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

static inline size_t make_image(uint8_t *image, uint32_t validation)
{
	const uint32_t head[8] = {0x31544c46, validation, 0x0af40100, 2, 5, 2, 1, 0};
	const uint64_t sources[2] = {(uint64_t)0xc0a80002 << 32, (uint64_t)0xc0a80003 << 32 | 1};
	const uint32_t firsts[5] = {0, 0x0af40200, 0x0af40300, 0x0af40400, 0x0af50000};
	const uint32_t owners[5] = {PUMP_NO_PEER, 0, 1, 0, PUMP_NO_PEER};
	const uint32_t local[2] = {0x0af40100, 0x0af401ff};
	const struct pump_peer peers[2] = {{0xc0a80002, 8285, 1472}, {0xc0a80003, 8285, 600}};
	size_t at = 0;
#define PUT(part) (memcpy(image + at, part, sizeof part), at += sizeof part)
	PUT(head);
	PUT(sources);
	PUT(firsts);
	PUT(owners);
	PUT(local);
	PUT(peers);
#undef PUT
	return at;
}

#endif
