#include "_outbox.h"

#include <errno.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* include/uapi/linux/udp.h */
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

enum { LOOK_BACK = 8 };

/* ---- building messages ------------------------------------------------------------------------------------------ */

static void make_train(struct outbox *box, unsigned at)
{
	struct msghdr *message = &box->header[at].msg_hdr;
	const uint16_t size = (uint16_t)box->message[at].size;
	message->msg_control = &box->control[at];
	message->msg_controllen = sizeof box->control[at].space;
	struct cmsghdr *control = CMSG_FIRSTHDR(message);
	control->cmsg_level = SOL_UDP;
	control->cmsg_type = UDP_SEGMENT;
	control->cmsg_len = CMSG_LEN(sizeof size);
	memcpy(CMSG_DATA(control), &size, sizeof size);
}

/* Return: the newest message for @to if a datagram of @size may follow in it, else OUTBOX_MESSAGES. */
static unsigned find_train(const struct outbox *box, const struct sockaddr_in *to, uint32_t size)
{
	for (unsigned at = box->built, left = LOOK_BACK; at-- > box->sent && left-- > 0;) {
		if (box->to[at].sin_addr.s_addr != to->sin_addr.s_addr || box->to[at].sin_port != to->sin_port)
			continue;
		const struct outbox_message *message = &box->message[at];
		const bool fits = message->open && size <= message->size && message->bytes + size <= OUTBOX_BYTES;
		return fits ? at : OUTBOX_MESSAGES;
	}
	return OUTBOX_MESSAGES;
}

static unsigned begin_message(struct outbox *box, const struct sockaddr_in *to, uint32_t size)
{
	const unsigned at = box->built++;
	box->message[at] = (struct outbox_message){.size = size};
	box->to[at] = *to;
	box->header[at].msg_hdr = (struct msghdr){
		.msg_name = &box->to[at],
		.msg_namelen = sizeof box->to[at],
		.msg_iov = box->piece[at],
	};
	return at;
}

static void add_segment(struct outbox *box, unsigned at, const struct pump_cut *cut, uint32_t index)
{
	struct msghdr *message = &box->header[at].msg_hdr;
	uint8_t *header = box->headers + box->headers_used;
	const uint8_t *payload;
	const size_t size = pump_cut_segment(cut, index, header, &payload);
	if (cut->header > 0)
		message->msg_iov[message->msg_iovlen++] = (struct iovec){header, cut->header};
	message->msg_iov[message->msg_iovlen++] = (struct iovec){(uint8_t *)(uintptr_t)payload, size};
	box->headers_used += cut->header;
	box->message[at].bytes += (uint32_t)(cut->header + size);
	box->message[at].count++;
}

bool outbox_add(struct outbox *box, struct outbox_cut *waiting)
{
	const struct pump_cut *cut = &waiting->packet.cut;
	const bool trains = box->gso && !waiting->packet.may_fragment;
	for (; waiting->next < cut->count; waiting->next++) {
		const uint32_t left = cut->payload - waiting->next * cut->mss;
		const uint32_t size = cut->header + (left < cut->mss ? left : cut->mss);
		unsigned at = trains ? find_train(box, &waiting->to, size) : OUTBOX_MESSAGES;
		if (box->headers_used + cut->header > OUTBOX_HEADERS)
			return false;
		if (at == OUTBOX_MESSAGES) {
			if (box->built == OUTBOX_MESSAGES)
				return false;
			at = begin_message(box, &waiting->to, size);
		}
		add_segment(box, at, cut, waiting->next);
		struct outbox_message *message = &box->message[at];
		if (message->count == 2)
			make_train(box, at);
		message->open = trains && size == message->size && message->count < OUTBOX_TRAIN;
	}
	return true;
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

static bool is_full(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK;
}

/* udp(7): EIO where the way out has no checksum offload, EINVAL or EMSGSIZE for a segment above the MTU. */
static bool refuses_trains(int error)
{
	return error == EIO || error == EINVAL || error == EMSGSIZE;
}

static void count_lost(struct io_counters *counters, int error, uint32_t packets)
{
	io_note_error(counters, error);
	counters->drops[error == EMSGSIZE ? PUMP_TOO_BIG : PUMP_SEND_FAILED] += packets;
}

static void count_sent(struct io_counters *counters, uint32_t packets, uint32_t bytes)
{
	counters->packets += packets;
	counters->bytes += bytes;
	if (packets > 1) {
		counters->trains++;
		counters->train_packets += packets;
	}
}

/* Send the datagrams of a refused train one by one, from where it stopped.
 *
 * Return: false if the socket is full before all are sent.
 */
static bool replay(struct outbox *box, int sock, struct io_counters *counters)
{
	struct outbox_message *message = &box->message[box->sent];
	const struct msghdr *train = &box->header[box->sent].msg_hdr;
	size_t piece = 0;
	for (uint16_t i = 0; i < message->count; i++) {
		const uint32_t rest = message->bytes - i * message->size;
		const uint32_t size = rest < message->size ? rest : message->size;
		struct msghdr one = {.msg_name = train->msg_name, .msg_namelen = train->msg_namelen};
		one.msg_iov = train->msg_iov + piece;
		for (size_t bytes = 0; bytes < size; piece++, one.msg_iovlen++)
			bytes += train->msg_iov[piece].iov_len;
		if (i < message->replayed)
			continue;
		ssize_t sent;
		do {
			sent = sendmsg(sock, &one, MSG_DONTWAIT);
		} while (sent < 0 && errno == EINTR);
		if (sent < 0 && is_full(errno))
			return false;
		message->replayed++;
		if (sent < 0) {
			count_lost(counters, errno, 1);
			continue;
		}
		counters->writes++;
		count_sent(counters, 1, size);
	}
	box->sent++;
	return true;
}

/* Deal with an error for the first unsent message.
 *
 * Return: false if the socket is full.
 */
static bool send_failed(struct outbox *box, int sock, struct io_counters *counters, int error)
{
	struct outbox_message *message = &box->message[box->sent];
	if (is_full(error))
		return false;
	if (error == EINTR)
		return true;
	message->open = false;
	if (message->count > 1 && refuses_trains(error)) {
		io_note_error(counters, error);
		counters->replayed++;
		message->refused = true;
		if (error != EMSGSIZE) /* that one is about this way's MTU, not about trains */
			box->gso = false;
		return replay(box, sock, counters);
	}
	if (!message->retried && error != EMSGSIZE) { /* it may be the echo of an earlier datagram (ICMP) */
		io_note_error(counters, error);
		message->retried = true;
		return true;
	}
	count_lost(counters, error, message->count);
	box->sent++;
	return true;
}

/* Return: false if the socket is full. */
static bool send_some(struct outbox *box, int sock, struct io_counters *counters)
{
	if (box->message[box->sent].refused)
		return replay(box, sock, counters);
	const int count = sendmmsg(sock, box->header + box->sent, box->built - box->sent, MSG_DONTWAIT);
	if (count < 0)
		return send_failed(box, sock, counters, errno);
	counters->writes++;
	for (int i = 0; i < count; i++, box->sent++)
		count_sent(counters, box->message[box->sent].count, box->message[box->sent].bytes);
	return true;
}

bool outbox_flush(struct outbox *box, int sock, struct io_counters *counters)
{
	while (box->sent < box->built) {
		if (!send_some(box, sock, counters)) {
			counters->blocked++;
			return false;
		}
	}
	box->built = 0;
	box->sent = 0;
	box->headers_used = 0;
	return true;
}
