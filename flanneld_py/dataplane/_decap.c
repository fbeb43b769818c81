/* UDP socket to TUN device.
 *
 * A datagram train that the kernel received as one buffer (UDP_GRO) is cut at its datagram size, every packet is
 * judged, and what may be together is written as one super-packet. The packets stay where they were received; only
 * the first header of a super-packet is made anew, beside them, so that a refused super-packet can be written again
 * as it came.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_batchio.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_GRO
#define UDP_GRO 104 /* include/uapi/linux/udp.h */
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

enum {
	BATCH_BYTES = 128 * 1024,
	MESSAGES = 64,
	FEWEST = 4, /* messages that are asked for, however long they were of late */
	LINE = 64,
	/* Nine lines more than a datagram, since buffers 64 KiB apart would share the same sets of the cache. */
	STRIDE = 64 * 1024 + 9 * LINE,
};

union control {
	struct cmsghdr align;
	char space[CMSG_SPACE(sizeof(int))];
};

struct io_decap {
	struct io_counters counters;
	struct pump_bucket bucket;
	int failed;
	bool merges_tcp, merges_udp;
	uint32_t usual_size; /* running mean of a message */
	struct pump_merge merge;
	struct iovec out[PUMP_BATCH + 1];
	uint8_t out_header[PUMP_VNET_SIZE + PUMP_HEADER_MAX];
	struct sockaddr_in from[MESSAGES];
	union control control[MESSAGES];
	struct iovec in[MESSAGES];
	struct mmsghdr message[MESSAGES];
	uint8_t arena[MESSAGES * STRIDE]; /* untouched pages cost nothing */
};

struct io_decap *io_decap_new(bool tcp, bool udp)
{
	struct io_decap *decap = calloc(1, sizeof *decap);
	if (decap == NULL)
		return NULL;
	decap->merges_tcp = tcp;
	decap->merges_udp = udp;
	return decap;
}

void io_decap_free(struct io_decap *decap)
{
	free(decap);
}

const struct io_counters *io_decap_counters(const struct io_decap *decap)
{
	return &decap->counters;
}

int io_decap_failed(const struct io_decap *decap)
{
	return decap->failed;
}

bool io_decap_merges(const struct io_decap *decap, bool tcp)
{
	return tcp ? decap->merges_tcp : decap->merges_udp;
}

void io_decap_set_merges(struct io_decap *decap, bool tcp, bool enabled)
{
	if (tcp)
		decap->merges_tcp = enabled;
	else
		decap->merges_udp = enabled;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static ssize_t write_pieces(const struct io_decap *decap, int tun, int count)
{
	ssize_t written;
	do {
		written = writev(tun, decap->out, count);
	} while (written < 0 && errno == EINTR);
	return written;
}

static void write_failed(struct io_decap *decap, int error, uint16_t packets)
{
	decap->counters.drops[PUMP_WRITE_FAILED] += packets;
	io_note_error(&decap->counters, error);
	if (error == EBADFD || error == EBADF || error == ENODEV)
		decap->failed = error;
}

static bool write_single(struct io_decap *decap, int tun, const struct pump_slice *packet)
{
	memset(decap->out_header, 0, PUMP_VNET_SIZE);
	decap->out[0] = (struct iovec){decap->out_header, PUMP_VNET_SIZE};
	decap->out[1] = (struct iovec){packet->bytes, packet->size};
	if (write_pieces(decap, tun, 2) < 0) {
		write_failed(decap, errno, 1);
		return false;
	}
	decap->counters.writes++;
	decap->counters.packets++;
	decap->counters.bytes += packet->size;
	return true;
}

/* The kernel refused a super-packet. If it takes the packets one by one, merging is what it does not like. */
static void write_again(struct io_decap *decap, int tun, const struct pump_train *train, int error)
{
	uint16_t index = train->head;
	bool taken = false;
	io_note_error(&decap->counters, error);
	decap->counters.replayed++;
	for (uint16_t i = 0; i < train->count; i++, index = decap->merge.packet[index].next)
		taken |= write_single(decap, tun, &decap->merge.packet[index]);
	if (taken)
		io_decap_set_merges(decap, train->kind == PUMP_TCP_TRAIN, false);
}

static void write_train(struct io_decap *decap, int tun, const struct pump_train *train)
{
	const struct pump_merge *merge = &decap->merge;
	if (train->count == 1) {
		write_single(decap, tun, &merge->packet[train->head]);
		return;
	}
	const size_t header = pump_merge_header(merge, train, decap->out_header);
	const size_t skipped = header - PUMP_VNET_SIZE;
	uint32_t bytes = 0;
	uint16_t index = train->head;
	decap->out[0] = (struct iovec){decap->out_header, header};
	for (int i = 1; i <= train->count; i++, index = merge->packet[index].next) {
		const struct pump_slice *packet = &merge->packet[index];
		decap->out[i] = (struct iovec){packet->bytes + skipped, packet->size - skipped};
		bytes += packet->size;
	}
	if (write_pieces(decap, tun, train->count + 1) < 0) {
		if (errno == EINVAL || errno == EOPNOTSUPP || errno == EMSGSIZE)
			write_again(decap, tun, train, errno);
		else
			write_failed(decap, errno, train->count);
		return;
	}
	decap->counters.writes++;
	decap->counters.packets += train->count;
	decap->counters.bytes += bytes;
	decap->counters.trains++;
	decap->counters.train_packets += train->count;
}

static void write_batch(struct io_decap *decap, int tun)
{
	for (uint16_t i = 0; i < decap->merge.trains; i++)
		write_train(decap, tun, &decap->merge.train[i]);
	pump_merge_begin(&decap->merge, decap->merges_tcp, decap->merges_udp);
}

/* ---- receiving -------------------------------------------------------------------------------------------------- */

/* Tell the sender, by the way that the packet came, that its TTL ended here. */
static void tell_expired(struct io_decap *decap, const struct pump_table *table, int sock,
                         const struct sockaddr_in *from, const uint8_t *packet, size_t size)
{
	uint8_t error[PUMP_ICMP_MAX];
	struct timespec now;
	const size_t length = pump_icmp(PUMP_TIME_EXCEEDED, 0, table->own, packet, size, error);
	if (length == 0)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!pump_take_token(&decap->bucket, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec))
		decap->counters.icmp_limited++;
	else if (sendto(sock, error, length, MSG_DONTWAIT, (const void *)from, sizeof *from) < 0)
		io_note_error(&decap->counters, errno);
	else
		decap->counters.icmp_sent++;
}

