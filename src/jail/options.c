#include "jail/options.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define DEFAULT_BASE  "/srv/jailer"
#define DEFAULT_FILES 2048 /* as Firecracker's jailer */

static int parse_number(const char *text, const char *what, uint64_t maximum, uint64_t *ret,
                        struct error *err)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || *ret > maximum)
		return error_set(err, EINVAL, "%s must be a number up to %llu, not '%s'", what,
		                 (unsigned long long)maximum, text);
	return 0;
}

/* Take "name=value" apart in place. */
static int split(char *text, const char *what, char **ret_value, struct error *err)
{
	char *equals = strchr(text, '=');

	if (!equals || equals == text || !equals[1])
		return error_set(err, EINVAL, "%s wants NAME=VALUE, not '%s'", what, text);
	*equals = '\0';
	*ret_value = equals + 1;
	return 0;
}

static int add_setting(struct jail_options *options, char *text, struct error *err)
{
	char *value;

	if (options->jail.setting_count == JAIL_SETTINGS_MAX)
		return error_set(err, E2BIG, "--cgroup can be given %d times", JAIL_SETTINGS_MAX);
	if (split(text, "--cgroup", &value, err) < 0)
		return -err->code;
	if (strchr(text, '/') || !strchr(text, '.') || text[0] == '.')
		return error_set(err, EINVAL, "--cgroup wants a file of a cgroup like memory.max, not '%s'",
		                 text);
	options->settings[options->jail.setting_count++] = (struct jail_setting){ text, value };
	return 0;
}

static int add_limit(struct jail_options *options, char *text, struct error *err)
{
	char *value;

	if (split(text, "--resource-limit", &value, err) < 0)
		return -err->code;
	if (strcmp(text, "fsize") == 0)
		return parse_number(value, "--resource-limit fsize", INT64_MAX, &options->jail.file_size,
		                    err);
	if (strcmp(text, "no-file") == 0)
		return parse_number(value, "--resource-limit no-file", INT32_MAX, &options->jail.files, err);
	return error_set(err, EINVAL, "--resource-limit knows fsize and no-file, not '%s'", text);
}

static int check_version(const char *text, struct error *err)
{
	if (strcmp(text, "1") == 0)
		return error_set(err, ENOTSUP, "--cgroup-version 1 is not supported, only 2 is");
	return strcmp(text, "2") == 0 ? 0
	                              : error_set(err, EINVAL, "--cgroup-version must be 2, not '%s'", text);
}

/* --- what the arguments name --- */

/* The interpreter (dynamic linker) that an ELF file asks for; empty when it needs none, or is none. */
static void read_interpreter(int fd, char *name, size_t size)
{
	Elf64_Ehdr header;
	Elf64_Phdr segment;

	name[0] = '\0';
	if (pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
	    memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_phentsize != sizeof(segment))
		return;
	for (unsigned i = 0; i < header.e_phnum; i++) {
		off_t at = (off_t)(header.e_phoff + i * sizeof(segment));

		if (at < 0 || pread(fd, &segment, sizeof(segment), at) != (ssize_t)sizeof(segment))
			return;
		if (segment.p_type == PT_INTERP && segment.p_filesz > 0 && segment.p_filesz < size &&
		    pread(fd, name, segment.p_filesz, (off_t)segment.p_offset) == (ssize_t)segment.p_filesz) {
			name[segment.p_filesz] = '\0';
			return;
		}
	}
}

static int check_program(struct jail_options *options, const char *path, struct error *err)
{
	struct stat st;

	if (!realpath(path, options->program))
		return error_errno(err, errno, "find --exec-file %s", path);
	if (stat(options->program, &st) < 0)
		return error_errno(err, errno, "look at --exec-file %s", options->program);
	if (!S_ISREG(st.st_mode))
		return error_set(err, EINVAL, "--exec-file %s is not a regular file", options->program);
	if (!(st.st_mode & 0111))
		return error_set(err, EACCES, "--exec-file %s is not executable", options->program);
	options->program_name = strrchr(options->program, '/') + 1;
	return 0;
}

/* In the jail's root directory, which may have been filled before, or the program cannot start. */
static int check_interpreter(const struct jail_options *options, struct error *err)
{
	cleanup_close int fd = open(options->program, O_RDONLY | O_CLOEXEC);
	char interpreter[256];
	char inside[PATH_MAX + 256];

	if (fd < 0)
		return error_errno(err, errno, "open --exec-file %s", options->program);
	read_interpreter(fd, interpreter, sizeof(interpreter));
	(void)snprintf(inside, sizeof(inside), "%s%s", options->root, interpreter);
	if (interpreter[0] && access(inside, F_OK) < 0)
		return error_set(
		        err, ENOEXEC,
		        "--exec-file %s is linked dynamically, and its %s is not in the jail: link it "
		        "statically",
		        options->program, interpreter);
	return 0;
}

static int check_base(struct jail_options *options, struct error *err)
{
	char base[PATH_MAX];
	struct stat st;
	int size;

	if (!realpath(options->base, base) || stat(base, &st) < 0)
		return error_errno(err, errno, "find --chroot-base-dir %s", options->base);
	if (!S_ISDIR(st.st_mode))
		return error_set(err, ENOTDIR, "--chroot-base-dir %s is not a directory", base);
	size = snprintf(options->root, sizeof(options->root), "%s/%s/%s/root", base, options->program_name,
	                options->id);
	return size < 0 || size >= (int)sizeof(options->root)
	               ? error_errno(err, ENAMETOOLONG, "--chroot-base-dir %s", base)
	               : 0;
}

