/* One super-packet becomes the packets that a network card would have made of it (TSO: net/ipv4/tcp_offload.c
 * tcp_gso_segment; USO: net/ipv4/udp_offload.c __udp_gso_segment; IP ID: net/ipv4/af_inet.c inet_gso_segment).
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
	TCP_FIN = 0x01,
	TCP_PSH = 0x08,
	TCP_CWR = 0x80,
	MORE_OR_OFFSET = 0x3fff, /* the bits of a fragment */
};

static enum pump_drop plan_plain(struct pump_cut *cut, size_t size, const struct pump_vnet *vnet)
{
	cut->count = 1;
	cut->header = 0;
	cut->payload = (uint32_t)size;
	cut->mss = (uint16_t)size;
	cut->sum_at = 0;
	if (!(vnet->flags & PUMP_VNET_NEEDS_CSUM))
		return PUMP_OK;
	const uint32_t at = (uint32_t)vnet->csum_start + vnet->csum_offset;
	if (vnet->csum_start < cut->ip_header || at + 2 > size)
		return PUMP_BAD_OFFLOAD;
	cut->sum_from = vnet->csum_start;
	cut->sum_at = at;
	return PUMP_OK;
}

enum pump_drop pump_plan_cut(struct pump_cut *cut, uint8_t *packet, size_t size, const struct pump_vnet *vnet)
{
	cut->packet = packet;
	cut->ip_header = (uint16_t)((packet[0] & 0xf) * 4);
	if (vnet->gso_type == PUMP_VNET_NONE)
		return plan_plain(cut, size, vnet);

	const unsigned type = vnet->gso_type & ~(unsigned)PUMP_VNET_ECN;
	if (type != PUMP_VNET_TCPV4 && vnet->gso_type != PUMP_VNET_UDP_L4)
		return PUMP_BAD_OFFLOAD;
	cut->tcp = type == PUMP_VNET_TCPV4;
	if (packet[9] != (cut->tcp ? PROTOCOL_TCP : PROTOCOL_UDP) || pump_get16(packet + 6) & MORE_OR_OFFSET)
		return PUMP_BAD_OFFLOAD;
	/* Segments get fresh checksums, so the kernel must have said that it left the checksum to us. */
	if (!(vnet->flags & PUMP_VNET_NEEDS_CSUM) || vnet->csum_start != cut->ip_header ||
	    vnet->csum_offset != (cut->tcp ? TCP_CHECK : UDP_CHECK) || vnet->gso_size == 0)
		return PUMP_BAD_OFFLOAD;
	const size_t behind = size - cut->ip_header;
	size_t l4_header = UDP_HEADER;
	if (cut->tcp)
		l4_header = behind < TCP_HEADER_MIN ? TCP_HEADER_MIN : (size_t)(packet[cut->ip_header + 12] >> 4) * 4;
	if ((cut->tcp && l4_header < TCP_HEADER_MIN) || l4_header >= behind)
		return PUMP_BAD_OFFLOAD;
	cut->header = (uint16_t)(cut->ip_header + l4_header);
	cut->payload = (uint32_t)(size - cut->header);
	cut->mss = vnet->gso_size;
	cut->count = (cut->payload + cut->mss - 1) / cut->mss;
	return PUMP_OK;
}

static void write_missing_checksum(const struct pump_cut *cut)
{
	uint8_t *packet = cut->packet;
	uint16_t check = (uint16_t)~pump_fold(pump_sum(packet + cut->sum_from, cut->payload - cut->sum_from));
	if (check == 0 && packet[9] == PROTOCOL_UDP)
		check = 0xffff; /* RFC 768: zero would mean that there is none */
	memcpy(packet + cut->sum_at, &check, 2);
}

void pump_begin_cut(struct pump_cut *cut)
{
	if (cut->header == 0) {
		if (cut->sum_at != 0)
			write_missing_checksum(cut);
		return;
	}
	uint8_t header[PUMP_HEADER_MAX];
	memcpy(header, cut->packet, cut->header);
	uint8_t *l4 = header + cut->ip_header;
	memset(header + 2, 0, 4);  /* total length, ID */
	memset(header + 10, 0, 2); /* checksum */
	if (cut->tcp) {
		memset(l4 + 4, 0, 4);  /* sequence number */
		memset(l4 + TCP_FLAGS, 0, 1);
		memset(l4 + TCP_CHECK, 0, 2);
	} else {
		memset(l4 + 4, 0, 4);  /* length, checksum */
	}
	const uint8_t pseudo[] = {0, cut->packet[9]};
	cut->ip_sum = pump_sum(header, cut->ip_header);
	cut->l4_sum = pump_sum(l4, (size_t)cut->header - cut->ip_header) + pump_sum(header + 12, 8) + pump_sum(pseudo, 2);
}

static void write_l4(const struct pump_cut *cut, uint32_t index, uint8_t *header, uint16_t length)
{
	uint8_t *l4 = header + cut->ip_header;
	if (!cut->tcp) {
		pump_put16(l4 + 4, length);
		return;
	}
	pump_put32(l4 + 4, pump_get32(l4 + 4) + index * cut->mss);
	if (index + 1 < cut->count)
		l4[TCP_FLAGS] &= (uint8_t)~(TCP_FIN | TCP_PSH);
	if (index > 0)
		l4[TCP_FLAGS] &= (uint8_t)~TCP_CWR; /* RFC 3168 6.1.2: the sender says it once */
}

size_t pump_cut_segment(const struct pump_cut *cut, uint32_t index, uint8_t *header, const uint8_t **payload)
{
	if (cut->header == 0) {
		*payload = cut->packet;
		return cut->payload;
	}
	const uint32_t offset = index * cut->mss;
	const uint32_t size = cut->payload - offset < cut->mss ? cut->payload - offset : cut->mss;
	*payload = cut->packet + cut->header + offset;
	memcpy(header, cut->packet, cut->header);

	pump_put16(header + 2, (uint16_t)(cut->header + size));
	pump_put16(header + 4, (uint16_t)(pump_get16(header + 4) + index));
	uint16_t check = (uint16_t)~pump_fold(cut->ip_sum + pump_sum(header + 2, 4));
	memcpy(header + 10, &check, 2);

	uint8_t *l4 = header + cut->ip_header;
	const uint16_t length = (uint16_t)(cut->header - cut->ip_header + size);
	uint8_t varying[8] = {0};
	write_l4(cut, index, header, length);
	pump_put16(varying, length); /* of the pseudo header */
	if (cut->tcp) {
		memcpy(varying + 2, l4 + 4, 4);
		varying[7] = l4[TCP_FLAGS];
	} else {
		pump_put16(varying + 2, length);
	}
	check = (uint16_t)~pump_fold(cut->l4_sum + pump_sum(varying, sizeof varying) + pump_sum(*payload, size));
	if (check == 0 && !cut->tcp)
		check = 0xffff;
	memcpy(l4 + (cut->tcp ? TCP_CHECK : UDP_CHECK), &check, 2);
	return size;
}
