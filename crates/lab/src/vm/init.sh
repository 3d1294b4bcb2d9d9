#!/bin/busybox sh
# First process of the guest: mounts the host's / read-only under a tmpfs overlay and goes on in it with stage2.sh.
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /lower /rw /new
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
. /vars
for module in /m/*.ko; do insmod "$module"; done
share() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2"; }
share root /lower ro,cache=loose
mount -t tmpfs -o size=75% rw /rw
mkdir /rw/u /rw/w
mount -t overlay -o lowerdir=/lower,upperdir=/rw/u,workdir=/rw/w root /new
for dir in proc sys dev; do mount --move /$dir /new/$dir; done
mount -t tmpfs run /new/run
mkdir -p /new/usr/lib/modules "/new$SCRATCH" /new/dev/pts /new/dev/shm /new/run/netns
share scratch "/new$SCRATCH" rw,cache=mmap
mount --bind "/lower$KERNEL_DIR/lib/modules" /new/usr/lib/modules
cp /stage2.sh /vars /new/run/
exec switch_root /new /bin/sh /run/stage2.sh
