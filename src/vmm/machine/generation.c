#include "vmm/machine/generation.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/layout.h"

int generation_init(struct generation *generation, struct vm *vm, struct error *err)
{
	generation->irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (generation->irq < 0)
		return error_errno(err, errno, "make the interrupt of the generation ID");
	return vm_set_irqfd(vm, generation->irq, LAYOUT_GSI_GENERATION, err);
}

void generation_fini(struct generation *generation)
{
	if (generation->irq >= 0)
		close(generation->irq);
	generation->irq = -1;
}

void generation_renew(const struct guest_memory *memory)
{
	void *id = guest_memory_at(memory, LAYOUT_GENERATION, LAYOUT_GENERATION_SIZE);

	if (!id)
		return;
	guest_memory_mark(memory, LAYOUT_GENERATION, LAYOUT_GENERATION_SIZE);
	random_bytes(id, LAYOUT_GENERATION_SIZE);
}

void generation_notify(const struct generation *generation)
{
	uint64_t one = 1;

	/* A full counter is a pending signal already. */
	if (write(generation->irq, &one, sizeof(one)) < 0)
		return;
}
