/* template: what sandboxes are restored from. One directory per build, never changed once it is in place. */
#pragma once

#include "node/node.h"
#include "node/stack.h"

struct template
{
	struct list link;
	char build_id[40]; /* UUID; the directory's name */
	char name[128];
	char source[256]; /* what it was made from, as the builder's caller said */
	unsigned vcpu_count;
	unsigned memory_mib;
	unsigned disk_mib;
	int64_t created_at_ms;
	char default_user[64];
	char default_workdir[256];
	char warm_cmd[512];   /* what a spare sandbox rehearses, or "": must leave no trace */
	char boot_args[512];  /* boot.h */
	char start_cmd[4096]; /* what runs in it since it was built: a boot starts it again */
	json_t *env_vars;
	bool bootable;  /* it has its kernel: those of older builds have none */
	bool initrd;    /* that needs one */
	bool network;   /* a network interface: those of older builds have none */
	bool ephemeral; /* goes with the last sandbox that began from it */
	bool snapshot;  /* of a sandbox: nobody waits for the next one of it, so none is made in advance */
	struct stack_template stack;
	unsigned warm_failures; /* spare sandboxes in a row that did not get so far */
	int64_t warm_after_us;  /* monotonic: no new one before */
	bool has_working_set;   /* a file "working-set": the pages that the first spare sandbox touched */
	char directory[NODE_PATH_MAX];
};

/* Read all builds of the data directory; broken ones are reported and passed over. */
int templates_load(struct node *node, struct error *err);
void templates_free(struct node *node);

/* The newest build of a name, or a build by its id. NULL: none. */
struct template *template_find(struct node *node, const char *name_or_build);

/* Put the complete directory of a build in place, and take it in; `lasting`: it is there after a crash of the
 * host as well. NULL with `err`. */
struct template *template_put(struct node *node, const char *directory, const char *build_id, bool lasting,
                              struct error *err);

/* Take in a build whose directory is in place. NULL with `err`. */
struct template *template_add(struct node *node, const char *build_id, struct error *err);

/* Remove it, its files too. */
void template_remove(struct template *template);

/* Take in a copy of the file `path`, which `owner` wrote, as its working set. What is wrong with it is
 * logged. */
void template_take_working_set(struct template *template, const char *path, uid_t owner);

/* The object that the node API shows. */
json_t *template_json(const struct template *template);
