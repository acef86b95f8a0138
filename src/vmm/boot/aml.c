#include "vmm/boot/aml.h"

#include <string.h>

#define OP_DWORD     0x0c
#define OP_STRING    0x0d
#define OP_NAME      0x08
#define OP_SCOPE     0x10
#define OP_BUFFER    0x11
#define OP_PACKAGE   0x12
#define OP_METHOD    0x14
#define OP_ARGUMENT0 0x68
#define OP_NOTIFY    0x86
#define OP_EQUAL     0x93
#define OP_IF        0xa0
#define OP_BYTE      0x0a
#define PREFIX_DUAL  0x2e
#define OP_EXTENDED  0x5b
#define OP_DEVICE    0x82 /* behind OP_EXTENDED */

#define TAG_IO       0x47
#define TAG_END      0x79
#define TAG_MEMORY32 0x86
#define TAG_IRQ      0x89

/*
 * Package lengths are written in their three-byte form (20.2.4), so that they can be filled in when the end
 * is known: bits 7:6 of the first byte say that two follow, bits 3:0 are the low ones.
 */
#define LENGTH_BYTES 3

static void put(struct aml *aml, const void *data, size_t size)
{
	if (aml->size <= aml->limit && size <= aml->limit - aml->size)
		memcpy(aml->data + aml->size, data, size);
	aml->size += size;
}

static void put_byte(struct aml *aml, unsigned value)
{
	unsigned char byte = (unsigned char)value;

	put(aml, &byte, 1);
}

static void put_word(struct aml *aml, unsigned value)
{
	put_byte(aml, value & 0xff);
	put_byte(aml, value >> 8 & 0xff);
}

static void put_dword(struct aml *aml, uint32_t value)
{
	put_word(aml, value & 0xffff);
	put_word(aml, value >> 16);
}

static size_t begin_package(struct aml *aml)
{
	size_t mark = aml->size;

	put(aml, (unsigned char[LENGTH_BYTES]){ 0 }, LENGTH_BYTES);
	return mark;
}

static void put_name(struct aml *aml, const char *name)
{
	put_byte(aml, OP_NAME);
	put(aml, name, 4);
}

size_t aml_scope(struct aml *aml, const char *name)
{
	size_t mark;

	put_byte(aml, OP_SCOPE);
	mark = begin_package(aml);
	put(aml, name, 4);
	return mark;
}

size_t aml_device(struct aml *aml, const char *name)
{
	size_t mark;

	put_byte(aml, OP_EXTENDED);
	put_byte(aml, OP_DEVICE);
	mark = begin_package(aml);
	put(aml, name, 4);
	return mark;
}

size_t aml_method(struct aml *aml, const char *name)
{
	size_t mark;

	put_byte(aml, OP_METHOD);
	mark = begin_package(aml);
	put(aml, name, 4);
	put_byte(aml, 1 | 1 << 3); /* one argument; serialized */
	return mark;
}

size_t aml_if_argument(struct aml *aml, uint32_t value)
{
	size_t mark;

	put_byte(aml, OP_IF);
	mark = begin_package(aml);
	put_byte(aml, OP_EQUAL);
	put_byte(aml, OP_ARGUMENT0);
	put_byte(aml, OP_DWORD);
	put_dword(aml, value);
	return mark;
}

void aml_notify(struct aml *aml, const char *scope, const char *device, uint8_t value)
{
	put_byte(aml, OP_NOTIFY);
	put_byte(aml, '\\');
	put_byte(aml, PREFIX_DUAL);
	put(aml, scope, 4);
	put(aml, device, 4);
	put_byte(aml, OP_BYTE);
	put_byte(aml, value);
}

void aml_end(struct aml *aml, size_t mark)
{
	size_t length = aml->size - mark;

	if (aml->size > aml->limit)
		return;
	aml->data[mark] = (unsigned char)(0x80 | (length & 0xf));
	aml->data[mark + 1] = (unsigned char)(length >> 4);
	aml->data[mark + 2] = (unsigned char)(length >> 12);
}

size_t aml_resources(struct aml *aml, const char *name)
{
	size_t mark;

	put_name(aml, name);
	put_byte(aml, OP_BUFFER);
	mark = begin_package(aml);
	put_byte(aml, OP_DWORD);
	put_dword(aml, 0); /* the size: aml_end_resources knows it */
	return mark;
}

void aml_end_resources(struct aml *aml, size_t mark)
{
	size_t content = mark + LENGTH_BYTES + 5;
	uint32_t size;

	put_byte(aml, TAG_END);
	put_byte(aml, 0); /* a checksum of 0 counts as right (6.4.2.9) */
	size = (uint32_t)(aml->size - content);
	if (aml->size <= aml->limit)
		memcpy(aml->data + content - sizeof(size), &size, sizeof(size));
	aml_end(aml, mark);
}

void aml_name_string(struct aml *aml, const char *name, const char *text)
{
	put_name(aml, name);
	put_byte(aml, OP_STRING);
	put(aml, text, strlen(text) + 1);
}

void aml_name_integer(struct aml *aml, const char *name, uint32_t value)
{
	put_name(aml, name);
	put_byte(aml, OP_DWORD);
	put_dword(aml, value);
}

void aml_name_pair(struct aml *aml, const char *name, uint32_t one, uint32_t other)
{
	size_t mark;

	put_name(aml, name);
	put_byte(aml, OP_PACKAGE);
	mark = begin_package(aml);
	put_byte(aml, 2);
	put_byte(aml, OP_DWORD);
	put_dword(aml, one);
	put_byte(aml, OP_DWORD);
	put_dword(aml, other);
	aml_end(aml, mark);
}

/* Three letters in five bits each, four hexadecimal digits; the most significant byte first (19.6.36). */
void aml_name_eisaid(struct aml *aml, const char *name, const char *id)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < 3; i++)
		value = value << 5 | (uint32_t)(id[i] - '@');
	for (unsigned i = 3; i < 7; i++)
		value = value << 4 | (uint32_t)(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10);
	aml_name_integer(aml, name, __builtin_bswap32(value));
}

void aml_memory(struct aml *aml, uint32_t base, uint32_t size)
{
	put_byte(aml, TAG_MEMORY32);
	put_word(aml, 9);
	put_byte(aml, 1); /* writable */
	put_dword(aml, base);
	put_dword(aml, size);
}

void aml_ports(struct aml *aml, uint16_t first, uint8_t count)
{
	put_byte(aml, TAG_IO);
	put_byte(aml, 1); /* 16 address lines */
	put_word(aml, first);
	put_word(aml, first);
	put_byte(aml, 1);
	put_byte(aml, count);
}

void aml_interrupt(struct aml *aml, uint32_t gsi)
{
	put_byte(aml, TAG_IRQ);
	put_word(aml, 6);
	put_byte(aml, 0x3); /* consumer, edge; active high, exclusive */
	put_byte(aml, 1);
	put_dword(aml, gsi);
}
