/*
 * The keyboard controller of the PC/AT (Intel 8042; IBM PS/2 Hardware Interface Technical Reference) with a
 * keyboard and no mouse: as much of both as Linux's i8042 and atkbd drivers ask for. The guest resets the
 * machine through it, and Ctrl-Alt-Del reaches the guest through it.
 *
 * What the controller itself answers waits in `reply`, what the keyboard sends in a queue behind it: a
 * command to the one loses nothing of the other.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/device/device.h"

/* With `reply` no more than the 16 bytes that Linux drains before it gives up on a controller. */
#define QUEUE_SIZE 15

enum status_bit {
	STATUS_OUTPUT_FULL = 0x01, /* a byte is to be read at the data port */
	STATUS_SYSTEM = 0x04,      /* as in the control register */
	STATUS_PARAMETER = 0x08,   /* the next write of the data port belongs to a command */
	STATUS_UNLOCKED = 0x10,    /* no key switch locks the keyboard */
};

enum control_bit {
	CONTROL_INTERRUPT = 0x01, /* of the keyboard */
	CONTROL_SYSTEM = 0x04,    /* the power-on test has passed */
	CONTROL_DISABLE = 0x10,   /* the keyboard */
	CONTROL_NO_AUX = 0x20,    /* disable the mouse */
	CONTROL_TRANSLATE = 0x40, /* scan codes of set 2 to set 1 */
};

enum output_bit {
	OUTPUT_RUN = 0x01, /* low resets the processor */
	OUTPUT_A20 = 0x02,
};

/* To the command port. */
enum controller_command {
	COMMAND_READ_CONTROL = 0x20,
	COMMAND_WRITE_CONTROL = 0x60,
	COMMAND_DISABLE_AUX = 0xa7,
	COMMAND_ENABLE_AUX = 0xa8,
	COMMAND_TEST_AUX = 0xa9,
	COMMAND_SELF_TEST = 0xaa,
	COMMAND_TEST_KEYBOARD = 0xab,
	COMMAND_DISABLE_KEYBOARD = 0xad,
	COMMAND_ENABLE_KEYBOARD = 0xae,
	COMMAND_READ_OUTPUT = 0xd0,
	COMMAND_WRITE_OUTPUT = 0xd1,
	COMMAND_LOOP_KEYBOARD = 0xd2, /* answer with the parameter */
	COMMAND_LOOP_AUX = 0xd3,      /* the same as if it came from a mouse */
	COMMAND_SEND_AUX = 0xd4,
	COMMAND_PULSE = 0xf0, /* and up: pulse the output bits low that are 0 in bits 3 to 0 */
};

#define SELF_TEST_PASSED 0x55
#define TEST_PASSED      0x00
#define TEST_CLOCK_LOW   0x01 /* of the mouse, which is not there */

/* To the data port, for the keyboard. */
enum keyboard_command {
	KEYBOARD_LEDS = 0xed, /* with a parameter, as those that say so */
	KEYBOARD_ECHO = 0xee,
	KEYBOARD_CODE_SET = 0xf0, /* parameter; 0 asks */
	KEYBOARD_IDENTIFY = 0xf2,
	KEYBOARD_REPEAT = 0xf3, /* parameter */
	KEYBOARD_DISABLE = 0xf5,
	KEYBOARD_DEFAULTS = 0xf6,
	KEYBOARD_RESET = 0xff,
};

#define ACKNOWLEDGE  0xfa
#define TEST_DONE    0xaa
#define CODE_SET     2
#define ANSWER_MAX   3 /* bytes that a keyboard's command may give */

#define RELEASED     0x80 /* set 1; set 2 has a prefix instead */
#define RELEASE_CODE 0xf0
#define EXTENDED     0xe0

struct i8042_state {
	uint8_t control;
	uint8_t output;  /* port */
	uint8_t command; /* that waits for its parameter; 0: none */
	uint8_t keyboard_command;
	uint8_t has_reply;
	uint8_t reply;
	uint8_t head; /* of the queue */
	uint8_t count;
	uint8_t queue[QUEUE_SIZE];
	uint8_t reserved;
};

struct i8042 {
	struct i8042_state state;
	pthread_mutex_t lock; /* any vCPU may come, and the machine API */
	int irq;
};

struct i8042 *i8042_new(struct error *err)
{
	struct i8042 *i8042 = calloc(1, sizeof(*i8042));

	if (!i8042) {
		error_errno(err, ENOMEM, "make the keyboard controller");
		return NULL;
	}
	(void)pthread_mutex_init(&i8042->lock, NULL);
	i8042->state.control = CONTROL_SYSTEM | CONTROL_INTERRUPT;
	i8042->state.output = OUTPUT_RUN | OUTPUT_A20;
	i8042->irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (i8042->irq < 0) {
		error_errno(err, errno, "make the keyboard controller");
		i8042_free(i8042);
		return NULL;
	}
	return i8042;
}

void i8042_free(struct i8042 *i8042)
{
	if (!i8042)
		return;
	if (i8042->irq >= 0)
		close(i8042->irq);
	(void)pthread_mutex_destroy(&i8042->lock);
	free(i8042);
}

