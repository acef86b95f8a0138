#include "node/stack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/boot.h"
#include "node/node.h"
#include "node/places.h"

#define PATH_SIZE (NODE_PATH_MAX * 2)

/* --- by the jail's names --- */

static json_t *memory_layers(const struct stack_template *template, const struct stack *stack)
{
	json_t *layers = json_array();

	for (unsigned i = 1; !stack->full && i <= template->memory_layers; i++)
		(void)json_array_append_new(layers, json_sprintf(TEMPLATE_INSIDE "/memory.%u", i));
	for (unsigned i = stack->full; i < stack->pauses; i++)
		(void)json_array_append_new(layers, json_sprintf(DISK_INSIDE "/memory.%u", i));
	return layers;
}

static json_t *disk_layers(const struct stack_template *template, unsigned frozen)
{
	json_t *layers = json_array();

	(void)json_array_append_new(layers, json_string(TEMPLATE_INSIDE "/disk.layer"));
	for (unsigned i = 1; i <= template->disk_layers; i++)
		(void)json_array_append_new(layers, json_sprintf(TEMPLATE_INSIDE "/disk.layer.%u", i));
	for (unsigned i = 0; i < frozen; i++)
		(void)json_array_append_new(layers, json_sprintf(DISK_INSIDE "/disk.%u", i));
	return layers;
}

json_t *stack_load_request(const struct stack_template *template, const struct stack *stack, bool working_set,
                           bool resume)
{
	json_t *request = json_pack(
	        "{s:o,s:{s:s,s:o},s:o,s:b,s:[{s:s,s:s,s:o,s:o}],s:{s:s},s:{s:s}}", "snapshot_path",
	        stack->pauses ? json_sprintf(DISK_INSIDE "/state.%u", stack->pauses)
	                      : json_string(TEMPLATE_INSIDE "/state"),
	        "mem_backend", "backend_type", "File", "backend_path",
	        stack->full ? json_sprintf(DISK_INSIDE "/memory.%u", stack->full - 1)
	                    : json_string(TEMPLATE_INSIDE "/memory"),
	        "mem_layers", memory_layers(template, stack), "resume_vm", resume, "drive_overrides",
	        "drive_id", "rootfs", "path_on_host", TEMPLATE_INSIDE "/rootfs.ext4", "layers",
	        disk_layers(template, stack->frozen), "overlay_path",
	        json_sprintf(DISK_INSIDE "/disk.%u", stack->frozen), "vsock_override", "uds_path",
	        MONITOR_RUN "/vsock.sock", "serial_override", "serial_out_path", MONITOR_RUN "/serial.log");

	if (working_set)
		(void)json_object_set_new(request, "working_set_path",
		                          json_string(TEMPLATE_INSIDE WORKING_SET));
	return request;
}

static bool next_is_full(const struct stack_template *template, const struct stack *stack)
{
	unsigned layers = stack->full ? stack->pauses - stack->full : template->memory_layers + stack->pauses;

	return stack->fresh || layers >= STACK_PAUSES_MAX;
}

json_t *stack_pause_request(const struct stack_template *template, const struct stack *stack)
{
	return json_pack("{s:s,s:o,s:o}", "snapshot_type", next_is_full(template, stack) ? "Full" : "Diff",
	                 "snapshot_path", json_sprintf(DISK_INSIDE "/state.%u", stack->pauses + 1),
	                 "mem_file_path", json_sprintf(DISK_INSIDE "/memory.%u", stack->pauses));
}

struct stack stack_paused(const struct stack_template *template, const struct stack *stack)
{
	struct stack next = *stack;

	next.pauses++;
	if (next_is_full(template, stack))
		next.full = next.pauses;
	next.fresh = false;
	return next;
}

struct stack stack_paused_disk(const struct stack_template *template, const struct stack *stack)
{
	struct stack next = *stack;

