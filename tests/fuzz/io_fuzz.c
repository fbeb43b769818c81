/* The two pumps against a kernel that refuses, takes half, and is full: `io_fuzz ROUNDS SEED`.
 *
 * The system calls are replaced at link time (-Wl,--wrap). Whatever they answer, every packet must come out once,
 * unchanged, and in the order of its flow; only an error that is neither "full" nor "no trains" may lose one, and
 * then it is counted.
 */
#define _GNU_SOURCE
#include "fuzz_traffic.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "_batchio.h"

enum { TUN = 1000, SOCK = 1001, FRAMES = 60 };

static struct {
	uint8_t *bytes[FRAMES];
	size_t size[FRAMES];
	unsigned count, at;
} frames;             /* that the TUN device will hand out */

static struct list expected[2]; /* datagrams, by peer */
static struct list inner;       /* packets that the TUN device must be given */
static uint64_t lost;
static int train_error;         /* what trains are answered with; 0: they are taken */
static uint32_t full_share, lose_share;
static bool gso_seen;

ssize_t __wrap_read(int fd, void *buffer, size_t size);
ssize_t __wrap_write(int fd, const void *buffer, size_t size);
ssize_t __wrap_writev(int fd, const struct iovec *pieces, int count);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout);

static ssize_t fail(int error)
{
	errno = error;
	return -1;
}

/* ---- TUN device to socket --------------------------------------------------------------------------------------- */

ssize_t __wrap_read(int fd, void *buffer, size_t size)
{
	CHECK(fd == TUN);
	if (one_in(16))
		return fail(EINTR);
	if (frames.at == frames.count || one_in(12))
		return fail(EAGAIN);
	CHECK(frames.size[frames.at] <= size);
	memcpy(buffer, frames.bytes[frames.at], frames.size[frames.at]);
	return (ssize_t)frames.size[frames.at++];
}

static void expect_datagram(const struct sockaddr_in *to, const uint8_t *bytes, size_t size)
{
	const uint32_t address = ntohl(to->sin_addr.s_addr);
	CHECK(address == 0xc0a80002 || address == 0xc0a80003);
	CHECK(ntohs(to->sin_port) == 8285);
	struct list *list = &expected[address & 1];
	CHECK(list->count > 0);
	for (unsigned i = 0; i < list->count; i++) {
		if (list->taken[i])
			continue;
		CHECK(list->size[i] == size && memcmp(list->bytes[i], bytes, size) == 0);
		list->taken[i] = true;
		return;
	}
	CHECK(false && "a datagram too many");
}

