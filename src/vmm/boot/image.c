/* Kernel and initial RAM disk: from files to guest memory. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/boot/boot.h"
#include "vmm/layout.h"

#define SEGMENTS_MAX 64

/* Read `size` bytes of the file at `offset` straight into guest memory. */
static int read_into_guest(int fd, uint64_t offset, uint64_t size, void *host)
{
	int ret = fd_pread_all(fd, host, size, offset);

	return ret == -EPIPE ? -ENOEXEC : ret; /* the file is shorter than it says */
}

static int header_check(const Elf64_Ehdr *header, const char *path, struct error *err)
{
	if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
		return error_set(err, ENOEXEC, "%s is not an ELF kernel (vmlinux)", path);
	if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
	    header->e_machine != EM_X86_64)
		return error_set(err, ENOEXEC, "%s is not a kernel for x86-64", path);
	if (header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phnum == 0 ||
	    header->e_phnum > SEGMENTS_MAX)
		return error_set(err, ENOEXEC, "%s has a malformed program header table", path);
	return 0;
}

static int load_segment(int fd, const Elf64_Phdr *segment, uint64_t file_size,
                        const struct guest_memory *memory, const char *path, struct error *err)
{
	void *host;
	int ret;

	if (segment->p_filesz > segment->p_memsz ||
	    !checked_range(segment->p_offset, segment->p_filesz, file_size))
		return error_set(err, ENOEXEC, "%s has a segment that leaves the file", path);
	if (segment->p_paddr < LAYOUT_KERNEL)
		return error_set(err, ENOEXEC, "%s wants to be loaded below 1 MiB", path);
	host = guest_memory_at(memory, segment->p_paddr, segment->p_memsz);
	if (!host)
		return error_set(err, ENOMEM,
		                 "%s does not fit the guest's memory: a segment wants %#llx to %#llx", path,
		                 (unsigned long long)segment->p_paddr,
		                 (unsigned long long)(segment->p_paddr + segment->p_memsz));
	ret = read_into_guest(fd, segment->p_offset, segment->p_filesz, host);
	/* The rest of p_memsz is zero already: the guest's memory is new. */
	return ret < 0 ? error_errno(err, -ret, "read %s", path) : 0;
}

int boot_load_elf(const char *path, const struct guest_memory *memory, uint64_t *ret_entry, struct error *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf64_Phdr segments[SEGMENTS_MAX];
	Elf64_Ehdr header;
	struct stat st;
	size_t size;
	int ret;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "open kernel %s", path);
	if (pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
		return error_set(err, ENOEXEC, "%s is not an ELF kernel (vmlinux)", path);
	ret = header_check(&header, path, err);
	if (ret < 0)
		return ret;
	size = header.e_phnum * sizeof(segments[0]);
	if (header.e_phoff > INT64_MAX || pread(fd, segments, size, (off_t)header.e_phoff) != (ssize_t)size)
		return error_set(err, ENOEXEC, "%s has a malformed program header table", path);
	for (unsigned i = 0; ret == 0 && i < header.e_phnum; i++) {
		if (segments[i].p_type == PT_LOAD && segments[i].p_memsz)
			ret = load_segment(fd, &segments[i], (uint64_t)st.st_size, memory, path, err);
	}
	if (ret == 0 && !guest_memory_at(memory, header.e_entry, 1))
		return error_set(err, ENOEXEC, "the entry point of %s is not in memory", path);
	*ret_entry = header.e_entry;
	return ret;
}

int boot_load_initrd(const char *path, const struct guest_memory *memory, uint64_t *ret_gpa,
                     uint64_t *ret_size, struct error *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	const struct guest_region *low = &memory->regions[0];
	struct stat st;
	uint64_t gpa;
	void *host;
	int ret;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "open initial RAM disk %s", path);
	if (st.st_size <= 0 || (uint64_t)st.st_size > low->size / 2)
		return error_set(err, EFBIG, "%s does not fit the guest's memory", path);
	gpa = (low->gpa + low->size - (uint64_t)st.st_size) & ~0xfffull;
	host = guest_memory_at(memory, gpa, (uint64_t)st.st_size);
	if (!host)
		return error_set(err, EFBIG, "%s does not fit the guest's memory", path);
	ret = read_into_guest(fd, 0, (uint64_t)st.st_size, host);
	if (ret < 0)
		return error_errno(err, -ret, "read %s", path);
	*ret_gpa = gpa;
	*ret_size = (uint64_t)st.st_size;
	return 0;
}
