#include "api/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "api/store/settings.h"

#define ADMIN_TOKEN_BYTES 32
#define DROP_MS           3600000 /* between looks for samples that are too old: they are all read for it */
#define STATUS_SETTING    "node_status"
#define KEY_SETTING       "secrets_key"

/* --- files of the host's owner --- */

/* The first line of a file that nobody else may read; made of random digits when it is missing. */
static int read_or_make(const char *path, size_t bytes, char text[129], struct error *err)
{
	cleanup_buffer struct buffer content = { .limit = 128 };
	struct stat st;
	int ret;

	if (stat(path, &st) < 0 && errno == ENOENT) {
		random_hex(text, bytes);
		return file_write_atomic(path, text, strlen(text), 0600, err);
	}
	ret = file_read(path, &content, err);
	if (ret < 0)
		return ret;
	if (st.st_mode & 077)
		return error_set(err, EPERM, "%s can be read by others: chmod 600 it", path);
	(void)snprintf(text, 129, "%.*s", (int)strcspn(content.data ? content.data : "", "\r\n"),
	               content.data ? content.data : "");
	if (strlen(text) < 32)
		return error_set(err, EINVAL, "%s holds fewer than 32 characters", path);
	return 0;
}

static int parse_hex(const char *text, unsigned char *bytes, size_t size)
{
	if (strlen(text) != 2 * size || strspn(text, "0123456789abcdef") != 2 * size)
		return -EINVAL;
	for (size_t i = 0; i < size; i++) {
		unsigned value = 0;

		(void)sscanf(text + 2 * i, "%2x", &value);
		bytes[i] = (unsigned char)value;
	}
	return 0;
}

int control_load(struct api *api, const struct control_options *options, struct error *err)
{
	struct control *control = calloc(1, sizeof(*control));
	char path[300];
	char text[129] = "";
	int ret;

	if (!control)
		return error_errno(err, ENOMEM, "start");
	api->control = control;
	for (size_t i = 0; i < ARRAY_SIZE(control->callers); i++)
		list_init(&control->callers[i]);
	list_init(&control->starts);
	(void)snprintf(control->data, sizeof(control->data), "%s", options->data);
	control->rate = options->unlimited ? 0 : options->rate ? options->rate : CONTROL_RATE;
	control->burst = options->burst ? options->burst : options->rate ? options->rate : CONTROL_BURST;
	control->sample_s = options->sample_s ? options->sample_s : CONTROL_SAMPLE_S;
	control->status_since_ms = time_wall_ms();
	random_uuid(control->instance);
	(void)snprintf(path, sizeof(path), "%.250s/admin-token", options->data);
	ret = read_or_make(options->admin_token_file ? options->admin_token_file : path, ADMIN_TOKEN_BYTES,
	                   text, err);
	if (ret < 0)
		return error_wrap(err, "the admin token");
	store_hash(text, control->admin_hash);
	(void)snprintf(path, sizeof(path), "%.250s/secrets-key", options->data);
	ret = read_or_make(options->secrets_key_file ? options->secrets_key_file : path,
	                   CONTROL_SECRETS_BYTES, text, err);
	if (ret == 0 && parse_hex(text, control->secrets_key, CONTROL_SECRETS_BYTES) < 0)
		ret = error_set(err, EINVAL, "the file must hold %d hexadecimal digits",
		                2 * CONTROL_SECRETS_BYTES);
	explicit_bzero(text, sizeof(text));
	return ret < 0 ? error_wrap(err, "the secrets' key") : 0;
}

/* --- with the store --- */

/* The key is known again by a hash of it: what was made with another one could not be read. */
static int check_secrets_key(struct api *api, struct error *err)
{
	struct control *control = api->control;
	char digits[2 * CONTROL_SECRETS_BYTES + 8] = "check:";
	char hash[STORE_HASH_SIZE];
	char known[STORE_HASH_SIZE] = "";
	bool any = false;
	int ret;

	for (size_t i = 0; i < CONTROL_SECRETS_BYTES; i++)
		(void)snprintf(digits + 6 + 2 * i, 3, "%02x", control->secrets_key[i]);
	store_hash(digits, hash);
	explicit_bzero(digits, sizeof(digits));
	ret = store_get_setting(api->store, KEY_SETTING, known, sizeof(known), err);
	if (ret == 0 && strcmp(known, hash) != 0)
		ret = store_any_secret(api->store, &any, err);
	if (ret < 0)
		return ret;
	control->secrets_ready = strcmp(known, hash) == 0 || !any;
	if (!control->secrets_ready)
		log_error("the secrets in the store were made with another key than the one in its file: "
		          "none can be made or changed");
	else if (strcmp(known, hash) != 0)
		ret = store_put_setting(api->store, KEY_SETTING, hash, err);
	return ret;
}