/* Return: 0, or the error that this message meets. */
static int take_message(const struct msghdr *message)
{
	uint8_t bytes[PUMP_PACKET_MAX + 1];
	size_t size = 0;
	for (size_t i = 0; i < message->msg_iovlen; i++) {
		CHECK(size + message->msg_iov[i].iov_len <= 65507);
		memcpy(bytes + size, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
		size += message->msg_iov[i].iov_len;
	}
	size_t step = size;
	if (message->msg_control != NULL) {
		const struct cmsghdr *control = CMSG_FIRSTHDR(message);
		uint16_t segment;
		CHECK(control->cmsg_type == 103 && control->cmsg_len == CMSG_LEN(sizeof segment));
		memcpy(&segment, CMSG_DATA(control), sizeof segment);
		step = segment;
		CHECK(step < size && (size + step - 1) / step <= 64);
		gso_seen = true;
		if (train_error)
			return train_error;
	}
	if (full_share && one_in(full_share))
		return EAGAIN;
	if (one_in(20))
		return EINTR;
	for (size_t at = 0; at < size; at += step)
		expect_datagram(message->msg_name, bytes + at, size - at < step ? size - at : step);
	return 0;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	CHECK(fd == SOCK && flags == MSG_DONTWAIT);
	const int error = take_message(message);
	return error ? fail(error) : 1;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
	CHECK(fd == SOCK && flags == MSG_DONTWAIT && count > 0);
	for (unsigned i = 0; i < count; i++) {
		const int error = take_message(&messages[i].msg_hdr);
		if (error)
			return i ? (int)i : (int)fail(error);
		if (one_in(10))
			return (int)i + 1;
	}
	return (int)count;
}

ssize_t __wrap_write(int fd, const void *buffer, size_t size)
{
	CHECK(fd == TUN && size > PUMP_VNET_SIZE);
	CHECK(pump_check_ipv4((const uint8_t *)buffer + PUMP_VNET_SIZE, size - PUMP_VNET_SIZE, true) == PUMP_OK);
	return (ssize_t)size;
}

static void clear(struct list *list)
{
	for (unsigned i = 0; i < list->count; i++)
		free(list->bytes[i]);
	memset(list, 0, sizeof *list);
}

/* Note what a frame must become. Return: false if there is no room to note it. */
static bool foresee(const struct pump_table *table, const uint8_t *frame, size_t size)
{
	struct pump_vnet vnet;
	struct pump_outbound out;
	uint8_t *packet = exact_copy(frame + PUMP_VNET_SIZE, size - PUMP_VNET_SIZE);
	memcpy(&vnet, frame, sizeof vnet);
	bool room = true;
	if (pump_outbound(table, packet, size - PUMP_VNET_SIZE, &vnet, &out) == PUMP_OK) {
		struct list *list = &expected[table->peer[out.peer].address & 1];
		room = list->count + out.cut.count <= LIST_MAX;
		for (uint32_t i = 0; room && i < out.cut.count; i++) {
			const uint8_t *payload;
			uint8_t *piece = malloc(PUMP_PACKET_MAX);
			const size_t payload_size = pump_cut_segment(&out.cut, i, piece, &payload);
			memcpy(piece + out.cut.header, payload, payload_size);
			list->bytes[list->count] = piece;
			list->size[list->count++] = out.cut.header + payload_size;
		}
	}
	free(packet);
	return room;
}

static void make_frames(const struct pump_table *table)
{
	struct flow flows[3] = {new_flow(), new_flow(), new_flow()};
	frames.count = frames.at = 0;
	const unsigned wanted = 1 + draw(FRAMES);
	const uint16_t mss = (uint16_t)(500 + draw(1000));
	while (frames.count < wanted) {
		struct flow *flow = &flows[draw(3)];
		const bool plain = flow->protocol == 1 || one_in(2);
		size_t size;
		uint8_t *packet = next_packet(flow, &size, plain ? flow->payload : one_in(4) ? mss * (1 + draw(40)) : draw(3000));
		complete(packet, size);
		packet[18] = (uint8_t)(2 + draw(3)); /* peer 0, peer 1, or a way that is not there */
		if (one_in(30))
			packet[8] = 1;
		const struct pump_vnet vnet = {
			.flags = plain ? 0 : 1,
			.gso_type = (uint8_t)(plain ? 0 : flow->protocol == 6 ? 1 : 5),
			.gso_size = one_in(8) ? (uint16_t)(500 + draw(1000)) : mss,
			.csum_start = 20,
			.csum_offset = flow->protocol == 6 ? 16 : 6,
		};
		uint8_t *frame = malloc(PUMP_VNET_SIZE + size);
		memcpy(frame, &vnet, sizeof vnet);
		memcpy(frame + PUMP_VNET_SIZE, packet, size);
		free(packet);
		if (!foresee(table, frame, PUMP_VNET_SIZE + size)) {
			free(frame);
			return;
		}
		frames.bytes[frames.count] = frame;
		frames.size[frames.count++] = PUMP_VNET_SIZE + size;
	}
}

static void fuzz_encap(const struct pump_table *table)
{
	struct io_encap *encap = io_encap_new(!one_in(4));
	const bool gso = io_encap_gso(encap);
	gso_seen = false;
	train_error = one_in(2) ? 0 : (const int[]){EIO, EINVAL, EMSGSIZE}[draw(3)];
	full_share = one_in(3) ? 0 : 2 + draw(6);
	make_frames(table);
	while (frames.at < frames.count || io_encap_pending(encap)) {
		const enum io_status status = io_encap_run(encap, table, TUN, SOCK, 1 + draw(3));
		CHECK(status != IO_FAILED);
		CHECK((status == IO_BLOCKED) == io_encap_pending(encap));
	}
	uint64_t packets = 0;
	for (int i = 0; i < 2; i++) {
		for (unsigned j = 0; j < expected[i].count; j++)
			CHECK(expected[i].taken[j]);
		packets += expected[i].count;
		clear(&expected[i]);
	}
	CHECK(io_encap_counters(encap)->packets == packets);
	CHECK(io_encap_counters(encap)->drops[PUMP_SEND_FAILED] == 0);
	CHECK(gso || !gso_seen);
	CHECK(!gso_seen || !(train_error == EIO || train_error == EINVAL) || !io_encap_gso(encap));
	CHECK(train_error != EMSGSIZE || io_encap_gso(encap) == gso);
	for (unsigned i = 0; i < frames.count; i++)
		free(frames.bytes[i]);
	io_encap_free(encap);
}

/* ---- socket to TUN device --------------------------------------------------------------------------------------- */

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout)
{
	CHECK(fd == SOCK && flags == MSG_DONTWAIT && timeout == NULL);
	static struct flow flows[4];
	if (one_in(10))
		return (int)fail((const int[]){EAGAIN, EINTR, ECONNREFUSED}[draw(3)]);
	for (int i = 0; i < 4; i++)
		flows[i] = new_flow();
	const unsigned filled = 1 + draw(count < 8 ? count : 8);
	for (unsigned m = 0; m < filled; m++) {
		struct msghdr *header = &messages[m].msg_hdr;
		struct flow *flow = &flows[draw(4)];
		uint8_t *at = header->msg_iov[0].iov_base;
		size_t total = 0, step = 0;
		for (unsigned n = 1 + draw(64); n > 0 && inner.count < LIST_MAX; n--) {
			size_t size;
			uint8_t *packet = next_packet(flow, &size, flow->payload);
			complete(packet, size);
			if (one_in(16)) {
				packet[20 + draw((uint32_t)size - 20)] ^= 1; /* of the header's checksum only the kernel takes care */
			}
			step = step ? step : size;
			memcpy(at + total, packet, size);
			total += size;
			packet[8]--; /* as it must come out */
			pump_put16(packet + 10, 0);
			pump_put16(packet + 10, (uint16_t)~plain_sum(0, packet, 20));
			inner.bytes[inner.count] = packet;
			inner.size[inner.count++] = size;
		}
		struct sockaddr_in *from = header->msg_name;
		*from = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(0xc0a80002)};
		messages[m].msg_len = (unsigned)total;
		header->msg_flags = 0;
		struct cmsghdr *control = CMSG_FIRSTHDR(header);
		const int segment = (int)step;
		control->cmsg_level = 17;
		control->cmsg_type = 104;
		control->cmsg_len = CMSG_LEN(sizeof segment);
		memcpy(CMSG_DATA(control), &segment, sizeof segment);
	}
	return (int)filled;
}

