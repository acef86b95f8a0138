/*
 * control: what the control plane itself needs to know beyond its sandboxes: who may administer it, how much
 * each caller and each team may take, what the node was told to be, and what was counted since the start.
 */
#pragma once

#include "api/api.h"
#include "api/registry.h"
#include "api/store/keys.h"
#include "api/store/settings.h"

#define CONTROL_RATE          1000 /* requests a second per key, when no option says otherwise */
#define CONTROL_BURST         5000
#define CONTROL_SAMPLE_S      30
#define CONTROL_SAMPLES_DAYS  7
#define CONTROL_SECRETS_BYTES 32
#define CONTROL_CALLERS       256

enum node_status {
	NODE_READY,
	NODE_DRAINING, /* takes nothing new, and is to end */
	NODE_STANDBY,  /* takes nothing new for now */
	NODE_UNHEALTHY,
};

/* Options; 0 and NULL: the default. */
struct control_options {
	const char *data;
	const char *admin_token_file; /* made when it is missing, like the next one; mode 0600 */
	const char *secrets_key_file;
	unsigned rate; /* requests a second per key */
	unsigned burst;
	bool unlimited;
	unsigned sample_s; /* between counts of each team's sandboxes */
};

struct control {
	char admin_hash[STORE_HASH_SIZE];
	unsigned char secrets_key[CONTROL_SECRETS_BYTES];
	bool secrets_ready; /* that key is the one that the stored secrets were made with */
	char data[256];
	unsigned rate; /* 0: no limit */
	unsigned burst;
	unsigned sample_s;
	struct list callers[CONTROL_CALLERS]; /* struct caller */
	struct list starts;                   /* struct team_starts, since the last sample */
	uv_timer_t sampling;
	int64_t sampled_us;
	int64_t dropped_ms; /* when old samples were last removed */
	enum node_status status;
	int64_t status_since_ms;
	char instance[40]; /* of this process */
	uint64_t creates;
	uint64_t failures;
	uint64_t cpu_busy; /* at the last look, in ticks of all CPUs */
	uint64_t cpu_total;
};

/* Read or make the two files: as root, before rights are dropped. 0 or -errno with `err`. */
int control_load(struct api *api, const struct control_options *options, struct error *err);

/* With the store open: what was told to the node before, whether the secrets' key fits, the counting. */
int control_start(struct api *api, struct error *err);

/* A request by the key or token `id`: false when it has had too many. What the limits leave goes to the rest.
 */
struct control_allowance {
	unsigned limit; /* 0: there is none */
	unsigned remaining;
	unsigned reset_s; /* until all is there again */
	unsigned retry_s; /* when refused, until the next one */
};
bool control_admit(struct api *api, const char *id, struct control_allowance *ret);

/* Forget all of them. */
void control_forget_callers(struct api *api);

/* What one sandbox takes. */
struct control_size {
	int vcpus;
	int memory_mib;
	int disk_mib;
};

/*
 * May the team start `count` more sandboxes of this size? All that it has counts, with what is being created
 * and resumed: whoever has been let through has a record in one of these states before anyone else asks. 0;
 * -EDQUOT, -EBUSY (the node takes none) or -EIO with `err`.
 */
int control_may_start(struct api *api, const char *team_id, unsigned count, const struct control_size *size,
                      struct error *err);

/* The same for one that is asleep. Its disk counts already, and so may its place. */
int control_may_resume(struct api *api, const struct record *record, struct error *err);

/* 1: the team has a limit for which the size of a sandbox must be known. 0, -EIO. */
int control_needs_size(struct api *api, const char *team_id, struct error *err);

/* Is the team within its limits, with all that it has? 0 or as above. */
int control_check_limits(struct api *api, const char *team_id, struct error *err);

/* A sandbox of the team began; one could not be made. */
void control_note_start(struct api *api, const char *team_id);
void control_note_failure(struct api *api);

/* The starts of a team since the last sample, and how long ago that was, into `sample`. */
void control_starts(struct api *api, const char *team_id, struct sample *sample);

/* How many sandboxes of a team run (NULL: of all), and with `ret` what they take. */
struct control_usage {
	int64_t sandboxes;
	int64_t starting; /* of these */
	int64_t vcpus;
	int64_t memory_mib;
	int64_t disk_mib;
};
void control_usage(struct api *api, const char *team_id, struct control_usage *ret);

/* Tell the node's status: kept over restarts. -EINVAL: it cannot become that from what it is. */
int control_set_status(struct api *api, enum node_status status, struct error *err);

/* As the API calls it; and back, -EINVAL for none of these. */
const char *control_status_name(enum node_status status);
int control_parse_status(const char *name);
