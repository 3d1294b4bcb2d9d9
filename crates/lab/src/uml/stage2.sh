# Second half of the guest's start: loads what the command needs, and becomes the command.
. /run/vars
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
stty -F /dev/tty1 raw -echo
exec < /dev/null > /dev/tty1 2>&1
umount -l /mnt
echo "$HOST_NAME" > /proc/sys/kernel/hostname
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
# Some programs (cAdvisor in the kubelet) do not start where no processor has a frequency.
sed 's/^bogomips.*/&\ncpu MHz : 2000.000/' /proc/cpuinfo > /run/cpuinfo
mount --bind /run/cpuinfo /proc/cpuinfo
# This kernel has no nftables.
for program in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -sf /usr/sbin/xtables-legacy-multi "/usr/local/sbin/$program"
done
for module in $MODULES; do
    modprobe "$module" || echo "no kernel module $module"
done
ip link set lo up
at=0
for interface in $INTERFACES; do
    ip link set "vec$at" name "$interface"
    ip link set "$interface" up
    at=$((at + 1))
done
# For volumes with mountPropagation: Bidirectional.
mount --make-rshared /
cd /
eval "exec $COMMAND"
