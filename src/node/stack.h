/*
 * stack: which files make up a machine that does not run. Memory and disk are stacks of layers
 * (vmm/snapshot/image.h, layer/disk.h): the template's files at the bottom, the sandbox's own over them.
 *
 * In a template's directory: rootfs.ext4, memory, state; over these disk.layer, disk.layer.1, ... and
 * memory.1, ... In a sandbox's: disk.0, disk.1, ..., of which the last is written to while it runs, and
 * memory.0, ..., one for each pause, with the state of the last one, state.N.
 *
 * A pause may keep the disk alone. Then the machine is booted anew, from a kernel that the template has
 * beside these files (boot.h); its memory stands on no file until a pause has written all of it.
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/base.h"

#define STACK_PAUSES_MAX                                                                                     \
	24 /* beyond them a pause writes all of the memory: layers are limited, and cost a look each */
#define STACK_REBOOT_LAYERS_MAX                                                                              \
	8 /* of a disk: beyond them a pause of the disk alone adds none, which leaves some to snapshots */

/* Of a sandbox. */
struct stack {
	unsigned pauses; /* memory.0 to memory.(pauses - 1) have been written */
	unsigned full;   /* the last of them that is a whole memory, plus 1; 0: the template's is below */
	unsigned frozen; /* disk.0 to disk.(frozen - 1) are not written to any more; disk.frozen is */
	bool fresh;      /* it was booted since, or is to be: no file has anything of its memory */
	bool void_top;   /* of a pause: disk.frozen holds nothing that counts, whatever is in it */
};

/* Of a template, beside its first files. */
struct stack_template {
	unsigned memory_layers; /* memory.1 to memory.N */
	unsigned disk_layers;   /* disk.layer.1 to disk.layer.N */
};

/*
 * The body of PUT /snapshot/load, by the names that a monitor's jail has for the two directories. `resume`
 * lets the machine run at once.
 */
json_t *stack_load_request(const struct stack_template *template, const struct stack *stack, bool working_set,
                           bool resume);

/* The body of PUT /snapshot/create for the next pause; and what it makes of the stack. */
json_t *stack_pause_request(const struct stack_template *template, const struct stack *stack);
struct stack stack_paused(const struct stack_template *template, const struct stack *stack);

/* The body of PATCH /drives/rootfs that freezes the disk, and what that makes of the stack. */
json_t *stack_freeze_request(const struct stack_template *template, const struct stack *stack);
struct stack stack_frozen(const struct stack *stack);

/*
 * A pause that keeps the disk alone: what it makes of the stack. A void top takes stack_freeze_request. With
 * too many layers there is none: the boot writes to the top there is, and one that fails is, for the disk,
 * one of a machine that lost its power.
 */
struct stack stack_paused_disk(const struct stack_template *template, const struct stack *stack);

/* The body of PUT /drives/rootfs of a machine that is booted. */
json_t *stack_drive_request(const struct stack_template *template, const struct stack *stack);

/*
 * Make the files of a template in `target` (a directory that is there) from those of `template` and a
 * sandbox's, whose memory was saved as its next pause's and whose disk was frozen: by links, nothing is
 * copied. 0 or -errno with `err`.
 */
int stack_link(const char *template_directory, const struct stack_template *template, const char *directory,
               const struct stack *stack, const char *target, struct stack_template *ret_template,
               struct error *err);

/* A regular file in a monitor's directory becomes `uid`'s; until now it is `from`'s. 0, or -errno with `err`:
 * -EPERM when the monitor has put something else there. */
int stack_give(const char *directory, const char *name, uid_t from, uid_t uid, gid_t gid, mode_t mode,
               struct error *err);

/*
 * Files of a pause become root's, who alone may write them from now on: state, memory and frozen disk layers
 * of `stack`, which `owner`'s monitor has written. And the disk's top becomes the next monitor's.
 */
int stack_seal(const char *directory, const struct stack *stack, uid_t owner, struct error *err);
int stack_own_top(const char *directory, const struct stack *stack, uid_t uid, gid_t gid, struct error *err);

/* Remove what a pause or a snapshot left half made: files beyond the stack, and memory that counts no more.
 */
void stack_clean(const char *directory, const struct stack *stack);

/* Remove the top of a pause's disk if it counts for nothing: before a boot, and after one that failed. 0 or
 * -errno with `err`. */
int stack_drop_top(const char *directory, const struct stack *stack, struct error *err);
