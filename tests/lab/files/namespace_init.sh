#!/bin/sh
# First process of a namespace host. Every mount is made in here, so all of them end with the host.
# LAB_ROOT     unpacked root file system, shared by all hosts, never written to
# LAB_HOST     the host's directory: upper/ work/ root/ and docker.img
# LAB_SEED     archive of the files that make it this host
# LAB_NAME LAB_ADDRESS LAB_GATEWAY
set -eu
root=$LAB_HOST/root

mount -t overlay overlay -o "lowerdir=$LAB_ROOT,upperdir=$LAB_HOST/upper,workdir=$LAB_HOST/work" "$root"
mkdir -p "$root/var/lib/docker"
# A real file system, as Docker's overlay2 needs one. Its host dies alone, not this machine: nothing need be on the disk.
mount -o loop,nobarrier,noatime "$LAB_HOST/docker.img" "$root/var/lib/docker"
mount -t proc proc "$root/proc"
mount -t binfmt_misc binfmt_misc "$root/proc/sys/fs/binfmt_misc" || echo "no binfmt_misc on this machine"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount --bind /dev "$root/dev"
mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"

# cgroups as the machine has them; the namespace makes this host's own group their root.
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    points=$(awk '$3 == "cgroup" && $2 ~ "^/sys/fs/cgroup/" { print $2 }' /proc/self/mounts)
    for point in $points; do
        controllers=${point##*/}
        [ "$controllers" = systemd ] && continue
        mkdir -p "$root/sys/fs/cgroup/$controllers"
        mount -t cgroup -o "$controllers" cgroup "$root/sys/fs/cgroup/$controllers"
    done
fi

tar -x -f "$LAB_SEED" -C "$root"
hostname "$LAB_NAME"
ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do
    sleep 0.05 # the lab puts it here once it knows this process
done
if [ -e "$root/sys/fs/cgroup/cgroup.controllers" ]; then
    # version 2 lets a group with processes of its own hand no controllers on; the lab has moved our parent already
    mkdir -p "$root/sys/fs/cgroup/init"
    echo 0 > "$root/sys/fs/cgroup/init/cgroup.procs"
    for controller in $(cat "$root/sys/fs/cgroup/cgroup.controllers"); do
        echo "+$controller" > "$root/sys/fs/cgroup/cgroup.subtree_control"
    done
fi
ip address add "$LAB_ADDRESS/24" dev eth0
ip link set eth0 up
ip route add default via "$LAB_GATEWAY"

cd "$root"
pivot_root . mnt
umount -l /mnt
exec /usr/bin/tini -- /usr/local/sbin/lab-services
