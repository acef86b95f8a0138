/*
 * device: the models that a guest sees. This header opens the folder to the monitor's core.
 *
 * Each virtio model is made from a configuration, belongs to one device loop, and is driven through virtio.h.
 * Paths that vary between a snapshot and its restores (disk layers, vsock socket, serial output) are
 * configuration, never state.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/device/loop.h"
#include "vmm/device/peer.h"
#include "vmm/device/rate_limiter.h"
#include "vmm/device/virtio.h"

#define BLOCK_LAYERS_MAX 16

enum block_engine {
	BLOCK_ENGINE_SYNC,
	BLOCK_ENGINE_ASYNC, /* io_uring; falls back to the other when the kernel refuses it */
};

struct block_config {
	char id[64];                          /* Firecracker's drive_id; answered to VIRTIO_BLK_T_GET_ID */
	const char *path;                     /* the lowest layer: a raw image */
	const char *layers[BLOCK_LAYERS_MAX]; /* frozen layer files over it, lowest first */
	unsigned layer_count;
	const char *overlay_path; /* private top layer, made when missing; NULL: none */
	bool read_only;
	bool writeback; /* offer FLUSH (cache_type Writeback) */
	enum block_engine engine;
	struct rate_limiter_config limits;
};

/* virtio-block (5.2) over a stack of disk layers (layer/disk.h). NULL with `err` on failure. */
struct virtio_device *block_new(const struct block_config *config, const struct guest_memory *memory,
                                struct loop *loop, struct error *err);

struct vsock_config {
	uint32_t guest_cid;   /* 3 or more */
	const char *uds_path; /* listening socket for host-initiated connections; prefix of guest-initiated
	                         ones */
};

/* Change the limits of a block device; NULL leaves a bucket as it is. On the device loop. */
void block_set_limits(struct virtio_device *device, const struct token_bucket_config *bandwidth,
                      const struct token_bucket_config *ops);

/*
 * Put another raw image in the place of a drive's, which must have no layers. Requests that were started are
 * finished on the old one, and the driver is told of the size. 0, or a negative errno with `err`; the old
 * image stays then. On the device loop.
 */
int block_set_path(struct virtio_device *device, const char *path, struct error *err);

/*
 * Replace the stack of a drive with layers: what was its overlay can become a frozen layer under a new one
 * while the guest goes on (paths and layers of `config` count). 0, or -errno with `err` and the drive as
 * before.
 */
int block_set_stack(struct virtio_device *device, const struct block_config *config, struct error *err);

/* virtio-vsock (5.10) bridged to unix sockets by Firecracker's hybrid protocol. */
struct virtio_device *vsock_new(const struct vsock_config *config, const struct guest_memory *memory,
                                struct loop *loop, struct error *err);

/* virtio entropy device (5.4), fed by getrandom(2). */
struct virtio_device *rng_new(const struct rate_limiter_config *limits, const struct guest_memory *memory,
                              struct loop *loop, struct error *err);

struct net_config {
	char id[64];               /* Firecracker's iface_id */
	const char *host_dev_name; /* the tap, which must exist */
	uint8_t mac[6];            /* the guest's address, if has_mac; else its driver chooses one */
	bool has_mac;
	unsigned mtu; /* told to the driver: 68 to 65535; 0: not */
	struct rate_limiter_config rx_limits;
	struct rate_limiter_config tx_limits;
};

/*
 * virtio-net (5.1) on a tap. `peer` is borrowed; NULL: none. When the tap goes away the interface ends, which
 * is logged: the guest then sends into the void, and reaches only the peer. NULL with `err` on failure.
 */
struct virtio_device *net_new(const struct net_config *config, const struct net_peer *peer,
                              const struct guest_memory *memory, struct loop *loop, struct error *err);

/* Change the limits of a network device; NULL leaves a bucket as it is. On the device loop. */
void net_set_limits(struct virtio_device *device, const struct token_bucket_config *rx_bandwidth,
                    const struct token_bucket_config *rx_ops, const struct token_bucket_config *tx_bandwidth,
                    const struct token_bucket_config *tx_ops);

struct balloon_config {
	uint32_t amount_mib; /* wanted size */
	bool deflate_on_oom;
	unsigned stats_polling_interval_s; /* 0: no statistics queue */
	bool free_page_hinting;
	bool free_page_reporting;
};

/* Statistics of a guest (5.5.6.3), by their tags. */
enum balloon_statistic {
	BALLOON_SWAP_IN, /* bytes, as all memory here */
	BALLOON_SWAP_OUT,
	BALLOON_MAJOR_FAULTS,
	BALLOON_MINOR_FAULTS,
	BALLOON_FREE_MEMORY,
	BALLOON_TOTAL_MEMORY,
	BALLOON_AVAILABLE_MEMORY,
	BALLOON_DISK_CACHES,
	BALLOON_HUGETLB_ALLOCATIONS,
	BALLOON_HUGETLB_FAILURES,
	BALLOON_OOM_KILL,
	BALLOON_ALLOC_STALL,
	BALLOON_ASYNC_SCAN,
	BALLOON_DIRECT_SCAN,
	BALLOON_ASYNC_RECLAIM,
	BALLOON_DIRECT_RECLAIM,
	BALLOON_STATISTICS, /* how many there are */
};

