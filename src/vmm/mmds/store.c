/* The document and its configuration, shared by the API's thread and the device loop. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "vmm/mmds/mmds_internal.h"

/* Firecracker's. Documents are written by recursion, for a guest on the small stack of the device thread. */
#define DEPTH_MAX  128
#define LOAD_FLAGS (JSON_DECODE_ANY | JSON_ALLOW_NUL)
#define DUMP_FLAGS (JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS)

struct mmds *mmds_new(size_t size_limit, int64_t (*clock)(void), struct error *err)
{
	struct mmds *mmds = calloc(1, sizeof(*mmds));

	if (!mmds) {
		error_set(err, ENOMEM, "make the metadata service: out of memory");
		return NULL;
	}
	(void)pthread_mutex_init(&mmds->lock, NULL);
	mmds->limit = size_limit ? size_limit : MMDS_SIZE_LIMIT;
	mmds->clock = clock ? clock : time_monotonic_us;
	mmds->config = (struct mmds_config)MMDS_CONFIG_INIT;
	return mmds;
}

void mmds_free(struct mmds *mmds)
{
	if (!mmds)
		return;
	json_decref(mmds->document);
	mmds_tokens_fini(&mmds->tokens);
	(void)pthread_mutex_destroy(&mmds->lock);
	free(mmds);
}

/* --- configuration --- */

/* RFC 3927: 169.254/16 without its first and last 256 addresses. */
static bool is_link_local(const uint8_t address[4])
{
	return address[0] == 169 && address[1] == 254 && address[2] != 0 && address[2] != 255;
}

int mmds_config_read(struct mmds_config *config, const json_t *object, struct error *err)
{
	struct mmds_config read = *config;
	const char *version = NULL;
	const char *address = NULL;
	int result;

	result = json_read_string(object, "version", JSON_OPTIONAL, &version, err);
	if (result == 0)
		result = json_read_string(object, "ipv4_address", JSON_OPTIONAL, &address, err);
	if (result == 0)
		result = json_read_bool(object, "imds_compat", JSON_OPTIONAL, &read.imds_compat, err);
	if (result < 0)
		return result;
	if (version && strcmp(version, "V1") != 0 && strcmp(version, "V2") != 0)
		return error_set(err, EINVAL, "field 'version' must be V1 or V2");
	if (version)
		read.version = version[1] == '1' ? MMDS_V1 : MMDS_V2;
	if (address && (inet_pton(AF_INET, address, read.address) != 1 || !is_link_local(read.address)))
		return error_set(err, EINVAL, "field 'ipv4_address' must be a link-local IPv4 address");
	*config = read;
	return 0;
}

int mmds_configure(struct mmds *mmds, const struct mmds_config *config, struct error *err)
{
	if (!is_link_local(config->address))
		return error_set(err, EINVAL, "the metadata service needs a link-local IPv4 address");
	(void)pthread_mutex_lock(&mmds->lock);
	mmds->config = *config;
	(void)pthread_mutex_unlock(&mmds->lock);
	return 0;
}

void mmds_get_config(struct mmds *mmds, struct mmds_config *config)
{
	(void)pthread_mutex_lock(&mmds->lock);
	*config = mmds->config;
	(void)pthread_mutex_unlock(&mmds->lock);
}

/* --- writing JSON --- */

static bool has_real(const json_t *value)
{
	const json_t *item;
	const char *key;
	size_t index;

	json_object_foreach ((json_t *)value, key, item)
		if (has_real(item))
			return true;
	json_array_foreach (value, index, item)
		if (has_real(item))
			return true;
	return json_is_real(value);
}

/*
 * Flags that write `document` so that 0.1 stays 0.1: jansson's default of 17 digits keeps every number's
 * value, but not its looks. The fewest digits that keep all values are taken.
 */
