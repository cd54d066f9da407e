#!/bin/sh
# Debian's systemd as the first process of namespaces of its own, in the network of the machine that runs this:
#   systemd.sh FOLDER PROGRAM TAILSCALED_FOLDER
# It has a copy of this machine's files that is lost with it, the /etc of the caller, which must be no real one, no
# units but those that are written there, and a control group of its own. PROGRAM is its /usr/local/bin/tailkeep.
# Says `SKIPPED: reason`, or the number of its process; all of it ends with the standard input.
set -eu
if [ "$1" != inside ]; then
  [ -x /lib/systemd/systemd ] || { echo "SKIPPED: systemd is not installed"; exit; }
  groups=$(awk '/ - cgroup2 /{ print $5; exit }' /proc/self/mountinfo)
  [ -n "$groups" ] || { echo "SKIPPED: control groups of version 2 are not mounted"; exit; }
  ours=$(sed -n 's/^0:://p' /proc/self/cgroup)
  own=$(mktemp -d "$groups${ours%/}/tailkeep-test.XXXXXX") || { echo "SKIPPED: no control group may be made"; exit; }
  away() { while ! find "$own" -depth -type d -exec rmdir {} + 2>/dev/null; do sleep 0.05; done; }
  set -- unshare --pid --fork --kill-child --mount --cgroup --ipc --uts sh "$0" inside "$@"
  unshare --pid --fork --mount --cgroup --ipc --uts true || { echo "SKIPPED: no namespaces"; away; exit; }
  ( echo 0 >"$own/cgroup.procs"; exec "$@" ) </dev/null &
  cat >/dev/null
  # The first process of a namespace takes every other along.
  kill -KILL $! 2>/dev/null || true
  wait
  away
  exit
fi

# By the /proc of outside.
read -r pid rest </proc/self/stat
awk '$2 == "/etc" && $3 == "overlay" { found = 1 } END { exit !found }' /proc/mounts
folder=$2 program=$3 tailscaled=$4
mkdir -p "$folder"
mount -t tmpfs -o mode=755 tmpfs "$folder"
mkdir "$folder/up" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/up,workdir=$folder/work" overlay "$folder/root"
cd "$folder/root"
mount --bind /etc etc
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for path in run tmp dev etc/systemd/system; do mount -t tmpfs -o mode=755 tmpfs "$path"; done
mkdir -p run/tailscale dev/net dev/pts dev/shm usr/local/bin
mount --bind "$tailscaled" run/tailscale
for device in null zero full random urandom tty net/tun; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
touch usr/local/bin/tailkeep
mount --bind "$program" usr/local/bin/tailkeep
# Nothing of what else is installed here is started, and nothing is mounted.
for wants in lib/systemd/system/*.target.wants lib/systemd/system-generators; do mount -t tmpfs tmpfs "$wants"; done
ln -s ../systemd-journald.service lib/systemd/system/sysinit.target.wants/
pivot_root . mnt
umount -l /mnt
echo "$pid"
# Namespaces do not divide the clock, the kernel's modules and its log.
exec env container=tailkeep-test setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog \
  /lib/systemd/systemd --unit=multi-user.target --log-target=journal --show-status=no >/dev/null 2>&1
