/* The keyboard controller: what Linux's drivers ask of it, and what a hostile guest or snapshot tries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/device/device.h"

#define DATA      0x60
#define COMMAND   0x64
#define FULL      0x01
#define PARAMETER 0x08

static int setup(void **state)
{
	*state = i8042_new(NULL);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	i8042_free(*state);
	return 0;
}

static bool interrupted(const struct i8042 *i8042)
{
	uint64_t count;

	return read(i8042_irq(i8042), &count, sizeof(count)) == (ssize_t)sizeof(count);
}

static uint8_t ask(struct i8042 *i8042, uint8_t command)
{
	assert_false(i8042_write(i8042, COMMAND, command));
	assert_int_equal(i8042_read(i8042, COMMAND) & (FULL | PARAMETER), FULL);
	return i8042_read(i8042, DATA);
}

static void tell(struct i8042 *i8042, uint8_t command, uint8_t value)
{
	assert_false(i8042_write(i8042, COMMAND, command));
	assert_int_equal(i8042_read(i8042, COMMAND) & (FULL | PARAMETER), PARAMETER);
	assert_false(i8042_write(i8042, DATA, value));
	assert_int_equal(i8042_read(i8042, COMMAND) & PARAMETER, 0);
}

/* Read all that waits and compare. */
static void expect(struct i8042 *i8042, const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		assert_int_equal(i8042_read(i8042, COMMAND) & FULL, FULL);
		assert_int_equal(i8042_read(i8042, DATA), bytes[i]);
	}
	assert_int_equal(i8042_read(i8042, COMMAND) & FULL, 0);
	assert_int_equal(i8042_read(i8042, DATA), 0);
}