	next.fresh = true;
	/* disk.layer is one too. */
	next.void_top = 1 + template->disk_layers + stack->frozen < STACK_REBOOT_LAYERS_MAX;
	next.frozen += next.void_top;
	return next;
}

json_t *stack_drive_request(const struct stack_template *template, const struct stack *stack)
{
	return json_pack("{s:s,s:s,s:b,s:s,s:o,s:o}", "drive_id", "rootfs", "path_on_host",
	                 TEMPLATE_INSIDE "/rootfs.ext4", "is_root_device", 1, "cache_type", "Writeback",
	                 "layers", disk_layers(template, stack->frozen), "overlay_path",
	                 json_sprintf(DISK_INSIDE "/disk.%u", stack->frozen));
}

json_t *stack_freeze_request(const struct stack_template *template, const struct stack *stack)
{
	return json_pack("{s:s,s:o,s:o}", "drive_id", "rootfs", "layers",
	                 disk_layers(template, stack->frozen + 1), "overlay_path",
	                 json_sprintf(DISK_INSIDE "/disk.%u", stack->frozen + 1));
}

struct stack stack_frozen(const struct stack *stack)
{
	struct stack next = *stack;

	next.frozen++;
	return next;
}

/* --- files --- */

static int link_file(const char *from, const char *name, const char *to, const char *as, struct error *err)
{
	char source[PATH_SIZE];
	char target[PATH_SIZE];

	(void)snprintf(source, sizeof(source), "%s/%s", from, name);
	(void)snprintf(target, sizeof(target), "%s/%s", to, as);
	return link(source, target) < 0 ? error_errno(err, errno, "link %s as %s", source, target) : 0;
}

static int link_numbered(const char *from, const char *name, unsigned number, const char *to, const char *as,
                         unsigned as_number, struct error *err)
{
	char source[64];
	char target[64];

	(void)snprintf(source, sizeof(source), "%s.%u", name, number);
	(void)snprintf(target, sizeof(target), "%s.%u", as, as_number);
	return link_file(from, source, to, target, err);
}

/* What not every template has. */
static int link_if_there(const char *from, const char *name, const char *to, struct error *err)
{
	char source[PATH_SIZE];

	(void)snprintf(source, sizeof(source), "%s/%s", from, name);
	return access(source, F_OK) < 0 && errno == ENOENT ? 0 : link_file(from, name, to, name, err);
}

static int link_memory(const char *template_directory, const struct stack_template *template,
                       const char *directory, const struct stack *stack, const char *target,
                       unsigned *ret_layers, struct error *err)
{
	unsigned layers = 0;
	int ret = 0;

	if (stack->full) {
		char name[32];

		(void)snprintf(name, sizeof(name), "memory.%u", stack->full - 1);
		ret = link_file(directory, name, target, "memory", err);
	} else {
		ret = link_file(template_directory, "memory", target, "memory", err);
		for (unsigned i = 1; ret == 0 && i <= template->memory_layers; i++)
			ret = link_numbered(template_directory, "memory", i, target, "memory", ++layers, err);
	}
	for (unsigned i = stack->full; ret == 0 && i < stack->pauses; i++)
		ret = link_numbered(directory, "memory", i, target, "memory", ++layers, err);
	*ret_layers = layers;
	return ret;
}

int stack_link(const char *template_directory, const struct stack_template *template, const char *directory,
               const struct stack *stack, const char *target, struct stack_template *ret_template,
               struct error *err)
{
	char state[32];
	unsigned disks = 0;
	int ret = link_memory(template_directory, template, directory, stack, target,
	                      &ret_template->memory_layers, err);

