#!/bin/sh
# Init of a virtual machine: what a distribution's early boot would do.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
modprobe binfmt_misc
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc

. /etc/lab-host
hostname "$LAB_NAME"
ip link set lo up
ip address add "$LAB_ADDRESS/24" dev eth0
ip link set eth0 up
ip route add default via "$LAB_GATEWAY"
exec tini -- lab-services
