/*
 * A 16550A UART (National Semiconductor PC16550D data sheet) as Linux's 8250 driver wants it: output only.
 * The line is always ready, so the transmit interrupt is pending whenever it is enabled; reading IIR takes it
 * back.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/device/device.h"

enum uart_register {
	UART_DATA = 0, /* RBR and THR; divisor low when DLAB is set */
	UART_IER = 1,  /* divisor high when DLAB is set */
	UART_IIR = 2,  /* FCR when written */
	UART_LCR = 3,
	UART_MCR = 4,
	UART_LSR = 5,
	UART_MSR = 6,
	UART_SCR = 7,
};

#define IER_THRE   0x02
#define IIR_NONE   0x01
#define IIR_THRE   0x02
#define IIR_FIFO   0xc0
#define LCR_DLAB   0x80
#define LSR_READY  0x60 /* transmitter and holding register empty */
#define MCR_LOOP   0x10
#define MSR_ONLINE 0xb0 /* carrier, data set ready, clear to send */

struct uart_state {
	uint8_t ier;
	uint8_t lcr;
	uint8_t mcr;
	uint8_t scr;
	uint8_t fcr;
	uint8_t divisor_low;
	uint8_t divisor_high;
	uint8_t thre_pending;
};

struct serial {
	struct uart_state state;
	pthread_mutex_t lock; /* any vCPU may come */
	int output_fd;
	int irq;
	uint64_t output_left; /* bytes that may still be written */
	struct token_bucket rate;
	uint64_t written; /* by the guest, bytes */
	uint64_t dropped;
};

struct serial *serial_new(int output_fd, uint64_t output_limit, const struct token_bucket_config *rate,
                          struct error *err)
{
	struct serial *serial = calloc(1, sizeof(*serial));

	if (!serial) {
		if (output_fd >= 0)
			close(output_fd);
		error_errno(err, ENOMEM, "make the serial port");
		return NULL;
	}
	(void)pthread_mutex_init(&serial->lock, NULL);
	serial->output_fd = output_fd;
	serial->output_left = output_limit;
	if (rate)
		token_bucket_set(&serial->rate, rate);
	serial->state.divisor_low = 1;
	serial->irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (serial->irq < 0) {
		error_errno(err, errno, "make the serial port");
		serial_free(serial);
		return NULL;
	}
	return serial;
}

void serial_free(struct serial *serial)
{
	if (!serial)
		return;
	if (serial->output_fd >= 0)
		close(serial->output_fd);
	if (serial->irq >= 0)
		close(serial->irq);
	(void)pthread_mutex_destroy(&serial->lock);
	free(serial);
}

void serial_count(struct serial *serial, uint64_t *ret_written, uint64_t *ret_dropped)
{
	pthread_mutex_lock(&serial->lock);
	*ret_written = serial->written;
	*ret_dropped = serial->dropped;
	pthread_mutex_unlock(&serial->lock);
}

int serial_irq(const struct serial *serial)
{
	return serial->irq;
}

static void raise_thre(struct serial *serial)
{
	uint64_t one = 1;

	if (!(serial->state.ier & IER_THRE))
		return;
	serial->state.thre_pending = 1;
	if (write(serial->irq, &one, sizeof(one)) < 0)
		return;
}

/* Output never waits: it goes to a file, or is dropped. */
static bool put_out(struct serial *serial, uint8_t value)
{
	if (serial->output_fd < 0 || !serial->output_left || !token_bucket_try(&serial->rate, 1))
		return false;
	serial->output_left--;
	if (write(serial->output_fd, &value, 1) == 1)
		return true;
	/* A pipe whose reader is slow may have room later; anything else will not get better. */
	if (errno != EAGAIN)
		serial->output_left = 0;
	return false;
}

static void transmit(struct serial *serial, uint8_t value)
{
	if (!(serial->state.mcr & MCR_LOOP)) {
		serial->written++;
		if (!put_out(serial, value))
			serial->dropped++;
	}
	raise_thre(serial);
}

uint8_t serial_read(struct serial *serial, unsigned reg)
{
	struct uart_state *state = &serial->state;
	uint8_t value = 0;
	bool dlab;

	pthread_mutex_lock(&serial->lock);
	dlab = state->lcr & LCR_DLAB;
	switch ((enum uart_register)reg) {
	case UART_DATA:
		value = dlab ? state->divisor_low : 0;
		break;
	case UART_IER:
		value = dlab ? state->divisor_high : state->ier;
		break;
	case UART_IIR:
		value = (uint8_t)((state->thre_pending ? IIR_THRE : IIR_NONE) |
		                  (state->fcr & 1 ? IIR_FIFO : 0));
		state->thre_pending = 0;
		break;
	case UART_LCR:
		value = state->lcr;
		break;
	case UART_MCR:
		value = state->mcr;
		break;
	case UART_LSR:
		value = LSR_READY;
		break;
	case UART_MSR:
		/* In loopback the outputs of MCR come back as inputs; that is how drivers probe. */
		value = MSR_ONLINE;
		if (state->mcr & MCR_LOOP)
			value = (uint8_t)((state->mcr & 0x0c) << 4 | (state->mcr & 2) << 3 |
			                  (state->mcr & 1) << 5);
		break;
	case UART_SCR:
		value = state->scr;
		break;
	}
	pthread_mutex_unlock(&serial->lock);
	return value;
}

void serial_write(struct serial *serial, unsigned reg, uint8_t value)
{
	struct uart_state *state = &serial->state;
	bool dlab;

	pthread_mutex_lock(&serial->lock);
	dlab = state->lcr & LCR_DLAB;
	switch ((enum uart_register)reg) {
	case UART_DATA:
		if (dlab)
			state->divisor_low = value;
		else
			transmit(serial, value);
		break;
	case UART_IER:
		if (dlab) {
			state->divisor_high = value;
		} else {
			state->ier = value & 0x0f;
			raise_thre(serial);
		}
		break;
	case UART_IIR:
		state->fcr = value;
		break;
	case UART_LCR:
		state->lcr = value;
		break;
	case UART_MCR:
		state->mcr = value & 0x1f;
		break;
	case UART_SCR:
		state->scr = value;
		break;
	case UART_LSR:
	case UART_MSR:
		break;
	}
	pthread_mutex_unlock(&serial->lock);
}

int serial_save(struct serial *serial, struct buffer *to, struct error *err)
{
	if (buffer_append(to, &serial->state, sizeof(serial->state)) < 0)
		return error_errno(err, ENOMEM, "save the serial port");
	return 0;
}

int serial_restore(struct serial *serial, const void *data, size_t size, struct error *err)
{
	if (size != sizeof(serial->state))
		return error_set(err, EINVAL, "the saved state of the serial port has %zu bytes, not %zu",
		                 size, sizeof(serial->state));
	pthread_mutex_lock(&serial->lock);
	memcpy(&serial->state, data, size);
	pthread_mutex_unlock(&serial->lock);
	return 0;
}

void serial_notify(struct serial *serial)
{
	pthread_mutex_lock(&serial->lock);
	if (serial->state.thre_pending)
		raise_thre(serial);
	pthread_mutex_unlock(&serial->lock);
}
