#!/bin/sh
# Starts a namespace host: joins its cgroups, then hands over to its init in namespaces of its own.
# --kill-child ties the whole host to this process: its end is the host's end.
# LAB_CGROUPS  cgroup directories to join, separated by spaces
set -eu
for cgroup in $LAB_CGROUPS; do
    echo $$ > "$cgroup/cgroup.procs"
done
exec unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup "$@"
