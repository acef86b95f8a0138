/* The state file: a header, then sections one after the other, each with its own small head. */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "vmm/snapshot/snapshot.h"

#define MAGIC     "ATOLLSN"          /* 8 bytes with the NUL */
#define FILE_MAX  (16 * 1024 * 1024) /* of a state file: far more than 16 vCPUs and 19 devices need */
#define ALIGNMENT 8

struct file_header {
	char magic[8];
	uint32_t version;
	uint32_t section_count;
	uint64_t size; /* of the whole file */
	uint32_t crc;  /* CRC-32C of the file with this field 0 */
	uint32_t reserved;
};

struct section_header {
	uint32_t kind;
	uint32_t index;
	uint64_t size; /* bytes that follow; then padding up to ALIGNMENT */
};

static uint64_t padded(uint64_t size)
{
	return (size + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
}

void snapshot_writer_init(struct snapshot_writer *writer)
{
	struct file_header header = { .magic = MAGIC };

	writer->count = 0;
	buffer_init(&writer->data, FILE_MAX);
	/* A failure shows at the first section: the header is not there then. */
	(void)buffer_append(&writer->data, &header, sizeof(header));
}

void snapshot_writer_fini(struct snapshot_writer *writer)
{
	buffer_fini(&writer->data);
}

int snapshot_add(struct snapshot_writer *writer, enum snapshot_section kind, uint32_t index, const void *data,
                 size_t size, struct error *err)
{
	static const char padding[ALIGNMENT];
	struct section_header header = { .kind = kind, .index = index, .size = size };

	if (writer->data.size < sizeof(struct file_header) ||
	    buffer_append(&writer->data, &header, sizeof(header)) < 0 ||
	    buffer_append(&writer->data, data, size) < 0 ||
	    buffer_append(&writer->data, padding, padded(size) - size) < 0)
		return error_errno(err, ENOMEM, "add section %d to the snapshot", (int)kind);
	writer->count++;
	return 0;
}

static uint32_t file_crc(const char *data, size_t size)
{
	struct file_header header;

	memcpy(&header, data, sizeof(header));
	header.crc = 0;
	return crc32c(crc32c(0, &header, sizeof(header)), data + sizeof(header), size - sizeof(header));
}

int snapshot_write(struct snapshot_writer *writer, const char *path, struct error *err)
{
	struct file_header header = { .magic = MAGIC,
		                      .version = SNAPSHOT_VERSION,
		                      .section_count = writer->count,
		                      .size = writer->data.size };

	memcpy(writer->data.data, &header, sizeof(header));
	header.crc = file_crc(writer->data.data, writer->data.size);
	memcpy(writer->data.data, &header, sizeof(header));
	return file_write_atomic(path, writer->data.data, writer->data.size, 0644, err);
}

/* The section at *offset, which moves behind it. False when it does not lie in the file. */
static bool next_section(const struct buffer *data, uint64_t *offset, struct section_header *header,
                         const char **ret_body)
{
	uint64_t body = *offset + sizeof(*header);

	if (!checked_range(*offset, sizeof(*header), data->size))
		return false;
	memcpy(header, data->data + *offset, sizeof(*header));
	if (header->size > FILE_MAX || !checked_range(body, padded(header->size), data->size))
		return false;
	*ret_body = data->data + body;
	*offset = body + padded(header->size);
	return true;
}

static int check(const struct buffer *data, struct error *err)
{
	struct file_header header;
	struct section_header section;
	uint64_t offset = sizeof(header);
	const char *body;

	if (data->size < sizeof(header))
		return error_set(err, EINVAL, "it is cut short");
	memcpy(&header, data->data, sizeof(header));
	if (memcmp(header.magic, MAGIC, sizeof(header.magic)) != 0)
		return error_set(err, EINVAL, "it is no snapshot");
	if (header.version != SNAPSHOT_VERSION)
		return error_set(err, EINVAL, "it has version %u, this monitor reads version %d",
		                 header.version, SNAPSHOT_VERSION);
	if (header.size != data->size)
		return error_set(err, EINVAL, "it should have %llu bytes and has %zu",
		                 (unsigned long long)header.size, data->size);
	if (file_crc(data->data, data->size) != header.crc)
		return error_set(err, EINVAL, "its checksum is wrong: it is damaged");
	for (uint32_t i = 0; i < header.section_count; i++)
		if (!next_section(data, &offset, &section, &body))
			return error_set(err, EINVAL, "section %u lies outside of it", i);
	if (offset != data->size)
		return error_set(err, EINVAL, "it has bytes behind its last section");
	return 0;
}

int snapshot_read(struct snapshot_reader *reader, const char *path, struct error *err)
{
	int ret;

	buffer_init(&reader->data, FILE_MAX);
	ret = file_read(path, &reader->data, err);
	if (ret == 0)
		ret = check(&reader->data, err);
	if (ret < 0) {
		buffer_fini(&reader->data);
		return error_wrap(err, "read snapshot %s", path);
	}
	return 0;
}

void snapshot_reader_fini(struct snapshot_reader *reader)
{
	buffer_fini(&reader->data);
}

int snapshot_find(const struct snapshot_reader *reader, enum snapshot_section kind, uint32_t index,
                  const void **ret_data, size_t *ret_size, struct error *err)
{
	struct section_header section;
	uint64_t offset = sizeof(struct file_header);
	const char *body;

	while (next_section(&reader->data, &offset, &section, &body)) {
		if (section.kind == (uint32_t)kind && section.index == index) {
			*ret_data = body;
			*ret_size = (size_t)section.size;
			return 0;
		}
	}
	return error_set(err, ENOENT, "the snapshot has no section %d.%u", (int)kind, index);
}
