# Second half of the guest's start: loads what the command needs, runs it on the console, leaves its exit code in the scratch share.
. /run/vars
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root TERM=dumb
stty -F /dev/hvc0 raw -echo
exec < /dev/null > /dev/hvc0 2>&1
echo "$HOST_NAME" > /proc/sys/kernel/hostname
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
grep -hE 'bc02|^virtio:d00000001' /sys/bus/*/devices/*/modalias | xargs -r modprobe -qa # drivers of the NICs
modprobe -a $MODULES || echo "vm: a kernel module is missing, see above"
ip link set lo up
[ -z "$NIC_ADDRESS" ] || { ip addr add "$NIC_ADDRESS" dev eth0; ip link set eth0 up; }
cd / && code=0
eval "$COMMAND" || code=$?
echo "$code" > "$SCRATCH/exit-code.part" && mv "$SCRATCH/exit-code.part" "$SCRATCH/exit-code"
# A command that leaves something running asks for the guest to stay by this file; the host ends it then.
while [ -e "$SCRATCH/stay" ]; do busybox sleep 1; done
sync
echo o > /proc/sysrq-trigger
while :; do busybox sleep 1; done
