#!/bin/busybox sh
echo "debian-12-mini: the power button was pressed" >/dev/console
sync
poweroff -f