static size_t store_flags(const json_t *document)
{
	for (size_t digits = 15; digits < 17 && has_real(document); digits++) {
		cleanup_free char *text = json_dumps(document, DUMP_FLAGS | JSON_REAL_PRECISION(digits));
		cleanup_json json_t *again = text ? json_loads(text, LOAD_FLAGS, NULL) : NULL;

		if (again && json_equal(document, again))
			return DUMP_FLAGS | JSON_REAL_PRECISION(digits);
	}
	return DUMP_FLAGS;
}

static int dump(const json_t *value, size_t flags, struct buffer *to)
{
	size_t size = json_dumpb(value, NULL, 0, flags);
	int result = size ? buffer_reserve(to, size) : -ENOMEM;

	if (result < 0)
		return result;
	if (json_dumpb(value, to->data + to->size, size, flags) != size)
		return -ENOMEM;
	to->size += size;
	to->data[to->size] = '\0';
	return 0;
}

/* --- the API's side --- */

static int parse(const char *text, size_t size, json_t **ret, struct error *err)
{
	json_error_t where;

	*ret = json_loadb(text ? text : "", size, LOAD_FLAGS, &where);
	if (!*ret)
		return error_set(err, EINVAL, "invalid JSON at line %d column %d: %s", where.line,
		                 where.column, where.text);
	return 0;
}

/* Whether there are more than `levels` containers in each other. */
static bool is_deeper(const json_t *value, unsigned levels)
{
	const json_t *item;
	const char *key;
	size_t index;

	if (levels == 0)
		return json_is_object(value) || json_is_array(value);
	json_object_foreach ((json_t *)value, key, item)
		if (is_deeper(item, levels - 1))
			return true;
	json_array_foreach (value, index, item)
		if (is_deeper(item, levels - 1))
			return true;
	return false;
}

/* Make `document` (taken over when it fits) the content. Lock held. */
static int replace(struct mmds *mmds, json_t **document, struct error *err)
{
	size_t flags;
	size_t size;

	if (is_deeper(*document, DEPTH_MAX))
		return error_set(err, EINVAL, "the metadata is nested deeper than %d levels", DEPTH_MAX);
	flags = store_flags(*document);
	size = json_dumpb(*document, NULL, 0, flags);
	if (size == 0)
		return error_set(err, ENOMEM, "store metadata: out of memory");
	if (size > mmds->limit)
		return error_set(err, EMSGSIZE, "the metadata would have %zu bytes; the limit is %zu", size,
		                 mmds->limit);
	json_decref(mmds->document);
	mmds->document = TAKE_PTR(*document);
	mmds->flags = flags;
	return 0;
}

int mmds_put(struct mmds *mmds, const char *text, size_t size, struct error *err)
{
	cleanup_json json_t *document = NULL;
	int result = parse(text, size, &document, err);

	if (result < 0)
		return result;
	(void)pthread_mutex_lock(&mmds->lock);
	result = replace(mmds, &document, err);
	(void)pthread_mutex_unlock(&mmds->lock);
	return result;
}

/* RFC 7396, for an object `patch`. 0 or -1 without memory. */
static int merge(json_t *target, const json_t *patch)
{
	const char *key;
	json_t *value;
	json_t *old;

	json_object_foreach ((json_t *)patch, key, value) {
		if (json_is_null(value)) {
			(void)json_object_del(target, key);
			continue;
		}
		if (!json_is_object(value)) {
			if (json_object_set_new(target, key, json_deep_copy(value)) < 0)
				return -1;
			continue;
		}
		old = json_object_get(target, key);
		if (!json_is_object(old)) {
			old = json_object();
			if (json_object_set_new(target, key, old) < 0)
				return -1;
		}
		if (merge(old, value) < 0)
			return -1;
	}
	return 0;
}

static int patch_document(struct mmds *mmds, const json_t *patch, struct error *err)
{
	cleanup_json json_t *merged = NULL;

	if (!mmds->document)
		return error_set(err, ENOENT, "there is no metadata yet to be patched: it must be put first");
	if (json_is_object(patch))
		merged = json_is_object(mmds->document) ? json_deep_copy(mmds->document) : json_object();
	else
		merged = json_deep_copy(patch);
	if (!merged || (json_is_object(patch) && merge(merged, patch) < 0))
		return error_set(err, ENOMEM, "patch metadata: out of memory");
	return replace(mmds, &merged, err);
}

