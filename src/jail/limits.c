#include <errno.h>
#include <sys/resource.h>

#include "jail/parts.h"

#define FILES_DEFAULT 4096 /* a vsock connection is a descriptor: 1023 of them, and some */

static int set_limit(int resource, uint64_t value, const char *what, struct error *err)
{
	const struct rlimit limit = { value, value };

	return setrlimit((__rlimit_resource_t)resource, &limit) < 0
	               ? error_errno(err, errno, "limit %s to %llu", what, (unsigned long long)value)
	               : 0;
}

int limits_set(const struct jail *jail, struct error *err)
{
	int ret = set_limit(RLIMIT_NOFILE, jail->files ? jail->files : FILES_DEFAULT, "descriptors (no-file)",
	                    err);

	if (ret == 0 && jail->file_size)
		ret = set_limit(RLIMIT_FSIZE, jail->file_size, "the size of files (fsize)", err);
	return ret < 0 ? ret : set_limit(RLIMIT_CORE, 0, "core dumps", err);
}
