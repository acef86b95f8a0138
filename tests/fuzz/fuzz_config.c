/*
 * Fuzz the reading of configurations: hostile is any text, as a file or the first section of a snapshot. What
 * is taken must keep the limits that the machine relies on, and mean the same with all defaults filled in.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "vmm/config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t total; /* so that no string goes unread */

static void use(const char *text)
{
	total += text ? strlen(text) : 0;
}

static void check_drive(const struct block_config *drive)
{
	if (!memchr(drive->id, 0, sizeof(drive->id)) || !drive->id[0] || !drive->path ||
	    drive->layer_count > BLOCK_LAYERS_MAX)
		abort();
	use(drive->path);
	use(drive->overlay_path);
	for (unsigned i = 0; i < drive->layer_count; i++)
		use(drive->layers[i]);
}

static void check_net(const struct net_config *net)
{
	if (!memchr(net->id, 0, sizeof(net->id)) || !net->id[0] || !net->host_dev_name ||
	    (net->mtu && (net->mtu < 68 || net->mtu > 65535)))
		abort();
	use(net->host_dev_name);
}

/* Two of one name could not be told apart. */
static void check_names(const struct machine_config *config)
{
	for (unsigned i = 0; i < config->drive_count; i++)
		for (unsigned j = 0; j < i; j++)
			if (strcmp(config->drives[i].id, config->drives[j].id) == 0)
				abort();
	for (unsigned i = 0; i < config->net_count; i++)
		for (unsigned j = 0; j < i; j++)
			if (strcmp(config->nets[i].id, config->nets[j].id) == 0)
				abort();
}

static void check(const struct machine_config *config)
{
	if (config->vcpu_count < 1 || config->vcpu_count > LAYOUT_VCPUS_MAX || config->mem_size_mib < 128 ||
	    config->mem_size_mib > 32768 || config->drive_count > MACHINE_DRIVES_MAX ||
	    config->net_count > MACHINE_NETS_MAX || config->mmds ||
	    (config->has_root_drive && !config->drive_count) ||
	    (config->vsock.guest_cid && (config->vsock.guest_cid < 3 || !config->vsock.uds_path)) ||
	    config->balloon.amount_mib > config->mem_size_mib)
		abort();
	for (unsigned i = 0; i < config->drive_count; i++)
		check_drive(&config->drives[i]);
	for (unsigned i = 0; i < config->net_count; i++)
		check_net(&config->nets[i]);
	for (unsigned i = config->net_count; i < MACHINE_NETS_MAX; i++)
		if (config->metadata_on[i])
			abort();
	check_names(config);
	use(config->kernel_image_path);
	use(config->initrd_path);
	use(config->boot_args);
	use(config->root_partuuid);
	use(config->serial_out_path);
	use(config->vsock.uds_path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_json json_t *root = NULL;
	static struct machine_config config;
	static struct machine_config again;

	if (json_parse_object((const char *)data, size, &root, NULL) < 0 ||
	    config_read(root, &config, NULL) < 0)
		return 0;
	check(&config);
	config_complete(root);
	if (config_read(root, &again, NULL) < 0)
		abort();
	/* The strings are the same ones, so all of it compares. */
	if (memcmp(&config, &again, sizeof(config)) != 0)
		abort();
	return 0;
}
