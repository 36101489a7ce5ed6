# Run in a mount namespace of its own: this machine's whole root at $1/root, where every change goes
# to memory and is gone with the namespace. The checkout and what else is mounted can be read there.
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay none -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
for each in proc sys dev; do mount --rbind "/$each" "$1/root/$each"; done
while read -r _ _ _ _ where _; do
    case $where in
    / | /proc* | /sys* | /dev* | /run* | "$1"*) ;;
    *) mount --bind -o ro "$where" "$1/root$where" 2>/dev/null || : ;;
    esac
done </proc/self/mountinfo
echo ready
exec sleep infinity