	(void)snprintf(state, sizeof(state), "state.%u", stack->pauses);
	if (ret == 0)
		ret = link_file(directory, state, target, "state", err);
	if (ret == 0)
		ret = link_file(template_directory, "rootfs.ext4", target, "rootfs.ext4", err);
	if (ret == 0)
		ret = link_file(template_directory, "disk.layer", target, "disk.layer", err);
	if (ret == 0)
		ret = link_if_there(template_directory, BOOT_KERNEL, target, err);
	if (ret == 0)
		ret = link_if_there(template_directory, BOOT_INITRD, target, err);
	for (unsigned i = 1; ret == 0 && i <= template->disk_layers; i++)
		ret = link_numbered(template_directory, "disk.layer", i, target, "disk.layer", ++disks, err);
	for (unsigned i = 0; ret == 0 && i < stack->frozen; i++)
		ret = link_numbered(directory, "disk", i, target, "disk.layer", ++disks, err);
	ret_template->disk_layers = disks;
	return ret;
}

/* By a descriptor: the directory is the monitor's, who could put a link in place of the file. */
int stack_give(const char *directory, const char *name, uid_t from, uid_t uid, gid_t gid, mode_t mode,
               struct error *err)
{
	char path[PATH_SIZE];
	cleanup_close int fd = -1;
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "open %s", path);
	if (!S_ISREG(st.st_mode) || (st.st_uid != from && st.st_uid != uid))
		return error_set(err, EPERM, "%s is not what it should be", path);
	if (fchown(fd, uid, gid) < 0 || fchmod(fd, mode) < 0)
		return error_errno(err, errno, "own %s", path);
	return 0;
}

int stack_seal(const char *directory, const struct stack *stack, uid_t owner, struct error *err)
{
	char name[32];
	int ret = 0;

	if (stack->pauses && !stack->fresh) {
		(void)snprintf(name, sizeof(name), "state.%u", stack->pauses);
		ret = stack_give(directory, name, owner, 0, 0, 0644, err);
		(void)snprintf(name, sizeof(name), "memory.%u", stack->pauses - 1);
		if (ret == 0)
			ret = stack_give(directory, name, owner, 0, 0, 0644, err);
	}
	for (unsigned i = 0; ret == 0 && i < stack->frozen; i++) {
		(void)snprintf(name, sizeof(name), "disk.%u", i);
		ret = stack_give(directory, name, owner, 0, 0, 0644, err);
	}
	return ret;
}

int stack_own_top(const char *directory, const struct stack *stack, uid_t uid, gid_t gid, struct error *err)
{
	char path[PATH_SIZE];
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s/disk.%u", directory, stack->frozen);
	/* The monitor makes what is missing. */
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "%s", path);
	return stack_give(directory, strrchr(path, '/') + 1, st.st_uid, uid, gid, 0600, err);
}

void stack_clean(const char *directory, const struct stack *stack)
{
	char path[PATH_SIZE];

	(void)snprintf(path, sizeof(path), "%s/memory.%u", directory, stack->pauses);
	(void)unlink(path);
	(void)snprintf(path, sizeof(path), "%s/memory.%u.new", directory, stack->pauses);
	(void)unlink(path);
	(void)snprintf(path, sizeof(path), "%s/state.%u", directory, stack->pauses + 1);
	(void)unlink(path);
	if (stack->pauses > 0) {
		/* The state before the last; it was kept until the last one counted. */
		(void)snprintf(path, sizeof(path), "%s/state.%u", directory, stack->pauses - 1);
		(void)unlink(path);
	}
	if (stack->fresh) {
		(void)snprintf(path, sizeof(path), "%s/state.%u", directory, stack->pauses);
		(void)unlink(path);
	}
	for (unsigned i = 0; stack->fresh ? i < stack->pauses : i + 1 < stack->full; i++) {
		(void)snprintf(path, sizeof(path), "%s/memory.%u", directory, i);
		(void)unlink(path);
	}
}

int stack_drop_top(const char *directory, const struct stack *stack, struct error *err)
{
	char path[PATH_SIZE];

	(void)snprintf(path, sizeof(path), "%s/disk.%u", directory, stack->frozen);
	if (stack->void_top && unlink(path) < 0 && errno != ENOENT)
		return error_errno(err, errno, "remove %s", path);
	return 0;
}
