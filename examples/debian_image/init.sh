#!/bin/busybox sh
# The first program of debian-12-mini: devices, modules, the power button, and a shell on the console.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=linux
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /run
mount -t tmpfs none /tmp
while read -r module; do
  insmod "/modules/$module.ko" || echo "debian-12-mini: cannot load $module"
done </modules/order
hostname debian-12-mini
# The power button powers off.
acpid -l /dev/null
# A first disk with a file system is there to use.
if [ -b /dev/vda ]; then mount -t ext4 /dev/vda /mnt 2>/dev/null; fi
echo "debian-12-mini is up: $(uname -r), $(nproc) cpus"
cd /root
while :; do setsid -c sh -l </dev/ttyS0 >/dev/ttyS0 2>&1; done
