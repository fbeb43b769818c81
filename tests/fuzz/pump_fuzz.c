/* Random and spoilt packets through the decisions of _pump.h: `pump_fuzz ROUNDS SEED`.
 *
 * Built with the address and undefined-behaviour sanitizers. Every buffer is a heap block of just its size, so a byte
 * read or written beyond it ends the program.
 */
#include "fuzz_traffic.h"

static void fuzz_merge(void)
{
	static struct pump_merge merge;
	static struct list in;
	struct flow flows[10];
	const unsigned kinds = 1 + draw(10), count = 1 + draw(100), spoilt = one_in(2) ? 8 : 100;
	for (unsigned i = 0; i < kinds; i++)
		flows[i] = new_flow();
	memset(&in, 0, sizeof in);
	pump_merge_begin(&merge, !one_in(8), !one_in(8));
	for (unsigned i = 0, at = 0; i < count; i++) {
		if (one_in(4))
			at = draw(kinds);
		size_t size;
		struct flow *flow = &flows[at];
		uint8_t *packet = next_packet(flow, &size, one_in(16) ? draw(flow->payload + 1u) : flow->payload);
		complete(packet, size);
		if (one_in(spoilt))
			spoil(packet, &size, true);
		if (pump_check_ipv4(packet, size, false) != PUMP_OK) {
			free(packet);
			continue;
		}
		in.bytes[in.count] = packet;
		in.size[in.count++] = size;
		CHECK(pump_merge_add(&merge, packet, size));
	}
	for (unsigned i = 0; i < merge.trains; i++) {
		const struct pump_train *train = &merge.train[i];
		CHECK(train->size <= PUMP_PACKET_MAX);
		uint8_t *frame = malloc(PUMP_VNET_SIZE + PUMP_HEADER_MAX + train->size);
		size_t at = pump_merge_header(&merge, train, frame);
		const size_t skipped = at - PUMP_VNET_SIZE;
		uint16_t index = train->head;
		for (unsigned j = 0; j < train->count; j++, index = merge.packet[index].next) {
			memcpy(frame + at, merge.packet[index].bytes + skipped, merge.packet[index].size - skipped);
			at += merge.packet[index].size - skipped;
		}
		CHECK(at == PUMP_VNET_SIZE + train->size);
		cut_again(&in, frame, at);
		free(frame);
	}
	for (unsigned i = 0; i < in.count; i++) {
		CHECK(in.taken[i]);
		free(in.bytes[i]);
	}
}

/* ---- super-packets ---------------------------------------------------------------------------------------------- */

static void fuzz_segment(const struct pump_table *table)
{
	struct flow flow = new_flow();
	size_t size;
	const bool plain = flow.protocol == 1 || one_in(4);
	uint8_t *packet = next_packet(&flow, &size, draw(one_in(20) ? 60000 : 4000));
	complete(packet, size);
	packet[8] = (uint8_t)(one_in(8) ? draw(3) : 64);
	pump_put32(packet + 16, one_in(6) ? draw(UINT32_MAX) : 0x0af40202);
	struct pump_vnet vnet = {
		.flags = plain ? 0 : 1,
		.gso_type = (uint8_t)(plain ? 0 : flow.protocol == 6 ? 1 : 5),
		.gso_size = (uint16_t)(1 + draw(one_in(4) ? 60 : 3000)),
		.csum_start = 20,
		.csum_offset = flow.protocol == 6 ? 16 : 6,
	};
	const bool spoilt = one_in(3);
	if (spoilt) {
		((uint8_t *)&vnet)[draw(sizeof vnet)] = (uint8_t)draw(256);
		if (one_in(2))
			spoil(packet, &size, false);
	}
	uint8_t *exact = exact_copy(packet, size);
	uint8_t *before = exact_copy(packet, size);
	struct pump_outbound out = {0};
	const enum pump_drop drop = pump_outbound(table, exact, size, &vnet, &out);
	CHECK(drop < PUMP_DROPS);
	CHECK(drop == PUMP_OK || size == 0 || memcmp(exact, before, size) == 0);
	size_t payload_sum = 0;
	for (uint32_t i = 0; drop == PUMP_OK && i < out.cut.count; i++) {
		uint8_t *header = malloc(out.cut.header);
		const uint8_t *payload;
		const size_t payload_size = pump_cut_segment(&out.cut, i, header, &payload);
		CHECK(payload >= exact && payload + payload_size <= exact + size);
		payload_sum += payload_size;
		if (!spoilt && out.cut.header > 0) {
			uint8_t piece[PUMP_PACKET_MAX];
			const size_t whole = out.cut.header + payload_size;
			memcpy(piece, header, out.cut.header);
			memcpy(piece + out.cut.header, payload, payload_size);
			CHECK(pump_check_ipv4(piece, whole, true) == PUMP_OK);
			CHECK(l4_sum(piece, whole) == 0xffff);
		}
		free(header);
	}
	CHECK(drop != PUMP_OK || payload_sum == size - out.cut.header);
	uint8_t error[PUMP_ICMP_MAX];
	const size_t length = pump_icmp((enum pump_icmp_kind)draw(3), 1400, 1, before, size, error);
	CHECK(length == 0 || pump_check_ipv4(error, length, true) == PUMP_OK);
	CHECK(length == 0 || plain_sum(0, error + 20, length - 20) == 0xffff);
	free(packet);
	free(exact);
	free(before);
}

