# The first program in a virtual machine: runs tests of this machine's checkout on the kernel that was booted.
# usage: guest.sh CHECKOUT PYTHON TEST...
set -euo pipefail
checkout=$1 python=$2
shift 2

# The root file system comes over 9p without any cache, so that every start of a program reads it anew. The same files
# once more, with a cache, make Python start five times faster.
host=/run/host
tag=$(findmnt -no SOURCE "$host")
umount "$host"
mount -t 9p -o ro,version=9p2000.L,trans=virtio,access=any,msize=512000,cache=loose "$tag" "$host"
for folder in proc sys dev run tmp; do
    mount --rbind "/$folder" "$host/$folder"
done
# There is no udev that would make /dev/net/tun; and nothing loads the other two by name.
modprobe -a tun fou ipip

# Plugins that are not needed take seconds to load.
export PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
# What contract tests promise of a fake needs no other kernel.
exec chroot "$host" "$BASH" -c 'cd "$1" && exec "${@:2}"' guest "$checkout" "$python" -m pytest \
    -p pytest_asyncio.plugin -p pytest_timeout -p no:cacheprovider -q -k "not fake" --durations 10 --timeout 100 -o junit_family=xunit1 --junit-xml /run/results/junit.xml "$@"