ssize_t __wrap_writev(int fd, const struct iovec *pieces, int count)
{
	uint8_t *frame = malloc(PUMP_VNET_SIZE + PUMP_PACKET_MAX);
	size_t size = 0;
	CHECK(fd == TUN && count <= 1024);
	for (int i = 0; i < count; i++) {
		CHECK(size + pieces[i].iov_len <= PUMP_VNET_SIZE + PUMP_PACKET_MAX);
		memcpy(frame + size, pieces[i].iov_base, pieces[i].iov_len);
		size += pieces[i].iov_len;
	}
	int error = frame[1] ? train_error : 0;
	if (error == 0 && one_in(16))
		error = EINTR;
	if (error == 0 && lose_share && !frame[1] && one_in(lose_share))
		error = EIO;
	if (error == EIO && !frame[1]) { /* lost for good */
		lost++;
		expect_next(&inner, frame + PUMP_VNET_SIZE, size - PUMP_VNET_SIZE);
	} else if (error == 0) {
		cut_again(&inner, frame, size);
	}
	free(frame);
	return error ? fail(error) : (ssize_t)size;
}

static void fuzz_decap(const struct pump_table *table)
{
	struct io_decap *decap = io_decap_new(!one_in(4), !one_in(4));
	train_error = one_in(2) ? 0 : EINVAL;
	full_share = 0;
	lose_share = one_in(2) ? 0 : 10;
	lost = 0;
	uint64_t packets = 0;
	for (unsigned i = 1 + draw(4); i > 0; i--) {
		io_decap_run(decap, table, TUN, SOCK, 1);
		for (unsigned j = 0; j < inner.count; j++)
			CHECK(inner.taken[j]);
		packets += inner.count;
		clear(&inner);
	}
	const struct io_counters *counters = io_decap_counters(decap);
	CHECK(counters->packets + lost == packets);
	CHECK(counters->drops[PUMP_WRITE_FAILED] == lost);
	for (int i = 0; i < PUMP_WRITE_FAILED; i++)
		CHECK(counters->drops[i] == 0 || i == PUMP_TRUNCATED); /* an empty datagram, when the list was full */
	io_decap_free(decap);
}

int main(int argc, char **argv)
{
	const unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
	random_state = (argc > 2 ? strtoull(argv[2], NULL, 10) : 1) * 0x9e3779b97f4a7c15u | 1;
	static uint64_t space[64];
	struct pump_table table;
	const size_t size = make_image((uint8_t *)space, PUMP_STRICT);
	CHECK(pump_table_open(&table, (uint8_t *)space, size) == NULL);
	for (; current_round < rounds; current_round++) {
		fuzz_encap(&table);
		fuzz_decap(&table);
	}
	printf("%lu rounds, nothing found\n", rounds);
	return 0;
}
