#include "_pump.h"

#include "_checksum.h"

#define TABLE_MAGIC 0x31544c46u
#define FLAG_DF 0x4000u
#define FRAGMENT_OFFSET 0x1fffu

/* ---- table ------------------------------------------------------------------------------------------------------ */

struct image_header {
	uint32_t magic, validation, own, peers, ranges, sources, locals, reserved;
};

static const char *check_contents(const struct pump_table *table)
{
	if (table->ranges == 0 || table->first[0] != 0)
		return "the ranges do not begin at 0.0.0.0";
	for (uint32_t i = 0; i < table->ranges; i++) {
		if (i > 0 && table->first[i] <= table->first[i - 1])
			return "the ranges are not sorted";
		if (table->owner[i] != PUMP_NO_PEER && table->owner[i] >= table->peers)
			return "a range names no peer";
	}
	for (uint32_t i = 0; i < table->sources; i++) {
		if (i > 0 && table->source[i] <= table->source[i - 1])
			return "the sources are not sorted";
		if ((uint32_t)table->source[i] >= table->peers)
			return "a source names no peer";
	}
	for (uint32_t i = 0; i < table->locals; i++) {
		const uint32_t *pair = table->local + 2 * (size_t)i;
		if (pair[0] > pair[1] || (i > 0 && pair[0] <= pair[-1]))
			return "the local ranges are not sorted";
	}
	return NULL;
}

const char *pump_table_open(struct pump_table *table, const uint8_t *image, size_t size)
{
	struct image_header head;
	if (size < sizeof head)
		return "the image is too short";
	memcpy(&head, image, sizeof head);
	if (head.magic != TABLE_MAGIC)
		return "the image is of another format or byte order";
	if (head.validation > PUMP_STRICT || head.reserved != 0)
		return "the image's header is unknown";
	const uint64_t sources = 8 * (uint64_t)head.sources;
	const uint64_t ranges = 4 * (uint64_t)head.ranges;
	const uint64_t locals = 8 * (uint64_t)head.locals;
	const uint64_t peers = sizeof(struct pump_peer) * (uint64_t)head.peers;
	if (size != sizeof head + sources + 2 * ranges + locals + peers)
		return "the image's length does not fit its header";
	const uint8_t *at = image + sizeof head;
	*table = (struct pump_table){
		.validation = (enum pump_validation)head.validation,
		.own = head.own,
		.peers = head.peers,
		.ranges = head.ranges,
		.sources = head.sources,
		.locals = head.locals,
		.source = (const void *)at,
		.first = (const void *)(at + sources),
		.owner = (const void *)(at + sources + ranges),
		.local = (const void *)(at + sources + 2 * ranges),
		.peer = (const void *)(at + sources + 2 * ranges + locals),
	};
	return check_contents(table);
}

uint32_t pump_lookup(const struct pump_table *table, uint32_t address)
{
	const uint32_t *base = table->first;
	uint32_t left = table->ranges;
	while (left > 1) { /* no branch depends on the data: compilers make it a conditional move */
		const uint32_t half = left / 2;
		base = base[half] <= address ? base + half : base;
		left -= half;
	}
	return table->owner[base - table->first];
}

