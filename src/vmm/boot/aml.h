/*
 * aml: writes ACPI Machine Language (ACPI 6.5, chapter 20), as much of it as a table of fixed devices needs.
 * Objects are appended to a buffer; those that hold others are closed with aml_end, last opened first. A
 * buffer that runs full stays short: the caller compares its limit at the end.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
	unsigned char *data; /* borrowed */
	size_t size;         /* used so far, and beyond `limit` what would have been */
	size_t limit;
};

/* Scope(name) {, Device(name) {: the mark for aml_end. `name` has four letters ("_SB_"). */
size_t aml_scope(struct aml *aml, const char *name);
size_t aml_device(struct aml *aml, const char *name);

/* Name(name, ResourceTemplate() {: the mark for aml_end_resources. */
size_t aml_resources(struct aml *aml, const char *name);

/* Method(name, 1) {, If (Arg0 == value) {: marks for aml_end. */
size_t aml_method(struct aml *aml, const char *name);
size_t aml_if_argument(struct aml *aml, uint32_t value);

/* Notify(device, value): the device in a scope of the root, as "_SB_" and "VGEN". */
void aml_notify(struct aml *aml, const char *scope, const char *device, uint8_t value);

/* } */
void aml_end(struct aml *aml, size_t mark);
void aml_end_resources(struct aml *aml, size_t mark);

/* Name(name, "text"), Name(name, value), Name(name, EisaId("PNP0501")). */
void aml_name_string(struct aml *aml, const char *name, const char *text);
void aml_name_integer(struct aml *aml, const char *name, uint32_t value);
void aml_name_eisaid(struct aml *aml, const char *name, const char *id);

/* Name(name, Package() { one, other }) */
void aml_name_pair(struct aml *aml, const char *name, uint32_t one, uint32_t other);

/* In a resource template (ACPI 6.5, 6.4): Memory32Fixed(ReadWrite, ...), IO(Decode16, ...), and
 * Interrupt(ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi }. */
void aml_memory(struct aml *aml, uint32_t base, uint32_t size);
void aml_ports(struct aml *aml, uint16_t first, uint8_t count);
void aml_interrupt(struct aml *aml, uint32_t gsi);