static void fuzz_inbound(const struct pump_table *table, struct pump_seen *seen)
{
	struct flow flow = new_flow();
	size_t size;
	uint8_t *packet = next_packet(&flow, &size, draw(100));
	complete(packet, size);
	if (one_in(2))
		spoil(packet, &size, false);
	const uint32_t outer = 0xc0a80002 + draw(3);
	uint8_t *one = exact_copy(packet, size), *two = exact_copy(packet, size);
	struct pump_seen fresh = {0};
	const enum pump_drop drop = pump_inbound(table, &fresh, outer, one, size);
	CHECK(drop == pump_inbound(table, seen, outer, two, size));
	CHECK(size == 0 || memcmp(one, two, size) == 0);
	CHECK(drop == PUMP_OK || size == 0 || memcmp(one, packet, size) == 0);
	CHECK(drop != PUMP_OK || pump_check_ipv4(one, size, true) == PUMP_OK);
	free(packet);
	free(one);
	free(two);
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

static void fuzz_table(const uint8_t *image, size_t size)
{
	uint8_t *spoilt = exact_copy(image, size);
	for (uint32_t n = 1 + draw(3); n > 0; n--)
		spoilt[draw((uint32_t)size)] = (uint8_t)draw(256);
	struct pump_table table;
	if (pump_table_open(&table, spoilt, one_in(3) ? draw((uint32_t)size) : size) == NULL) {
		for (int i = 0; i < 10; i++) {
			const uint32_t peer = pump_lookup(&table, draw(UINT32_MAX));
			CHECK(peer == PUMP_NO_PEER || peer < table.peers);
		}
		pump_knows_source(&table, draw(UINT32_MAX));
	}
	free(spoilt);
}

int main(int argc, char **argv)
{
	const unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
	random_state = (argc > 2 ? strtoull(argv[2], NULL, 10) : 1) * 0x9e3779b97f4a7c15u | 1;
	static uint8_t space[3][512];
	struct pump_table table[3];
	struct pump_seen seen[3] = {{0}, {0}, {0}};
	size_t size[3];
	for (uint32_t i = 0; i < 3; i++) {
		uint8_t *image = space[i] + (8 - (uintptr_t)space[i] % 8) % 8;
		size[i] = make_image(image, i);
		CHECK(pump_table_open(&table[i], image, size[i]) == NULL);
	}
	for (; current_round < rounds; current_round++) {
		fuzz_merge();
		for (int i = 0; i < 8; i++) {
			const uint32_t which = draw(3);
			fuzz_segment(&table[which]);
			fuzz_inbound(&table[which], &seen[which]);
		}
		fuzz_table(space[0] + (8 - (uintptr_t)space[0] % 8) % 8, size[0]);
	}
	printf("%lu rounds, nothing found\n", rounds);
	return 0;
}
