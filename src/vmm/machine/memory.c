/* The machine's memory: an image, where it lies for the guest, and what is dirty. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/machine/machine_internal.h"

/* Low memory up to the hole for devices, and the rest behind it; one piece in the image. */
static void set_regions(struct machine *machine, unsigned char *host, uint64_t size)
{
	struct guest_memory *memory = &machine->memory;
	uint64_t low = size < LAYOUT_HOLE_START ? size : LAYOUT_HOLE_START;

	memory->regions[memory->count++] = (struct guest_region){ 0, low, host };
	if (size > low)
		memory->regions[memory->count++] =
		        (struct guest_region){ LAYOUT_HOLE_END, size - low, host + low };
}

int machine_map_memory(struct machine *machine, const struct image_config *config, bool track_dirty,
                       struct error *err)
{
	machine->image = image_open(config, err);
	if (!machine->image)
		return -EIO;
	machine->memory_file = config->base_path != NULL;
	set_regions(machine, image_host(machine->image), config->size);
	if (track_dirty) {
		machine->memory.dirty = calloc(1, config->size / GUEST_PAGE / 8);
		if (!machine->memory.dirty)
			return error_errno(err, ENOMEM, "track dirty pages");
	}
	return vm_set_memory(&machine->vm, &machine->memory, err);
}

void machine_unmap_memory(struct machine *machine)
{
	image_close(machine->image);
	free(machine->memory.dirty);
	machine->memory = (struct guest_memory){ 0 };
	machine->image = NULL;
}

/* From here on pages are dirty that differ from what was just written. */
static void forget_dirty(struct machine *machine)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < machine->memory.count; i++)
		size += machine->memory.regions[i].size;
	if (machine->memory.dirty)
		memset(machine->memory.dirty, 0, size / GUEST_PAGE / 8);
}

int machine_save_memory(struct machine *machine, const char *path, bool diff, struct error *err)
{
	int ret = 0;

	if (machine->memory.dirty)
		ret = vm_collect_dirty(&machine->vm, &machine->memory, err);
	if (ret == 0 && diff)
		ret = image_write_layer(machine->image, machine->memory.dirty, path, err);
	else if (ret == 0)
		ret = image_write_full(machine->image, path, err);
	if (ret == 0)
		forget_dirty(machine);
	return ret;
}

int machine_record_working_set(struct machine *machine, const char *path, struct error *err)
{
	if (machine->state == MACHINE_NOT_STARTED)
		return error_set(err, EINVAL, "the machine has not been started");
	return image_record(machine->image, path, err);
}
