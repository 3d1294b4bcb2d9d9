#!/bin/sh
# First process of the guest: puts an overlay in memory over the host's / and goes on in it with stage2.sh.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
. "${0%/*}/vars"
mount -t tmpfs rw /mnt
mkdir /mnt/upper /mnt/work /mnt/new
insmod /usr/lib/uml/modules/*/kernel/fs/overlayfs/overlay.ko
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work root /mnt/new
cd /mnt/new
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm usr/lib/modules
for dir in run $OWN; do
    mkdir -p "$dir"
    mount -t tmpfs own "$dir"
done
mkdir -p run/netns run/lock
for dir in $SHARED; do
    mkdir -p ".$dir"
    mount -t hostfs -o "$dir" shared ".$dir"
done
mount --bind /usr/lib/uml/modules usr/lib/modules
cp "${0%/*}/vars" "${0%/*}/stage2.sh" run/
pivot_root . mnt
exec chroot . /bin/sh /run/stage2.sh
