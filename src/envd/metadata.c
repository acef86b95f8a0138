#include "envd/metadata.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/xattr.h>

#include "base/base.h"

#define HEADER    "X-Metadata-"
#define NAMESPACE "user.e2b."
#define NAME_MAX_ 255  /* bytes of an attribute's name: the kernel's limit */
#define TOTAL_MAX 4096 /* bytes of names and values: ext4 keeps them in a block */
#define LIST_MAX  65536
#define VALUE_MAX 65536

static bool printable(const char *text)
{
	for (; *text; text++)
		if (*text < 0x20 || *text > 0x7e)
			return false;
	return true;
}

/* Add one header's. The first of a name wins. */
static int add_pair(json_t *metadata, const char *name, const char *value, size_t *total, struct error *err)
{
	char key[NAME_MAX_ + 1];
	size_t size = strlen(name);

	if (size > NAME_MAX_ - strlen(NAMESPACE))
		return error_set(err, EINVAL, "invalid metadata: the key '%.40s...' exceeds %zu bytes", name,
		                 NAME_MAX_ - strlen(NAMESPACE));
	for (size_t i = 0; i <= size; i++)
		key[i] = (char)tolower((unsigned char)name[i]);
	if (!printable(key) || !printable(value))
		return error_set(err, EINVAL, "invalid metadata: key and value must be printable ASCII");
	if (json_object_get(metadata, key))
		return 0;
	*total += strlen(NAMESPACE) + size + strlen(value);
	if (*total > TOTAL_MAX)
		return error_set(err, EINVAL, "invalid metadata: its total size exceeds %d bytes", TOTAL_MAX);
	return json_object_set_new(metadata, key, json_string(value)) < 0
	               ? error_errno(err, ENOMEM, "metadata")
	               : 0;
}

json_t *metadata_of_request(const struct http_exchange *exchange, struct error *err)
{
	size_t count;
	const struct http_header *headers = http_request_headers(exchange, &count);
	json_t *metadata = json_object();
	size_t total = 0;

	for (size_t i = 0; i < count; i++) {
		const char *name = headers[i].name;

		if (strncasecmp(name, HEADER, strlen(HEADER)) != 0 || !name[strlen(HEADER)])
			continue;
		if (add_pair(metadata, name + strlen(HEADER), headers[i].value, &total, err) < 0) {
			json_decref(metadata);
			return NULL;
		}
	}
	return metadata;
}

/* The key of an attribute of ours, or NULL. */
static const char *key_of(const char *name)
{
	return strncmp(name, NAMESPACE, strlen(NAMESPACE)) == 0 ? name + strlen(NAMESPACE) : NULL;
}

/* Remove those that are not in the new set. */
static int drop_others(int fd, const json_t *metadata)
{
	cleanup_free char *names = NULL;
	ssize_t size = flistxattr(fd, NULL, 0);

	if (size <= 0)
		return size < 0 ? -errno : 0;
	if (size > LIST_MAX || !(names = calloc(1, (size_t)size + 1)))
		return -ENOMEM;
	size = flistxattr(fd, names, (size_t)size);
	if (size < 0)
		return -errno;
	for (const char *name = names; name < names + size; name += strlen(name) + 1) {
		const char *key = key_of(name);

		if (key && !json_object_get(metadata, key) && fremovexattr(fd, name) < 0 && errno != ENODATA)
			return -errno;
	}
	return 0;
}

int metadata_write(int fd, const json_t *metadata, struct error *err)
{
	const char *key;
	json_t *value;
	int ret = drop_others(fd, metadata);

	json_object_foreach ((json_t *)(uintptr_t)metadata, key, value) {
		char name[NAME_MAX_ + 1];
		const char *text = json_string_value(value);

		(void)snprintf(name, sizeof(name), "%s%s", NAMESPACE, key);
		if (ret == 0 && fsetxattr(fd, name, text, strlen(text), 0) < 0)
			ret = -errno;
	}
	/* (Not on every file system; the file itself has been written.) */
	if (ret == 0 || ret == -ENOTSUP)
		return 0;
	return error_set(err, -ret, "error writing file metadata: %s", strerror(-ret));
}

static void read_one(json_t *metadata, const char *path, const char *name, const char *key)
{
	cleanup_free char *value = NULL;
	ssize_t size = getxattr(path, name, NULL, 0);

	if (size < 0 || size > VALUE_MAX || !(value = malloc((size_t)size + 1)))
		return;
	size = getxattr(path, name, value, (size_t)size);
	/* What programs in the sandbox put there may be no text: that is left out. */
	if (size >= 0 && !memchr(value, '\0', (size_t)size))
		(void)json_object_set_new(metadata, key, json_stringn(value, (size_t)size));
}

json_t *metadata_read(const char *path)
{
	cleanup_free char *names = NULL;
	ssize_t size = listxattr(path, NULL, 0);
	json_t *metadata;

	if (size <= 0 || size > LIST_MAX || !(names = calloc(1, (size_t)size + 1)))
		return NULL;
	size = listxattr(path, names, (size_t)size);
	metadata = json_object();
	for (const char *name = names; size > 0 && name < names + size; name += strlen(name) + 1)
		if (key_of(name))
			read_one(metadata, path, name, key_of(name));
	if (json_object_size(metadata))
		return metadata;
	json_decref(metadata);
	return NULL;
}
