#!/bin/bash
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb HOST=10.0.2.2
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1        # the kernel log
mkdir -p /dev/shm /dev/pts; mount -t tmpfs shm /dev/shm; mount -t devpts pts /dev/pts
ln -sf /proc/self/mounts /etc/mtab
modprobe -a virtio_pci virtio_net virtio_console virtio_rng
ip link set lo up; ip link set eth0 up
address=10.0.2.15/24
for word in $(cat /proc/cmdline); do    # --tap says the address on the kernel's command line
  case $word in kc.address=*) address=${word#*=}; unset HOST ;; esac
done
ip addr add $address dev eth0; [ -z "$HOST" ] || ip route add default via $HOST
hostname kernel-client
# Two named serial ports lead to the host: the script's output and its exit status.
until [ -n "$out" ] && [ -n "$status" ]; do
  for d in /sys/class/virtio-ports/*; do
    case "$(cat $d/name 2>/dev/null)" in
      out) out=/dev/${d##*/} ;; status) status=/dev/${d##*/} ;;
    esac
  done
done
cd /job
bash /job/.start </dev/null >$out 2>&1
echo $? >$status
poweroff -f