#define EXPECT(i8042, ...)                                                                                   \
	expect(i8042, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void registers_and_tests_answer(void **state)
{
	struct i8042 *i8042 = *state;

	assert_int_equal(i8042_read(i8042, COMMAND), 0x14);
	assert_int_equal(ask(i8042, 0x20), 0x05);
	tell(i8042, 0x60, 0x34);
	assert_int_equal(ask(i8042, 0x20), 0x34);
	assert_false(i8042_write(i8042, COMMAND, 0xae));
	assert_int_equal(ask(i8042, 0x20), 0x24);
	assert_false(i8042_write(i8042, COMMAND, 0xad));
	assert_false(i8042_write(i8042, COMMAND, 0xa8));
	assert_int_equal(ask(i8042, 0x20), 0x14);
	assert_false(i8042_write(i8042, COMMAND, 0xa7));
	assert_int_equal(ask(i8042, 0x20), 0x34);
	assert_int_equal(ask(i8042, 0xd0), 0x03);
	tell(i8042, 0xd1, 0xdf);
	assert_int_equal(ask(i8042, 0xd0), 0xdf);
	assert_int_equal(ask(i8042, 0xaa), 0x55);
	assert_int_equal(ask(i8042, 0xab), 0x00);
	/* There is no mouse: its line fails the test, and what is looped has not its mark in the status. */
	assert_int_not_equal(ask(i8042, 0xa9), 0x00);
	assert_false(i8042_write(i8042, COMMAND, 0xd3));
	assert_false(i8042_write(i8042, DATA, 0x5a));
	assert_int_equal(i8042_read(i8042, COMMAND) & 0x21, 0x01);
	EXPECT(i8042, 0x5a);
	assert_false(interrupted(i8042));
}

static void a_reset_is_asked_for_in_three_ways(void **state)
{
	struct i8042 *i8042 = *state;

	assert_true(i8042_write(i8042, COMMAND, 0xfe));
	assert_true(i8042_write(i8042, COMMAND, 0xf0));
	assert_false(i8042_write(i8042, COMMAND, 0xff));
	assert_false(i8042_write(i8042, DATA, 0xfe));
	assert_false(i8042_write(i8042, COMMAND, 0xd1));
	assert_true(i8042_write(i8042, DATA, 0x02));
	/* Without its command it is for the keyboard. */
	assert_false(i8042_write(i8042, DATA, 0x02));
}

static void the_keyboard_answers(void **state)
{
	struct i8042 *i8042 = *state;

	assert_false(i8042_write(i8042, DATA, 0xff));
	assert_true(interrupted(i8042));
	EXPECT(i8042, 0xfa, 0xaa);
	assert_false(i8042_write(i8042, DATA, 0xf2));
	EXPECT(i8042, 0xfa, 0xab, 0x83);
	/* A parameter is none of the commands, whatever its value. */
	assert_false(i8042_write(i8042, DATA, 0xed));
	EXPECT(i8042, 0xfa);
	assert_false(i8042_write(i8042, DATA, 0x07));
	EXPECT(i8042, 0xfa);
	assert_false(i8042_write(i8042, DATA, 0xf0));
	assert_false(i8042_write(i8042, DATA, 0x00));
	EXPECT(i8042, 0xfa, 0xfa, 0x02);
	assert_false(i8042_write(i8042, DATA, 0xee));
	EXPECT(i8042, 0xee);
	/* A command in the place of a parameter is a command, and the parameter is forgotten. */
	assert_false(i8042_write(i8042, DATA, 0xf0));
	assert_false(i8042_write(i8042, DATA, 0xf4));
	assert_false(i8042_write(i8042, DATA, 0x00));
	EXPECT(i8042, 0xfa, 0xfa, 0xfa);
}

static void ctrl_alt_del_is_pressed_and_released(void **state)
{
	static const uint8_t presses[] = { 0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14 };
	struct i8042 *i8042 = *state;
	struct error err;

	assert_int_equal(i8042_send_ctrl_alt_del(i8042, &err), 0);
	assert_int_equal(i8042_send_ctrl_alt_del(i8042, &err), -EBUSY);
	for (size_t i = 0; i < sizeof(presses); i++) {
		/* An interrupt for each byte, as the driver reads one each time. */
		assert_true(interrupted(i8042));
		assert_int_equal(i8042_read(i8042, DATA), presses[i]);
	}
	assert_false(interrupted(i8042));
	assert_int_equal(i8042_read(i8042, COMMAND) & FULL, 0);
	/* Translated to set 1 for those who want that. */
	tell(i8042, 0x60, 0x45);
	assert_int_equal(i8042_send_ctrl_alt_del(i8042, &err), 0);
	EXPECT(i8042, 0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d);
}

static void keys_wait_for_a_driver(void **state)
{
	struct i8042 *i8042 = *state;

	/* Disabled, without interrupt: the keys wait, and a command loses none. */
	tell(i8042, 0x60, 0x14);
	assert_int_equal(i8042_send_ctrl_alt_del(i8042, NULL), 0);
	assert_false(interrupted(i8042));
	assert_int_equal(i8042_read(i8042, COMMAND) & FULL, 0);
	assert_int_equal(i8042_read(i8042, DATA), 0);
	assert_int_equal(ask(i8042, 0x20), 0x14);
	tell(i8042, 0x60, 0x04);
	assert_false(interrupted(i8042));
	assert_int_equal(i8042_read(i8042, COMMAND) & FULL, FULL);
	/* Enabling the interrupt raises it. The controller's answer comes before them. */
	assert_false(i8042_write(i8042, COMMAND, 0x60));
	assert_false(i8042_write(i8042, DATA, 0x05));
	assert_true(interrupted(i8042));
	assert_int_equal(ask(i8042, 0x20), 0x05);
	assert_true(interrupted(i8042));
	EXPECT(i8042, 0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14);
}

/* A guest that only writes: the queue stays in its bounds, Linux's 16 reads empty it, answers still come. */
static void a_guest_that_never_reads_is_bounded(void **state)
{
	struct i8042 *i8042 = *state;
	unsigned count = 0;

	for (unsigned i = 0; i < 100000; i++) {
		(void)i8042_write(i8042, i % 7 ? DATA : COMMAND, (uint8_t)(i * 37));
		(void)i8042_send_ctrl_alt_del(i8042, NULL);
	}
	assert_false(i8042_write(i8042, COMMAND, 0x60));
	assert_false(i8042_write(i8042, DATA, 0x05));
	assert_false(i8042_write(i8042, COMMAND, 0xaa));
	while (i8042_read(i8042, COMMAND) & FULL && count++ < 100)
		(void)i8042_read(i8042, DATA);
	assert_in_range(count, 1, 16);
	assert_false(i8042_write(i8042, DATA, 0xf2));
	EXPECT(i8042, 0xfa, 0xab, 0x83);
}

static void state_is_saved_and_checked(void **state)
{
	cleanup_buffer struct buffer saved = BUFFER_INIT;
	struct i8042 *i8042 = *state;
	struct i8042 *other = i8042_new(NULL);
	struct error err;

	assert_non_null(other);
	assert_int_equal(i8042_send_ctrl_alt_del(i8042, NULL), 0);
	assert_int_equal(i8042_read(i8042, DATA), 0x14);
	assert_false(i8042_write(i8042, COMMAND, 0x60));
	assert_int_equal(i8042_save(i8042, &saved, &err), 0);
	assert_int_equal(i8042_restore(other, saved.data, saved.size, &err), 0);
	assert_false(interrupted(other));
	i8042_notify(other);
	assert_true(interrupted(other));
	assert_false(i8042_write(other, DATA, 0x35));
	assert_int_equal(ask(other, 0x20), 0x35);
	assert_false(i8042_write(other, COMMAND, 0xae));
	EXPECT(other, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14);
	i8042_notify(other);
	assert_int_equal(i8042_restore(other, saved.data, saved.size - 1, &err), -EINVAL);
	/* Head and count beyond the queue; what is refused changes nothing. */
	for (unsigned i = 6; i < 8; i++) {
		char was = saved.data[i];

		saved.data[i] = (char)(i == 6 ? 15 : 16);
		assert_int_equal(i8042_restore(other, saved.data, saved.size, &err), -EINVAL);
		saved.data[i] = was;
	}
	assert_int_equal(ask(other, 0x20), 0x25);
	i8042_free(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(registers_and_tests_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reset_is_asked_for_in_three_ways, setup, teardown),
		cmocka_unit_test_setup_teardown(the_keyboard_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(ctrl_alt_del_is_pressed_and_released, setup, teardown),
		cmocka_unit_test_setup_teardown(keys_wait_for_a_driver, setup, teardown),
		cmocka_unit_test_setup_teardown(a_guest_that_never_reads_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(state_is_saved_and_checked, setup, teardown),
	};

	return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
