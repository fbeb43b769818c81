/* TUN device to UDP socket. */
#include "_outbox.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
	BATCH_BYTES = 128 * 1024,
	BATCH_PACKETS = 64,
	FRAME_MAX = PUMP_VNET_SIZE + PUMP_PACKET_MAX,
	LINE = 64, /* of the cache; a packet begins on one */
	ARENA = BATCH_BYTES + FRAME_MAX + 3 * LINE,
};

struct io_encap {
	struct io_counters counters;
	struct pump_bucket bucket;
	int failed;
	bool in_cut;           /* `cut` waits because the outbox is full, and the socket is, too */
	struct outbox_cut cut; /* its packet lies in the arena */
	size_t arena_used;
	struct outbox outbox;
	uint8_t arena[ARENA];
};

struct io_encap *io_encap_new(bool gso)
{
	const size_t size = (sizeof(struct io_encap) + LINE - 1) & ~(size_t)(LINE - 1);
	struct io_encap *encap = aligned_alloc(LINE, size);
	if (encap == NULL)
		return NULL;
	memset(encap, 0, sizeof *encap);
	encap->outbox.gso = gso;
	return encap;
}

void io_encap_free(struct io_encap *encap)
{
	free(encap);
}

bool io_encap_pending(const struct io_encap *encap)
{
	return encap->in_cut || encap->outbox.sent < encap->outbox.built;
}

const struct io_counters *io_encap_counters(const struct io_encap *encap)
{
	return &encap->counters;
}

int io_encap_failed(const struct io_encap *encap)
{
	return encap->failed;
}

bool io_encap_gso(const struct io_encap *encap)
{
	return encap->outbox.gso;
}

void io_encap_set_gso(struct io_encap *encap, bool gso)
{
	encap->outbox.gso = gso;
}

/* Return: false if the socket is full. */
static bool flush(struct io_encap *encap, int sock)
{
	if (!outbox_flush(&encap->outbox, sock, &encap->counters))
		return false;
	if (!encap->in_cut)
		encap->arena_used = 0;
	return true;
}

/* Put all of the current cut into the outbox.
 *
 * Return: false if that is full, and the socket is, too.
 */
static bool finish_cut(struct io_encap *encap, int sock)
{
	while (encap->in_cut) {
		encap->in_cut = !outbox_add(&encap->outbox, &encap->cut);
		if (encap->in_cut && !flush(encap, sock))
			return false;
	}
	return true;
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void refuse(struct io_encap *encap, const struct pump_table *table, int tun, enum pump_drop drop,
                   const uint8_t *packet, size_t size)
{
	enum pump_icmp_kind kind = PUMP_NET_UNREACHABLE;
	uint16_t mtu = 0;
	encap->counters.drops[drop]++;
	if (drop == PUMP_TTL_EXPIRED) {
		kind = PUMP_TIME_EXCEEDED;
	} else if (drop == PUMP_TOO_BIG) {
		kind = PUMP_FRAGMENTATION_NEEDED;
		mtu = table->peer[encap->cut.packet.peer].mtu;
	} else if (drop != PUMP_NO_ROUTE) {
		return;
	}
	uint8_t frame[PUMP_VNET_SIZE + PUMP_ICMP_MAX] = {0};
	const size_t length = pump_icmp(kind, mtu, table->own, packet, size, frame + PUMP_VNET_SIZE);
	if (length == 0)
		return;
	if (!pump_take_token(&encap->bucket, now_ns()))
		encap->counters.icmp_limited++;
	else if (write(tun, frame, PUMP_VNET_SIZE + length) < 0)
		io_note_error(&encap->counters, errno);
	else
		encap->counters.icmp_sent++;
}

static void begin_frame(struct io_encap *encap, const struct pump_table *table, int tun, uint8_t *frame, size_t size)
{
	struct pump_vnet vnet;
	if (size < PUMP_VNET_SIZE) {
		encap->counters.drops[PUMP_TRUNCATED]++;
		return;
	}
	memcpy(&vnet, frame, sizeof vnet);
	uint8_t *packet = frame + PUMP_VNET_SIZE;
	const enum pump_drop drop = pump_outbound(table, packet, size - PUMP_VNET_SIZE, &vnet, &encap->cut.packet);
	if (drop != PUMP_OK) {
		refuse(encap, table, tun, drop, packet, size - PUMP_VNET_SIZE);
		return;
	}
	const struct pump_peer *peer = &table->peer[encap->cut.packet.peer];
	encap->cut.to = (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons(peer->port),
		.sin_addr.s_addr = htonl(peer->address),
	};
	encap->cut.next = 0;
	encap->in_cut = true;
}

static enum io_status one_batch(struct io_encap *encap, const struct pump_table *table, int tun, int sock)
{
	enum io_status status = IO_MORE;
	for (unsigned packets = 0; packets < BATCH_PACKETS && encap->arena_used < BATCH_BYTES; packets++) {
		uint8_t *frame = encap->arena + encap->arena_used + LINE - PUMP_VNET_SIZE;
		ssize_t size;
		do {
			size = read(tun, frame, FRAME_MAX);
		} while (size < 0 && errno == EINTR);
		if (size < 0) {
			const bool empty = errno == EAGAIN || errno == EWOULDBLOCK;
			encap->failed = empty ? 0 : errno;
			status = empty ? IO_DRAINED : IO_FAILED;
			break;
		}
		encap->counters.reads++;
		begin_frame(encap, table, tun, frame, (size_t)size);
		if (!encap->in_cut)
			continue;
		encap->arena_used += (LINE + (size_t)size + LINE - 1) & ~(size_t)(LINE - 1);
		if (!finish_cut(encap, sock))
			return IO_BLOCKED;
	}
	if (!flush(encap, sock))
		return IO_BLOCKED;
	return status;
}

enum io_status io_encap_run(struct io_encap *encap, const struct pump_table *table, int tun, int sock, unsigned batches)
{
	if (!finish_cut(encap, sock) || !flush(encap, sock))
		return IO_BLOCKED;
	enum io_status status = IO_MORE;
	for (unsigned i = 0; i < batches && status == IO_MORE; i++)
		status = one_batch(encap, table, tun, sock);
	return status;
}