/* Return: index of the first source entry that is not below @key. */
static uint32_t source_bound(const struct pump_table *table, uint64_t key)
{
	uint32_t low = 0, high = table->sources;
	while (low < high) {
		const uint32_t middle = low + (high - low) / 2;
		if (table->source[middle] < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool pump_knows_source(const struct pump_table *table, uint32_t source)
{
	const uint32_t at = source_bound(table, (uint64_t)source << 32);
	return at < table->sources && table->source[at] >> 32 == source;
}

static bool sends_from(const struct pump_table *table, uint32_t source, uint32_t peer)
{
	const uint64_t key = (uint64_t)source << 32 | peer;
	const uint32_t at = source_bound(table, key);
	return at < table->sources && table->source[at] == key;
}

/* Whether @inner is behind a peer that sends from @outer, or is itself an address of such a peer. */
static bool belongs(const struct pump_table *table, uint32_t outer, uint32_t inner)
{
	const uint32_t owner = pump_lookup(table, inner);
	if (owner != PUMP_NO_PEER && sends_from(table, outer, owner))
		return true;
	if (inner == outer)
		return true;
	uint32_t at = source_bound(table, (uint64_t)outer << 32);
	for (; at < table->sources && table->source[at] >> 32 == outer; at++)
		if (sends_from(table, inner, (uint32_t)table->source[at]))
			return true;
	return false;
}

static bool is_local(const struct pump_table *table, uint32_t address)
{
	for (uint32_t i = 0; i < table->locals; i++)
		if (table->local[2 * (size_t)i] <= address && address <= table->local[2 * (size_t)i + 1])
			return true;
	return false;
}

/* ---- one packet ------------------------------------------------------------------------------------------------- */

enum pump_drop pump_check_ipv4(const uint8_t *packet, size_t size, bool verify)
{
	if (size < PUMP_IPV4_MIN)
		return PUMP_TRUNCATED;
	if (packet[0] >> 4 != 4)
		return PUMP_NOT_IPV4;
	const size_t header = (size_t)(packet[0] & 0xf) * 4;
	if (header < PUMP_IPV4_MIN || header > size)
		return PUMP_BAD_HEADER;
	if (pump_get16(packet + 2) != size)
		return PUMP_BAD_LENGTH;
	if (verify && pump_fold(pump_sum(packet, header)) != 0xffff)
		return PUMP_BAD_CHECKSUM;
	return PUMP_OK;
}

bool pump_decrement_ttl(uint8_t *packet)
{
	if (packet[8] <= 1)
		return false;
	/* RFC 1624 equation 3 with m = TTL and protocol: HC' = ~(~HC + ~m + m') */
	const uint32_t before = pump_get16(packet + 8);
	packet[8]--;
	uint32_t sum = (uint16_t)~pump_get16(packet + 10) + (0xffffu - before) + pump_get16(packet + 8);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	pump_put16(packet + 10, (uint16_t)~sum);
	return true;
}

static enum pump_drop check_addresses(const struct pump_table *table, struct pump_seen *seen, uint32_t outer,
                                      const uint8_t *packet)
{
	const uint32_t inner = pump_get32(packet + 12);
	if (!seen->valid || seen->outer != outer || seen->inner != inner) {
		bool belonging = true;
		if (table->validation == PUMP_STRICT)
			belonging = belongs(table, outer, inner);
		else if (table->validation == PUMP_LOOSE)
			belonging = pump_lookup(table, inner) != PUMP_NO_PEER || pump_knows_source(table, inner);
		if (!belonging)
			return PUMP_FOREIGN_SOURCE;
		*seen = (struct pump_seen){true, outer, inner};
	}
	if (table->validation != PUMP_OFF && !is_local(table, pump_get32(packet + 16)))
		return PUMP_FOREIGN_DESTINATION;
	return PUMP_OK;
}

enum pump_drop pump_inbound(const struct pump_table *table, struct pump_seen *seen, uint32_t outer, uint8_t *packet,
                            size_t size)
{
	const bool trusted = seen->valid && seen->outer == outer;
	if (table->validation == PUMP_STRICT && !trusted && !pump_knows_source(table, outer))
		return PUMP_UNKNOWN_PEER;
	enum pump_drop drop = pump_check_ipv4(packet, size, true);
	if (drop == PUMP_OK)
		drop = check_addresses(table, seen, outer, packet);
	if (drop != PUMP_OK)
		return drop;
	return pump_decrement_ttl(packet) ? PUMP_OK : PUMP_TTL_EXPIRED;
}

enum pump_drop pump_outbound(const struct pump_table *table, uint8_t *packet, size_t size, const struct pump_vnet *vnet,
                             struct pump_outbound *out)
{
	out->may_fragment = false;
	enum pump_drop drop = pump_check_ipv4(packet, size, false);
	if (drop != PUMP_OK)
		return drop;
	out->peer = pump_lookup(table, pump_get32(packet + 16));
	if (out->peer == PUMP_NO_PEER)
		return PUMP_NO_ROUTE;
	if (packet[8] <= 1)
		return PUMP_TTL_EXPIRED;
	drop = pump_plan_cut(&out->cut, packet, size, vnet);
	if (drop != PUMP_OK)
		return drop;
	const uint32_t first = out->cut.count == 1 ? out->cut.payload : out->cut.mss;
	if (out->cut.header + first > table->peer[out->peer].mtu) {
		if (pump_get16(packet + 6) & FLAG_DF)
			return PUMP_TOO_BIG;
		out->may_fragment = true;
	}
	pump_decrement_ttl(packet);
	pump_begin_cut(&out->cut);
	return PUMP_OK;
}

/* ---- ICMP errors ------------------------------------------------------------------------------------------------ */

enum { ICMP_HEADER = 8, ICMP_TTL = 64, PROTOCOL_ICMP = 1, PRECEDENCE_INTERNETWORK_CONTROL = 0xc0 };

static bool one_host(uint32_t address)
{
	return address >> 24 != 0 && address >> 24 != 127 && address < 0xe0000000u;
}

/* RFC 1812 4.3.2.7: never about an ICMP error, a later fragment, a group, or a sender that is not one host. */
static bool may_tell(const uint8_t *offender, size_t size)
{
	if (pump_check_ipv4(offender, size, false) != PUMP_OK)
		return false;
	if (pump_get16(offender + 6) & FRAGMENT_OFFSET)
		return false;
	if (!one_host(pump_get32(offender + 12)) || pump_get32(offender + 16) >= 0xe0000000u)
		return false;
	if (offender[9] != PROTOCOL_ICMP)
		return true;
	const size_t header = (size_t)(offender[0] & 0xf) * 4;
	if (size <= header)
		return false;
	switch (offender[header]) { /* the queries of RFC 792 and RFC 950; all other types are errors, or unknown */
	case 0: case 8: case 13: case 14: case 15: case 16: case 17: case 18:
		return true;
	default:
		return false;
	}
}

size_t pump_icmp(enum pump_icmp_kind kind, uint16_t mtu, uint32_t own, const uint8_t *offender, size_t size,
                 uint8_t out[PUMP_ICMP_MAX])
{
	static const uint8_t type[] = {3, 3, 11};
	static const uint8_t code[] = {0, 4, 0};
	if (!may_tell(offender, size))
		return 0;
	const size_t room = PUMP_ICMP_MAX - PUMP_IPV4_MIN - ICMP_HEADER;
	const size_t quoted = size < room ? size : room;
	const size_t total = PUMP_IPV4_MIN + ICMP_HEADER + quoted;
	uint8_t *icmp = out + PUMP_IPV4_MIN;
	memset(out, 0, PUMP_IPV4_MIN + ICMP_HEADER);
	out[0] = 0x45;
	out[1] = PRECEDENCE_INTERNETWORK_CONTROL;
	pump_put16(out + 2, (uint16_t)total);
	out[8] = ICMP_TTL;
	out[9] = PROTOCOL_ICMP;
	pump_put32(out + 12, own);
	memcpy(out + 16, offender + 12, 4);
	uint16_t sum = (uint16_t)~pump_fold(pump_sum(out, PUMP_IPV4_MIN));
	memcpy(out + 10, &sum, 2);
	icmp[0] = type[kind];
	icmp[1] = code[kind];
	if (kind == PUMP_FRAGMENTATION_NEEDED)
		pump_put16(icmp + 6, mtu);
	memcpy(icmp + ICMP_HEADER, offender, quoted);
	sum = (uint16_t)~pump_fold(pump_sum(icmp, ICMP_HEADER + quoted));
	memcpy(icmp + 2, &sum, 2);
	return total;
}

bool pump_take_token(struct pump_bucket *bucket, uint64_t now_ns)
{
	/* As net.ipv4.icmp_msgs_per_sec and icmp_msgs_burst: 1000 a second, 50 at once. */
	const uint64_t one = 1000 * 1000, full = 50 * one;
	if (now_ns > full && bucket->empty_at_ns < now_ns - full)
		bucket->empty_at_ns = now_ns - full;
	if (bucket->empty_at_ns + one > now_ns)
		return false;
	bucket->empty_at_ns += one;
	return true;
}