/* Their names in Firecracker's API. */
extern const char *const balloon_statistic_names[BALLOON_STATISTICS];

struct balloon_stats {
	uint32_t target_pages; /* of 4 KiB */
	uint32_t actual_pages;
	uint32_t target_mib;
	uint32_t actual_mib;
	uint32_t present; /* bit N: the guest has told us values[N] */
	uint64_t values[BALLOON_STATISTICS];
};

struct balloon_hinting {
	uint32_t host_cmd; /* 0 stop, 1 done, others: the run that we asked for */
	uint32_t guest_cmd;
	bool has_guest_cmd;
};

/*
 * virtio-balloon (5.5). `memory_is_private`: guest memory is a private mapping of a file, not anonymous (see
 * page_release.h). NULL with `err` on failure: -EINVAL for an amount beyond the memory's size.
 */
struct virtio_device *balloon_new(const struct balloon_config *config, bool memory_is_private,
                                  const struct guest_memory *memory, struct loop *loop, struct error *err);

/* What follows is for the device loop. Each gives 0, or -EINVAL with `err`. */

/* Ask the guest for a balloon of another size, at most its memory's. */
int balloon_set_amount(struct virtio_device *device, uint32_t amount_mib, struct error *err);

/* Change the interval of statistics and ask for new ones at once. They cannot be switched on or off. */
int balloon_set_interval(struct virtio_device *device, unsigned seconds, struct error *err);

/* The last statistics; refused when there is no queue for them. */
int balloon_get_stats(struct virtio_device *device, struct balloon_stats *ret, struct error *err);

/* The configuration as it is now: amount and interval may have been changed. */
void balloon_get_config(struct virtio_device *device, struct balloon_config *ret);

/*
 * Free page hinting. Start: the guest allocates what it can, tells us, and keeps it until the run is done:
 * by itself at its end with `acknowledge_on_stop`, else by a stop. Refused without the feature, or without a
 * driver.
 */
int balloon_start_hinting(struct virtio_device *device, bool acknowledge_on_stop, struct error *err);
int balloon_stop_hinting(struct virtio_device *device, struct error *err);
int balloon_get_hinting(struct virtio_device *device, struct balloon_hinting *ret, struct error *err);

/* Free any of the above. */
void virtio_free(struct virtio_device *device);

/* --- not virtio --- */

/*
 * serial: a 16550A UART at I/O port 0x3f8 (8 registers). Output goes to `output_fd` (owned; -1 drops it) and
 * is bounded: beyond `output_limit` bytes, or the rate (NULL: any), it is dropped, so that a flooding guest
 * neither fills a disk nor keeps it busy. `irq` is an
 * eventfd behind GSI 4.
 */
struct serial;
struct serial *serial_new(int output_fd, uint64_t output_limit, const struct token_bucket_config *rate,
                          struct error *err);
void serial_free(struct serial *serial);
/* Bytes that the guest wrote, and those of them that were dropped. Any thread. */
void serial_count(struct serial *serial, uint64_t *ret_written, uint64_t *ret_dropped);
int serial_irq(const struct serial *serial);
uint8_t serial_read(struct serial *serial, unsigned reg); /* any vCPU thread */
void serial_write(struct serial *serial, unsigned reg, uint8_t value);
int serial_save(struct serial *serial, struct buffer *to, struct error *err);
int serial_restore(struct serial *serial, const void *data, size_t size, struct error *err);

/* Raise the interrupt again that was on its way when the state was saved: when the chips were restored. */
void serial_notify(struct serial *serial);

/*
 * i8042: the keyboard controller, at its ports, with a keyboard. `irq` is an eventfd behind GSI 1. Any thread
 * may call.
 */
#define I8042_DATA_PORT    0x60
#define I8042_COMMAND_PORT 0x64 /* status when read */

struct i8042;
struct i8042 *i8042_new(struct error *err);
void i8042_free(struct i8042 *i8042);
int i8042_irq(const struct i8042 *i8042);
uint8_t i8042_read(struct i8042 *i8042, unsigned port);

/* True when the guest asked for a reset of its processor. */
bool i8042_write(struct i8042 *i8042, unsigned port, uint8_t value);

/*
 * Press and release Ctrl-Alt-Del. What a guest makes of it is its own affair: without a keyboard driver
 * nothing. 0, or -EBUSY with `err` while it has not read the keys of an earlier call.
 */
int i8042_send_ctrl_alt_del(struct i8042 *i8042, struct error *err);

int i8042_save(struct i8042 *i8042, struct buffer *to, struct error *err);
int i8042_restore(struct i8042 *i8042, const void *data, size_t size, struct error *err);

/* Raise the interrupt of what waits, if anything does: when the interrupt chips were restored. */
void i8042_notify(struct i8042 *i8042);