int i8042_irq(const struct i8042 *i8042)
{
	return i8042->irq;
}

/* --- the keyboard's bytes --- */

/* A disabled keyboard keeps what it has. */
static bool has_key(const struct i8042_state *state)
{
	return state->count && !(state->control & CONTROL_DISABLE);
}

static void interrupt(const struct i8042 *i8042)
{
	uint64_t one = 1;

	if (!has_key(&i8042->state) || !(i8042->state.control & CONTROL_INTERRUPT))
		return;
	/* A full counter has an interrupt pending. */
	if (write(i8042->irq, &one, sizeof(one)) < 0)
		return;
}

static void queue_clear(struct i8042_state *state)
{
	state->head = 0;
	state->count = 0;
}

/* The caller has seen to it that there is room. */
static void queue_put(struct i8042_state *state, uint8_t byte)
{
	if (state->count < QUEUE_SIZE)
		state->queue[(state->head + state->count++) % QUEUE_SIZE] = byte;
}

static uint8_t queue_take(struct i8042_state *state)
{
	uint8_t byte = state->queue[state->head];

	state->head = (uint8_t)((state->head + 1) % QUEUE_SIZE);
	state->count--;
	return byte;
}

/* --- reading --- */

static uint8_t read_status(const struct i8042_state *state)
{
	uint8_t status = STATUS_UNLOCKED;

	if (state->has_reply || has_key(state))
		status |= STATUS_OUTPUT_FULL;
	if (state->control & CONTROL_SYSTEM)
		status |= STATUS_SYSTEM;
	if (state->command)
		status |= STATUS_PARAMETER;
	return status;
}

static uint8_t read_data(struct i8042 *i8042)
{
	struct i8042_state *state = &i8042->state;
	uint8_t value = 0;

	if (state->has_reply) {
		state->has_reply = 0;
		value = state->reply;
	} else if (has_key(state)) {
		value = queue_take(state);
	}
	/* One interrupt per byte. */
	interrupt(i8042);
	return value;
}

uint8_t i8042_read(struct i8042 *i8042, unsigned port)
{
	uint8_t value;

	pthread_mutex_lock(&i8042->lock);
	value = port == I8042_COMMAND_PORT ? read_status(&i8042->state) : read_data(i8042);
	pthread_mutex_unlock(&i8042->lock);
	return value;
}

/* --- the controller --- */

static void reply(struct i8042_state *state, uint8_t value)
{
	state->reply = value;
	state->has_reply = 1;
}

static void set_control(struct i8042 *i8042, uint8_t control)
{
	i8042->state.control = control;
	interrupt(i8042); /* what waits may now be told */
}

/* True: the processor is reset. */
static bool command(struct i8042 *i8042, uint8_t value)
{
	struct i8042_state *state = &i8042->state;

	state->command = 0;
	state->has_reply = 0;
	if (value >= COMMAND_PULSE)
		return !(value & OUTPUT_RUN);
	switch (value) {
	case COMMAND_READ_CONTROL:
		reply(state, state->control);
		break;
	case COMMAND_READ_OUTPUT:
		reply(state, state->output);
		break;
	case COMMAND_SELF_TEST:
		reply(state, SELF_TEST_PASSED);
		break;
	case COMMAND_TEST_KEYBOARD:
		reply(state, TEST_PASSED);
		break;
	case COMMAND_TEST_AUX:
		reply(state, TEST_CLOCK_LOW);
		break;
	case COMMAND_DISABLE_KEYBOARD:
		set_control(i8042, state->control | CONTROL_DISABLE);
		break;
	case COMMAND_ENABLE_KEYBOARD:
		set_control(i8042, state->control & (uint8_t)~CONTROL_DISABLE);
		break;
	case COMMAND_DISABLE_AUX:
		set_control(i8042, state->control | CONTROL_NO_AUX);
		break;
	case COMMAND_ENABLE_AUX:
		set_control(i8042, state->control & (uint8_t)~CONTROL_NO_AUX);
		break;
	case COMMAND_WRITE_CONTROL:
	case COMMAND_WRITE_OUTPUT:
	case COMMAND_LOOP_KEYBOARD:
	case COMMAND_LOOP_AUX:
	case COMMAND_SEND_AUX:
		state->command = value;
		break;
	default:
		break;
	}
	return false;
}

/* True: the processor is reset. */
static bool parameter(struct i8042 *i8042, uint8_t value)
{
	struct i8042_state *state = &i8042->state;
	uint8_t waiting = state->command;

	state->command = 0;
	switch (waiting) {
	case COMMAND_WRITE_CONTROL:
		set_control(i8042, value);
		break;
	case COMMAND_WRITE_OUTPUT:
		state->output = value;
		return !(value & OUTPUT_RUN);
	case COMMAND_LOOP_KEYBOARD:
	case COMMAND_LOOP_AUX:
		/* Without the status bit of a mouse, by which the driver sees that there is none. */
		reply(state, value);
		break;
	default:
		break;
	}
	return false;
}

/* --- the keyboard --- */

