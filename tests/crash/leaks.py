"""What there is on the service's host of sandboxes: files, processes, mounts, name spaces."""

import time

from client import on_service_host

SCRIPT = r"""
count() { find "$@" 2>/dev/null | wc -l; }
echo "machine-directories $(count /run/atoll/sandboxes -mindepth 1 -maxdepth 1)"
echo "shell-directories $(count /run/atoll/shells -mindepth 1 -maxdepth 1)"
echo "disk-directories $(count "$data/sandboxes" -mindepth 1 -maxdepth 1)"
echo "disk-files $(count "$data/sandboxes" -type f)"
echo "pauses $(count "$data/paused" -type f)"
echo "templates $(count "$data/templates" -mindepth 1 -maxdepth 1)"
echo "template-files $(count "$data/templates" -type f)"
echo "monitors $(pgrep -c -x atoll-vmm)"
echo "daemons $(pgrep -c -x 'atoll-(node|api)')"
echo "mounts $(wc -l </proc/mounts)"
echo "cgroups $(count /sys/fs/cgroup -mindepth 1 -type d -name '*atoll*')"
echo "name-spaces $(readlink /proc/[0-9]*/ns/mnt /proc/[0-9]*/ns/net /proc/[0-9]*/ns/pid /proc/[0-9]*/ns/ipc 2>/dev/null | sort -u | wc -l)"
echo "veths $(count /sys/class/net -mindepth 1 -maxdepth 1 -name 'atoll-*')"
echo "named-network-name-spaces $(count /run/netns -mindepth 1 -maxdepth 1)"
echo "scratch $(count /tmp /var/tmp -mindepth 1 -maxdepth 1 -name '*atoll*')"
"""


def look(data="/var/lib/atoll"):
    lines = on_service_host("data=%s\n%s" % (data, SCRIPT)).split("\n")
    return dict((line.split()[0], int(line.split()[1])) for line in lines if len(line.split()) == 2)


def settled(seconds=120, same=8):
    """What there is when it does not change any more: spare sandboxes are made in the background."""
    end = time.monotonic() + seconds
    last, since = look(), time.monotonic()
    while time.monotonic() < end and time.monotonic() - since < same:
        time.sleep(1)
        now = look()
        if now != last:
            last, since = now, time.monotonic()
    return last


def compare(before):
    """None, or what is more or less than before."""
    now = look()
    differences = ["%s: %d instead of %d" % (name, now.get(name, 0), count) for name, count in before.items()
                   if now.get(name, 0) != count]
    return "; ".join(differences) or None
