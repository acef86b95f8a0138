#include "envd/gzip.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

#define PIECE       (64 * 1024)
#define GZIP_FORMAT (15 + 16) /* windowBits: the largest window, and gzip's head and trailer */
#define LEVEL       1         /* the client waits for the first byte, and the guest has few processors */
#define MEMORY      8

struct gzip_reader {
	z_stream z;
	gzip_data_fn *on_data;
	void *context;
	bool begun; /* a member began and did not end */
	bool seen;  /* a member ended */
	unsigned char piece[PIECE];
};

struct gzip_writer {
	z_stream z;
};

struct gzip_reader *gzip_reader_new(gzip_data_fn *on_data, void *context)
{
	struct gzip_reader *reader = calloc(1, sizeof(*reader));

	if (!reader || inflateInit2(&reader->z, GZIP_FORMAT) != Z_OK) {
		free(reader);
		return NULL;
	}
	reader->on_data = on_data;
	reader->context = context;
	return reader;
}

void gzip_reader_free(struct gzip_reader *reader)
{
	if (!reader)
		return;
	(void)inflateEnd(&reader->z);
	free(reader);
}

/* One step of zlib, and its output to the taker. */
static int read_piece(struct gzip_reader *reader)
{
	size_t size;
	int ret;

	reader->z.next_out = reader->piece;
	reader->z.avail_out = PIECE;
	reader->begun = true;
	ret = inflate(&reader->z, Z_NO_FLUSH);
	size = PIECE - reader->z.avail_out;
	if (ret == Z_MEM_ERROR)
		return -ENOMEM;
	/* (Z_BUF_ERROR: nothing to be done until more comes.) */
	if (ret != Z_OK && ret != Z_STREAM_END && ret != Z_BUF_ERROR)
		return -EINVAL;
	if (ret == Z_STREAM_END) {
		reader->begun = false;
		reader->seen = true;
		(void)inflateReset(&reader->z);
	}
	return size ? reader->on_data((const char *)reader->piece, size, reader->context) : 0;
}

int gzip_reader_feed(struct gzip_reader *reader, const char *data, size_t size)
{
	while (size) {
		uInt part = size < PIECE ? (uInt)size : PIECE;
		int ret = 0;

		reader->z.next_in = (Bytef *)(uintptr_t)data;
		reader->z.avail_in = part;
		/* A full piece may mean that more waits inside, although all input was taken. */
		do
			ret = read_piece(reader);
		while (ret == 0 && (reader->z.avail_in || (reader->begun && !reader->z.avail_out)));
		if (ret < 0)
			return ret;
		data += part;
		size -= part;
	}
	return 0;
}

bool gzip_reader_complete(const struct gzip_reader *reader)
{
	return reader->seen && !reader->begun;
}

struct gzip_writer *gzip_writer_new(void)
{
	struct gzip_writer *writer = calloc(1, sizeof(*writer));

	if (!writer ||
	    deflateInit2(&writer->z, LEVEL, Z_DEFLATED, GZIP_FORMAT, MEMORY, Z_DEFAULT_STRATEGY) != Z_OK) {
		free(writer);
		return NULL;
	}
	return writer;
}

void gzip_writer_free(struct gzip_writer *writer)
{
	if (!writer)
		return;
	(void)deflateEnd(&writer->z);
	free(writer);
}

int gzip_writer_feed(struct gzip_writer *writer, const char *data, size_t size, bool last, struct buffer *to)
{
	unsigned char piece[16384];
	int ret = 0;

	if (size > UINT32_MAX)
		return -EMSGSIZE;
	writer->z.next_in = (Bytef *)(uintptr_t)data;
	writer->z.avail_in = (uInt)size;
	do {
		writer->z.next_out = piece;
		writer->z.avail_out = sizeof(piece);
		(void)deflate(&writer->z, last ? Z_FINISH : Z_NO_FLUSH);
		ret = buffer_append(to, piece, sizeof(piece) - writer->z.avail_out);
	} while (ret == 0 && !writer->z.avail_out);
	return ret;
}
