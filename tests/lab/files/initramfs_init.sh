#!/bin/busybox sh
# First process of the virtual machine: finds the disk and hands over to the real root file system.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in /modules/*; do
    /bin/busybox insmod "$module"
done
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do
    /bin/busybox sleep 0.1
done
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox tar -x -f /dev/vdb -C /new # what makes it this host: names, keys, scripts
/bin/busybox umount /proc
/bin/busybox umount /dev
exec /bin/busybox switch_root /new /usr/local/sbin/machine-init