static void keyboard_parameter(struct i8042_state *state, uint8_t value)
{
	bool asks = state->keyboard_command == KEYBOARD_CODE_SET && value == 0;

	state->keyboard_command = 0;
	queue_put(state, ACKNOWLEDGE);
	if (asks)
		queue_put(state, CODE_SET);
}

static void keyboard_command(struct i8042_state *state, uint8_t value)
{
	state->keyboard_command = 0;
	queue_put(state, value == KEYBOARD_ECHO ? KEYBOARD_ECHO : ACKNOWLEDGE);
	switch (value) {
	case KEYBOARD_LEDS:
	case KEYBOARD_CODE_SET:
	case KEYBOARD_REPEAT:
		state->keyboard_command = value;
		break;
	case KEYBOARD_IDENTIFY:
		/* A keyboard with 101 or more keys. */
		queue_put(state, 0xab);
		queue_put(state, state->control & CONTROL_TRANSLATE ? 0x41 : 0x83);
		break;
	case KEYBOARD_RESET:
		queue_put(state, TEST_DONE);
		break;
	default:
		break;
	}
}

static void to_keyboard(struct i8042 *i8042, uint8_t value)
{
	struct i8042_state *state = &i8042->state;

	/* The answer goes out even where a guest never reads; some commands forget the keys before them. */
	if (QUEUE_SIZE - state->count < ANSWER_MAX || value == KEYBOARD_DISABLE ||
	    value == KEYBOARD_DEFAULTS || value == KEYBOARD_RESET)
		queue_clear(state);
	/* Whoever speaks to it wants to hear it. */
	state->control &= (uint8_t)~CONTROL_DISABLE;
	if (state->keyboard_command && value < KEYBOARD_LEDS)
		keyboard_parameter(state, value);
	else
		keyboard_command(state, value);
	interrupt(i8042);
}

bool i8042_write(struct i8042 *i8042, unsigned port, uint8_t value)
{
	bool reset = false;

	pthread_mutex_lock(&i8042->lock);
	if (port == I8042_COMMAND_PORT)
		reset = command(i8042, value);
	else if (i8042->state.command)
		reset = parameter(i8042, value);
	else
		to_keyboard(i8042, value);
	pthread_mutex_unlock(&i8042->lock);
	return reset;
}

/* --- keys --- */

static const struct key {
	bool extended;
	uint8_t set1;
	uint8_t set2;
} ctrl_alt_del[] = {
	{ false, 0x1d, 0x14 },
	{ false, 0x38, 0x11 },
	{ true, 0x53, 0x71 },
};

#define PRESSES_SIZE 11 /* bytes of all three, pressed and released, in the longer set 2 */

static void put_key(struct i8042_state *state, const struct key *key, bool release)
{
	bool translated = state->control & CONTROL_TRANSLATE;

	if (key->extended)
		queue_put(state, EXTENDED);
	if (release && !translated)
		queue_put(state, RELEASE_CODE);
	if (translated)
		queue_put(state, release ? key->set1 | RELEASED : key->set1);
	else
		queue_put(state, key->set2);
}

int i8042_send_ctrl_alt_del(struct i8042 *i8042, struct error *err)
{
	struct i8042_state *state = &i8042->state;
	int ret = 0;

	pthread_mutex_lock(&i8042->lock);
	if (QUEUE_SIZE - state->count < PRESSES_SIZE) {
		ret = error_set(err, EBUSY, "the guest has not read the keys that were sent to it before");
	} else {
		for (size_t i = 0; i < ARRAY_SIZE(ctrl_alt_del); i++)
			put_key(state, &ctrl_alt_del[i], false);
		for (size_t i = ARRAY_SIZE(ctrl_alt_del); i > 0; i--)
			put_key(state, &ctrl_alt_del[i - 1], true);
		interrupt(i8042);
	}
	pthread_mutex_unlock(&i8042->lock);
	return ret;
}

/* --- state --- */

int i8042_save(struct i8042 *i8042, struct buffer *to, struct error *err)
{
	int ret;

	pthread_mutex_lock(&i8042->lock);
	ret = buffer_append(to, &i8042->state, sizeof(i8042->state));
	pthread_mutex_unlock(&i8042->lock);
	return ret < 0 ? error_errno(err, ENOMEM, "save the keyboard controller") : 0;
}

int i8042_restore(struct i8042 *i8042, const void *data, size_t size, struct error *err)
{
	struct i8042_state state;

	if (size != sizeof(state))
		return error_set(err, EINVAL,
		                 "the saved state of the keyboard controller has %zu bytes, not %zu", size,
		                 sizeof(state));
	memcpy(&state, data, sizeof(state));
	if (state.head >= QUEUE_SIZE || state.count > QUEUE_SIZE || state.has_reply > 1)
		return error_set(err, EINVAL, "the saved state of the keyboard controller is impossible");
	pthread_mutex_lock(&i8042->lock);
	i8042->state = state;
	pthread_mutex_unlock(&i8042->lock);
	return 0;
}

void i8042_notify(struct i8042 *i8042)
{
	pthread_mutex_lock(&i8042->lock);
	interrupt(i8042);
	pthread_mutex_unlock(&i8042->lock);
}