/* Return: the size of the datagrams of which the received buffer is made. */
static uint32_t datagram_size(struct mmsghdr *message)
{
	struct msghdr *header = &message->msg_hdr;
	for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control != NULL; control = CMSG_NXTHDR(header, control)) {
		int size;
		if (control->cmsg_level != SOL_UDP || control->cmsg_type != UDP_GRO ||
		    control->cmsg_len < CMSG_LEN(sizeof size))
			continue;
		memcpy(&size, CMSG_DATA(control), sizeof size);
		if (size > 0)
			return (uint32_t)size;
	}
	return message->msg_len;
}

static void judge_message(struct io_decap *decap, const struct pump_table *table, struct pump_seen *seen, int tun,
                          int sock, unsigned at)
{
	struct mmsghdr *message = &decap->message[at];
	const struct sockaddr_in *from = &decap->from[at];
	const uint32_t outer = ntohl(from->sin_addr.s_addr);
	const uint32_t step = datagram_size(message);
	uint8_t *bytes = decap->in[at].iov_base;
	if (message->msg_hdr.msg_flags & MSG_TRUNC) {
		decap->counters.drops[PUMP_OVERSIZE]++;
		return;
	}
	uint32_t left = message->msg_len;
	do { /* at least once: an empty datagram is a truncated packet */
		const uint32_t size = left < step ? left : step;
		const enum pump_drop drop = pump_inbound(table, seen, outer, bytes, size);
		if (drop == PUMP_OK) {
			if (!pump_merge_add(&decap->merge, bytes, size)) {
				write_batch(decap, tun);
				pump_merge_add(&decap->merge, bytes, size);
			}
		} else {
			decap->counters.drops[drop]++;
			if (drop == PUMP_TTL_EXPIRED)
				tell_expired(decap, table, sock, from, bytes, size);
		}
		bytes += size;
		left -= size;
	} while (left > 0);
}

static void prepare(struct io_decap *decap, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		decap->in[i] = (struct iovec){decap->arena + (size_t)i * STRIDE, PUMP_PACKET_MAX};
		decap->message[i].msg_hdr = (struct msghdr){
			.msg_name = &decap->from[i],
			.msg_namelen = sizeof decap->from[i],
			.msg_iov = &decap->in[i],
			.msg_iovlen = 1,
			.msg_control = &decap->control[i],
			.msg_controllen = sizeof decap->control[i].space,
		};
	}
}

static enum io_status one_batch(struct io_decap *decap, const struct pump_table *table, struct pump_seen *seen, int tun,
                                int sock)
{
	uint32_t wanted = BATCH_BYTES / (decap->usual_size + 1);
	wanted = wanted < FEWEST ? FEWEST : wanted > MESSAGES ? MESSAGES : wanted;
	prepare(decap, wanted);
	const int count = recvmmsg(sock, decap->message, wanted, MSG_DONTWAIT, NULL);
	if (count < 0) {
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return IO_DRAINED;
		if (errno == EBADF || errno == ENOTSOCK) {
			decap->failed = errno;
			return IO_FAILED;
		}
		if (errno != EINTR)
			io_note_error(&decap->counters, errno); /* the echo of a datagram that we sent (ICMP): reading it has cleared it */
		return IO_MORE;
	}
	decap->counters.reads++;
	pump_merge_begin(&decap->merge, decap->merges_tcp, decap->merges_udp);
	uint64_t bytes = 0;
	for (int i = 0; i < count; i++) {
		bytes += decap->message[i].msg_len;
		judge_message(decap, table, seen, tun, sock, (unsigned)i);
	}
	write_batch(decap, tun);
	if (count > 0)
		decap->usual_size = (uint32_t)((3 * (uint64_t)decap->usual_size + bytes / (unsigned)count) / 4);
	if (decap->failed)
		return IO_FAILED;
	return (uint32_t)count < wanted ? IO_DRAINED : IO_MORE;
}

enum io_status io_decap_run(struct io_decap *decap, const struct pump_table *table, int tun, int sock, unsigned batches)
{
	struct pump_seen seen = {0};
	enum io_status status = IO_MORE;
	decap->failed = 0;
	for (unsigned i = 0; i < batches && status == IO_MORE; i++)
		status = one_batch(decap, table, &seen, tun, sock);
	return status;
}
