/* The two pumps: they move batches between the TUN device and the UDP socket, and ask _pump.h about every packet.
 *
 * A batch is bounded by bytes, so that it stays in the second-level cache, and by packets, so that the first of it
 * does not wait for the last. Nothing is allocated after io_*_new(). The two directions share no state but the table.
 */
#ifndef FLANNELD_BATCHIO_H
#define FLANNELD_BATCHIO_H

#include "_pump.h"

enum io_status {
	IO_DRAINED, /* nothing more to read: wait until readable */
	IO_MORE,    /* the budget is used up: call again, after others had their turn */
	IO_BLOCKED, /* the socket is full, what is unsent is kept: read nothing more and call again when it is writable */
	IO_FAILED,  /* a descriptor is of no use any more; errno in `failed` */
};

struct io_counters {
	uint64_t packets, bytes;        /* inner packets that went on */
	uint64_t trains, train_packets; /* packets that went on together with others */
	uint64_t reads, writes;         /* system calls that moved packets */
	uint64_t icmp_sent, icmp_limited;
	uint64_t blocked;               /* times that the socket was full */
	uint64_t replayed;              /* trains refused by the kernel, and sent again as single packets */
	uint64_t kernel_errors;
	uint64_t last_error;            /* errno of the newest of them */
	uint64_t drops[PUMP_DROPS];
};

static inline void io_note_error(struct io_counters *counters, int error)
{
	counters->kernel_errors++;
	counters->last_error = (uint64_t)error;
}

struct io_encap;
struct io_decap;

/* @gso: use UDP_SEGMENT
 * Return: NULL without memory
 */
struct io_encap *io_encap_new(bool gso);
void io_encap_free(struct io_encap *encap);

/* Move packets from the TUN device to the socket, at most @batches batches. Both descriptors must not block. */
enum io_status io_encap_run(struct io_encap *encap, const struct pump_table *table, int tun, int sock,
                            unsigned batches);

/* Whether packets are held that the socket did not take yet. */
bool io_encap_pending(const struct io_encap *encap);
const struct io_counters *io_encap_counters(const struct io_encap *encap);
int io_encap_failed(const struct io_encap *encap);

/* UDP_SEGMENT is used as long as the kernel takes it: an EIO or EINVAL for a train ends that. */
bool io_encap_gso(const struct io_encap *encap);
void io_encap_set_gso(struct io_encap *encap, bool gso);

struct io_decap *io_decap_new(bool tcp, bool udp);
void io_decap_free(struct io_decap *decap);

/* Move packets from the socket to the TUN device, at most @batches batches. Both descriptors must not block. */
enum io_status io_decap_run(struct io_decap *decap, const struct pump_table *table, int tun, int sock,
                            unsigned batches);
const struct io_counters *io_decap_counters(const struct io_decap *decap);
int io_decap_failed(const struct io_decap *decap);

/* Which protocols are merged, as long as the kernel takes the super-packets. */
bool io_decap_merges(const struct io_decap *decap, bool tcp);
void io_decap_set_merges(struct io_decap *decap, bool tcp, bool enabled);

/* Both directions for as long as @wake is not readable: run, wait for what is missing, and run again.
 *
 * Return: 0, or the errno of a descriptor that is of no use any more
 */
int io_serve(struct io_encap *encap, const struct pump_table *outward, struct io_decap *decap,
             const struct pump_table *inward, int tun, int sock, int wake);

#endif