static const char *const status_names[] = { "ready", "draining", "standby", "unhealthy" };

const char *control_status_name(enum node_status status)
{
	return status_names[status];
}

int control_parse_status(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(status_names); i++)
		if (strcmp(status_names[i], name) == 0)
			return (int)i;
	return -EINVAL;
}

int control_set_status(struct api *api, enum node_status status, struct error *err)
{
	struct control *control = api->control;
	int ret;

	if (control->status == NODE_DRAINING && status == NODE_STANDBY)
		return error_set(err, EINVAL, "a draining node cannot go to standby");
	ret = store_put_setting(api->store, STATUS_SETTING, status_names[status], err);
	if (ret < 0)
		return ret;
	if (control->status != status)
		control->status_since_ms = time_wall_ms();
	control->status = status;
	return 0;
}

/* --- counting --- */

struct team_starts {
	struct list link;
	char team_id[64];
	int64_t started;
	int64_t running;
	bool idle; /* nothing happened at the last sample either */
};

static struct team_starts *starts_of(struct control *control, const char *team_id)
{
	struct team_starts *starts;

	list_for_each (node, &control->starts) {
		starts = list_entry(node, struct team_starts, link);
		if (strcmp(starts->team_id, team_id) == 0)
			return starts;
	}
	starts = calloc(1, sizeof(*starts));
	if (!starts)
		return NULL;
	(void)snprintf(starts->team_id, sizeof(starts->team_id), "%s", team_id);
	list_append(&control->starts, &starts->link);
	return starts;
}

void control_note_start(struct api *api, const char *team_id)
{
	struct team_starts *starts = starts_of(api->control, team_id);

	if (starts)
		starts->started++;
	api->control->creates++;
}

void control_note_failure(struct api *api)
{
	api->control->failures++;
}

void control_starts(struct api *api, const char *team_id, struct sample *sample)
{
	sample->seconds = (double)(time_monotonic_us() - api->control->sampled_us) / 1e6;
	list_for_each (node, &api->control->starts) {
		const struct team_starts *starts = list_entry(node, struct team_starts, link);

		if (strcmp(starts->team_id, team_id) == 0)
			sample->started = starts->started;
	}
}

/* One row for each team that has or had something; after nothing twice it is left out. */
static void on_sample(uv_timer_t *timer)
{
	struct api *api = timer->data;
	struct control *control = api->control;
	int64_t now_us = time_monotonic_us();
	double seconds = (double)(now_us - control->sampled_us) / 1e6;
	int64_t now_ms = time_wall_ms();
	struct error err = { 0 };

	list_for_each (node, registry_all(api->registry)) {
		const struct record *record = list_entry(node, struct record, all);
		struct team_starts *starts =
		        record_is_running(record) ? starts_of(control, record->team_id) : NULL;

		if (starts)
			starts->running++;
	}
	list_for_each_safe (node, &control->starts) {
		struct team_starts *starts = list_entry(node, struct team_starts, link);
		struct sample sample = { now_ms, starts->running, starts->started, seconds };
		bool idle = starts->running == 0 && starts->started == 0;

		if (store_put_sample(api->store, starts->team_id, &sample, &err) < 0)
			log_warn("%s", err.message);
		if (idle && starts->idle) {
			list_remove(&starts->link);
			free(starts);
			continue;
		}
		starts->idle = idle;
		starts->running = 0;
		starts->started = 0;
	}
	control->sampled_us = now_us;
	if (now_ms - control->dropped_ms < DROP_MS)
		return;
	control->dropped_ms = now_ms;
	if (store_drop_samples(api->store, now_ms - CONTROL_SAMPLES_DAYS * INT64_C(86400000), &err) < 0)
		log_warn("%s", err.message);
}

int control_start(struct api *api, struct error *err)
{
	struct control *control = api->control;
	char name[32] = "";
	int ret = store_get_setting(api->store, STATUS_SETTING, name, sizeof(name), err);

	if (ret == 0)
		ret = check_secrets_key(api, err);
	if (ret < 0)
		return ret;
	ret = control_parse_status(name);
	control->status = ret < 0 ? NODE_READY : (enum node_status)ret;
	control->sampled_us = time_monotonic_us();
	(void)uv_timer_init(api->loop, &control->sampling);
	control->sampling.data = api;
	(void)uv_timer_start(&control->sampling, on_sample, control->sample_s * UINT64_C(1000),
	                     control->sample_s * UINT64_C(1000));
	return 0;
}