int mmds_patch(struct mmds *mmds, const char *text, size_t size, struct error *err)
{
	cleanup_json json_t *patch = NULL;
	int result = parse(text, size, &patch, err);

	if (result < 0)
		return result;
	(void)pthread_mutex_lock(&mmds->lock);
	result = patch_document(mmds, patch, err);
	(void)pthread_mutex_unlock(&mmds->lock);
	return result;
}

int mmds_get(struct mmds *mmds, struct buffer *to, struct error *err)
{
	int result;

	(void)pthread_mutex_lock(&mmds->lock);
	if (!mmds->document || json_is_null(mmds->document))
		result = buffer_append_string(to, "{}");
	else
		result = dump(mmds->document, mmds->flags, to);
	(void)pthread_mutex_unlock(&mmds->lock);
	return result < 0 ? error_errno(err, -result, "write metadata") : 0;
}

/* --- the guest's side --- */

/* One step of a JSON pointer: ~1 is '/', ~0 is '~'. */
static int unescape(const char *step, size_t size, struct buffer *to)
{
	int result = buffer_reserve(to, size + 1);

	buffer_clear(to);
	for (size_t i = 0; i < size && result == 0; i++) {
		bool escape = step[i] == '~' && i + 1 < size && (step[i + 1] == '0' || step[i + 1] == '1');

		result = buffer_append(to, escape && step[i + 1] == '1' ? "/" : step + i, 1);
		i += escape;
	}
	return result;
}

static const json_t *array_item(const json_t *array, const char *step)
{
	size_t size = strlen(step);

	if (size == 0 || size > 9 || strspn(step, "0123456789") != size || (step[0] == '0' && size > 1))
		return NULL;
	return json_array_get(array, strtoul(step, NULL, 10));
}

static int find(const json_t *value, const char *path, size_t size, const json_t **ret)
{
	cleanup_buffer struct buffer step = BUFFER_INIT;

	while (size > 0) {
		const char *slash = memchr(path, '/', size);
		size_t length = slash ? (size_t)(slash - path) : size;
		int result = unescape(path, length, &step);

		if (result < 0)
			return result;
		if (length > 0)
			value = json_is_array(value) ? array_item(value, step.data)
			                             : json_object_get(value, step.data);
		if (!value)
			return -ENOENT;
		path += length + (slash ? 1 : 0);
		size -= length + (slash ? 1 : 0);
	}
	*ret = value;
	return 0;
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The keys of an object, one per line, in order, '/' behind those of objects. */
static int write_keys(const json_t *object, struct buffer *to)
{
	size_t count = json_object_size(object);
	cleanup_free const char **keys = calloc(count + 1, sizeof(*keys));
	const char *key;
	json_t *value;
	size_t used = 0;
	int result = 0;

	if (!keys)
		return -ENOMEM;
	json_object_foreach ((json_t *)object, key, value)
		keys[used++] = key;
	qsort(keys, used, sizeof(*keys), compare_keys);
	for (size_t i = 0; i < used && result == 0; i++)
		result = buffer_printf(to, "%s%s%s", i ? "\n" : "", keys[i],
		                       json_is_object(json_object_get(object, keys[i])) ? "/" : "");
	return result;
}

int mmds_look_up(const struct mmds *mmds, const char *path, size_t size, bool json, struct buffer *to)
{
	const json_t *value;
	int result = mmds->document ? find(mmds->document, path, size, &value) : -ENOENT;

	if (result < 0)
		return result;
	if (json)
		return dump(value, mmds->flags, to);
	if (json_is_object(value))
		return write_keys(value, to);
	if (json_is_string(value))
		return buffer_append(to, json_string_value(value), json_string_length(value));
	return -ENOTSUP;
}