static int check_netns(const char *path, struct error *err)
{
	if (path && access(path, R_OK) < 0)
		return error_errno(err, errno, "find --netns %s", path);
	return 0;
}

/* --- the command line --- */

struct given {
	const char *uid;
	const char *gid;
	const char *program;
	int result;
};

static int take_option(int option, struct jail_options *options, struct given *given, struct error *err)
{
	switch (option) {
	case 'i':
		options->id = optarg;
		return jail_check_id(optarg, err);
	case 'e':
		given->program = optarg;
		return 0;
	case 'u':
		given->uid = optarg;
		return 0;
	case 'g':
		given->gid = optarg;
		return 0;
	case 'b':
		options->base = optarg;
		return 0;
	case 'p':
		options->jail.cgroup_parent = optarg;
		return jail_check_relative(optarg, "--parent-cgroup", err);
	case 'c':
		return add_setting(options, optarg, err);
	case 'v':
		return check_version(optarg, err);
	case 'r':
		return add_limit(options, optarg, err);
	case 'n':
		options->jail.netns = optarg;
		return 0;
	case 'P':
		options->new_pid_ns = true;
		return 0;
	case 'd':
		options->daemonize = true;
		return 0;
	case 'V':
		given->result = JAIL_OPTIONS_VERSION;
		return 0;
	case 'h':
		given->result = JAIL_OPTIONS_HELP;
		return 0;
	case ':':
		return error_set(err, EINVAL, "%s needs a value", options->arguments[optind - 1]);
	default:
		return error_set(err, EINVAL, "unknown option '%s'", options->arguments[optind - 1]);
	}
}

static int check_all(struct jail_options *options, const struct given *given, struct error *err)
{
	struct jail *jail = &options->jail;
	uint64_t uid;
	uint64_t gid;
	int ret = 0;

	if (!options->id || !given->program || !given->uid || !given->gid)
		ret = error_set(err, EINVAL, "%s is missing",
		                !options->id      ? "--id"
		                : !given->program ? "--exec-file"
		                : !given->uid     ? "--uid"
		                                  : "--gid");
	/* The largest number means "leave as it is" to the kernel. */
	if (ret == 0)
		ret = parse_number(given->uid, "--uid", UINT32_MAX - 1, &uid, err);
	if (ret == 0)
		ret = parse_number(given->gid, "--gid", UINT32_MAX - 1, &gid, err);
	if (ret == 0)
		ret = check_program(options, given->program, err);
	if (ret == 0)
		ret = check_base(options, err);
	if (ret == 0)
		ret = check_interpreter(options, err);
	if (ret == 0)
		ret = check_netns(jail->netns, err);
	if (ret < 0)
		return ret;
	jail->uid = (uid_t)uid;
	jail->gid = (gid_t)gid;
	jail->root = options->root;
	jail->program = options->program;
	jail->settings = options->settings;
	jail->cgroup_name = options->id;
	if (!jail->cgroup_parent)
		jail->cgroup_parent = options->program_name;
	return 0;
}

int jail_options_parse(int argc, char **argv, struct jail_options *options, struct error *err)
{
	static const struct option table[] = { { "id", required_argument, NULL, 'i' },
		                               { "exec-file", required_argument, NULL, 'e' },
		                               { "uid", required_argument, NULL, 'u' },
		                               { "gid", required_argument, NULL, 'g' },
		                               { "chroot-base-dir", required_argument, NULL, 'b' },
		                               { "parent-cgroup", required_argument, NULL, 'p' },
		                               { "cgroup", required_argument, NULL, 'c' },
		                               { "cgroup-version", required_argument, NULL, 'v' },
		                               { "resource-limit", required_argument, NULL, 'r' },
		                               { "netns", required_argument, NULL, 'n' },
		                               { "new-pid-ns", no_argument, NULL, 'P' },
		                               { "daemonize", no_argument, NULL, 'd' },
		                               { "version", no_argument, NULL, 'V' },
		                               { "help", no_argument, NULL, 'h' },
		                               { 0 } };
	struct given given = { .result = JAIL_OPTIONS_RUN };
	int option;
	int ret = 0;

	memset(options, 0, sizeof(*options));
	options->base = DEFAULT_BASE;
	options->jail.files = DEFAULT_FILES;
	options->arguments = argv;
	/* "+": what follows the first word that is no option is not looked at. */
	while (ret == 0 && given.result == JAIL_OPTIONS_RUN &&
	       (option = getopt_long(argc, argv, "+:", table, NULL)) != -1)
		ret = take_option(option, options, &given, err);
	if (ret < 0 || given.result != JAIL_OPTIONS_RUN)
		return ret < 0 ? ret : given.result;
	if (optind < argc && (optind < 1 || strcmp(argv[optind - 1], "--") != 0))
		return error_set(err, EINVAL, "'%s' is no option; arguments for the program follow --",
		                 argv[optind]);
	options->arguments = argv + optind;
	return check_all(options, &given, err);
}
