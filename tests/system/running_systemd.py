# SPDX-License-Identifier: Apache-2.0
"""A real systemd as process 1 of namespaces of its own, with our units.

Its root is an overlay on this machine's, so nothing of that is touched. The units run
as they are shipped, with all their hardening.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Self

from support.process import Process, wait_until

# What has no place in a container.
_MASKED = [
    *("apparmor.service", "console-setup.service", "e2scrub_reap.service"),
    *("keyboard-setup.service", "systemd-binfmt.service", "systemd-logind.service"),
    *("systemd-modules-load.service", "systemd-networkd.service"),
    *("systemd-pstore.service", "systemd-random-seed.service"),
    *("systemd-remount-fs.service", "systemd-resolved.service"),
    *("systemd-sysctl.service", "systemd-timesyncd.service"),
    *("systemd-udev-trigger.service", "systemd-udevd.service"),
    *("systemd-update-utmp.service", "dev-hugepages.mount", "dev-mqueue.mount"),
    *("sys-fs-fuse-connections.mount", "sys-kernel-config.mount"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
]
_BOOT = """\
set -e
cd "$DIR"
mount -t tmpfs work work
mkdir work/upper work/work work/root
mount -t overlay -o "lowerdir=$BASE,upperdir=work/upper,workdir=work/work" o work/root
ip link set lo up
cd work/root
rm -rf etc/systemd/system etc/systemd/network
mkdir -p etc/systemd/system proc sys dev run tmp old
for unit in $MASKED; do ln -s /dev/null "etc/systemd/system/$unit"; done
printf '[Unit]\\nDefaultDependencies=no\\n' >etc/systemd/system/test.target
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs dev dev
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
  numbers=${node#*:}
  mknod -m 666 "dev/${node%%:*}" c "${numbers%:*}" "${numbers#*:}"
done
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mkdir dev/shm dev/pts
mount -t tmpfs shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 pts dev/pts
cp -a "$DIR/files/." .
pivot_root . old
umount -l /old
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
  /lib/systemd/systemd --unit=test.target --log-target=journal --show-status=no
"""


class RunningSystemd:
    """What lies below `directory`/files is laid over the new root first."""

    def __init__(self, directory: Path, base: str = "/") -> None:
        (directory / "work").mkdir()
        groups = Path("/sys/fs/cgroup")
        unified = groups / "unified"  # beside version 1
        self._group = (unified if unified.is_dir() else groups) / f"test-{os.getpid()}"
        self._init = Process(
            [
                *("sh", "-c", 'echo $$ >"$GROUP/cgroup.procs"; exec "$@"', "sh"),
                *("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup"),
                *("--fork", "--kill-child", "--propagation", "private"),
                *("sh", "-c", _BOOT),
            ],
            directory / "boot.log",
            dict(os.environ)
            | {
                "BASE": base,
                "DIR": str(directory),
                "GROUP": str(self._group),
                "MASKED": " ".join(_MASKED),
            },
        )

    def __enter__(self) -> Self:
        self._group.mkdir()
        try:
            self._init.start()
            wait_until(self._is_up, 60, self._init.output())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._init.is_alive:
            self._init.kill()
        wait_until(lambda: "populated 0" in (self._group / "cgroup.events").read_text())
        for inner in sorted(self._group.rglob("*/"), reverse=True):
            inner.rmdir()
        self._group.rmdir()

    def _is_up(self) -> bool:
        assert self._init.is_alive, self._init.output()
        return self.run("systemctl is-system-running", check=False).strip() in (
            *("running", "degraded"),
        )

    def run(self, script: str, *, check: bool = True) -> str:
        """Run text for sh inside."""
        done = self._enter("sh", "-euc", script)
        journal = ("journalctl", "--no-pager", "--lines=30")
        ok = done.returncode == 0 or not check
        assert ok, done.stdout + self._enter(*journal).stdout
        return done.stdout

    def _enter(self, *command: str) -> subprocess.CompletedProcess[str]:
        pid = self._init.running.pid
        inside = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or ["0"]
        return subprocess.run(
            ["nsenter", "-t", inside[0], "-a", *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    def state(self, unit: str, name: str = "SubState") -> str:
        return self.run(f"systemctl show --value --property {name} {unit}").strip()
