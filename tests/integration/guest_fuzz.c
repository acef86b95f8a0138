/*
 * A guest of machine_suite.py that is no operating system: what its command line says, on the bare processor.
 *
 *     fuzz SEED COUNT   odd accesses to device windows and ports, then a reset
 *     flood             bytes to the serial port, for ever
 *     spin              nothing, for ever
 *     triple            a triple fault
 *     nowhere           a jump to where nothing is
 *     halt              a halt with interrupts off
 *
 * Loaded as an ELF kernel: 64-bit mode, the first GiB mapped one to one, RSI at struct boot_params.
 */
#include <stddef.h>
#include <stdint.h>

#define COMMAND_LINE 0x228 /* cmd_line_ptr of struct boot_params */
#define WINDOWS      0xd0000000ull
#define WINDOW       0x1000ull
#define WINDOW_COUNT 8       /* some of them have a device */
#define PAGE_FLAGS   0x9bull /* present, writable, uncached, large */
#define SERIAL       0x3f8
#define I8042        0x64
#define I8042_RESET  0xfe

/* Registers of a virtio window (virtio 1.2 section 4.2.2). */
#define QUEUE_SELECT  0x30
#define QUEUE_SIZE    0x38
#define QUEUE_READY   0x44
#define QUEUE_NOTIFY  0x50
#define STATUS        0x70
#define QUEUE_ADDRESS 0x80 /* and up to 0xa4: of descriptors, driver and device area */

#define MEMORY        (64ull << 20) /* rings lie below: guests have 128 MiB */
#define RINGS         (32ull << 20)

static uint64_t random_state;
static uint64_t windows_table[512] __attribute__((aligned(4096)));
static unsigned char stack[16384] __attribute__((aligned(16), used));

void guest_main(const unsigned char *params);

__asm__(".globl _start\n_start:\n\tlea stack+16384(%rip), %rsp\n\tmov %rsi, %rdi\n\tcall "
        "guest_main\n1:\thlt\n\tjmp 1b\n");

static void port_out(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* 0xc0000000 to 0xffffffff, one to one. */
static void map_windows(void)
{
	uint64_t cr3;
	uint64_t *tables;

	__asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
	tables = (uint64_t *)(uintptr_t)(cr3 & ~0xfffull);
	for (uint64_t i = 0; i < 512; i++)
		windows_table[i] = (3ull << 30) | i << 21 | PAGE_FLAGS;
	tables = (uint64_t *)(uintptr_t)(tables[0] & ~0xfffull);
	tables[3] = (uint64_t)(uintptr_t)windows_table | 3;
	__asm__ volatile("mov %0, %%cr3" : : "r"(cr3) : "memory");
}

static void write32(uint64_t address, uint32_t value)
{
	*(volatile uint32_t *)(uintptr_t)address = value;
}

static void access_any(uint64_t address)
{
	uint64_t value = random_next();

	switch (random_next() % 8) {
	case 0:
		*(volatile uint8_t *)(uintptr_t)address = (uint8_t)value;
		break;
	case 1:
		*(volatile uint16_t *)(uintptr_t)address = (uint16_t)value;
		break;
	case 2:
		*(volatile uint64_t *)(uintptr_t)address = value;
		break;
	case 3:
		(void)*(volatile uint8_t *)(uintptr_t)address;
		break;
	case 4:
		(void)*(volatile uint64_t *)(uintptr_t)address;
		break;
	default:
		write32(address, (uint32_t)value);
	}
}

/* An address for a ring: mostly in memory. */
static uint64_t random_address(void)
{
	switch (random_next() % 16) {
	case 0:
		return random_next();
	case 1:
		return ~0ull - random_next() % 64;
	case 2:
		return (128ull << 20) - random_next() % 128;
	default:
		return RINGS + (random_next() % (MEMORY - RINGS) & ~0xfull);
	}
}

/* A driver that gets so far as to notify: with rings full of anything. */
static void drive(uint64_t window)
{
	uint32_t features = random_next() % 4 ? 0 : (uint32_t)random_next();

	write32(window + STATUS, 0);
	write32(window + STATUS, 1);
	write32(window + STATUS, 3);
	write32(window + 0x24, 0);
	write32(window + 0x20, features);
	write32(window + 0x24, 1);
	write32(window + 0x20, 1);
	write32(window + STATUS, 11);
	for (uint32_t queue = 0; queue < 3; queue++) {
		write32(window + QUEUE_SELECT, queue);
		write32(window + QUEUE_SIZE,
		        random_next() % 8 ? 1u << random_next() % 9 : (uint32_t)random_next());
		for (uint64_t area = 0; area < 3; area++) {
			uint64_t address = random_address();

			write32(window + QUEUE_ADDRESS + area * 16, (uint32_t)address);
			write32(window + QUEUE_ADDRESS + area * 16 + 4, (uint32_t)(address >> 32));
			for (uint64_t at = 0; address < MEMORY && at < 64; at++)
				((volatile uint16_t *)(uintptr_t)address)[at] =
				        (uint16_t)(random_next() % 4 ? random_next() % 8 : random_next());
		}
		write32(window + QUEUE_READY, 1);
	}
	write32(window + STATUS, 15);
	for (int i = 0; i < 4; i++)
		write32(window + QUEUE_NOTIFY, (uint32_t)(random_next() % 4));
}

static void fuzz(uint64_t count)
{
	map_windows();
	for (uint64_t i = 0; i < count; i++) {
		uint64_t window = WINDOWS + random_next() % WINDOW_COUNT * WINDOW;

		if (random_next() % 8 == 0)
			drive(window);
		else if (random_next() % 8 == 0)
			port_out((uint16_t)(SERIAL + random_next() % 8), (uint8_t)random_next());
		else if (random_next() % 2)
			access_any(window + random_next() % 0x40 * 4);
		else
			access_any(window + random_next() % (WINDOW - 8));
	}
}

static uint64_t number(const char **at)
{
	uint64_t value = 0;

	while (**at == ' ')
		(*at)++;
	for (; **at >= '0' && **at <= '9'; (*at)++)
		value = value * 10 + (uint64_t)(**at - '0');
	return value;
}

void guest_main(const unsigned char *params)
{
	const char *line =
	        (const char *)(uintptr_t) * (const uint32_t *)(const void *)(params + COMMAND_LINE);
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) nothing = { 0, 0 };

	if (line[0] == 'f' && line[1] == 'u') {
		line += 4;
		random_state = number(&line) * 2 + 1;
		fuzz(number(&line));
	} else if (line[0] == 'f') {
		for (;;)
			port_out(SERIAL, 'x');
	} else if (line[0] == 's') {
		for (;;)
			__asm__ volatile("pause");
	} else if (line[0] == 't') {
		__asm__ volatile("lidt %0\n\tud2" : : "m"(nothing));
	} else if (line[0] == 'n') {
		((void (*)(void))(uintptr_t)0x7f0000000000ull)();
	} else if (line[0] == 'h') {
		__asm__ volatile("cli\n\thlt");
	}
	port_out(I8042, I8042_RESET);
}
