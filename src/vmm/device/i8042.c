/* The keyboard controller, as far as a guest needs it to reset the machine (reboot=k). */
#include "vmm/device/device.h"

#define I8042_COMMAND 0x64
#define I8042_RESET   0xfe

bool i8042_write(unsigned port, uint8_t value)
{
	return port == I8042_COMMAND && value == I8042_RESET;
}

uint8_t i8042_read(unsigned port)
{
	/* Status: input buffer empty, output buffer empty. Data: nothing. */
	(void)port;
	return 0;
}
