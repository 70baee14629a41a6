#!/bin/bash
# Makes the streams in this folder anew, as root, in a BTRFS folder of its own: make.sh FOLDER. Numbers and times in them differ
# each time; the *.txt beside them are made by `go test ./backing -run Golden -update`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
btrfs subvolume create v >/dev/null
mkdir -p v/dir/sub v/old
echo one >v/dir/one; echo two >v/dir/two
head -c 300000 /dev/zero | tr '\0' 'a' >v/large
ln v/dir/one v/old/link
setfattr -n user.x -v value v/dir/one
setfattr -n user.gone -v value v/dir/two
btrfs subvolume snapshot -r v a >/dev/null
printf changed | dd of=v/large bs=4096 seek=20 conv=notrunc status=none
cp --reflink=always v/large v/clone
truncate -s 100000 v/large
chmod 600 v/dir/one; chown 3:4 v/dir/two
setfattr -n user.y -v "$(head -c 300 /dev/zero | tr '\0' 'y')" v/dir/one
setfattr -x user.gone v/dir/two
rm v/old/link; mv v/dir/sub v/moved; mv v/dir v/old/dir; rmdir v/moved
mkdir v/new; mkfifo v/new/fifo; mknod v/new/null c 1 3; ln -s target v/new/symlink
python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).bind("v/new/socket")'
ln v/old/dir/one v/new/one
fallocate -p -o 8192 -l 8192 v/large
btrfs subvolume snapshot -r v b >/dev/null
btrfs send -q -p a b >"$here/data-v1.stream"
btrfs send -q --proto 2 -p a b >"$here/data-v2.stream"
btrfs send -q --no-data -p a b >"$here/nodata-v1.stream"
btrfs send -q --proto 2 --no-data -p a b >"$here/nodata-v2.stream"
btrfs send -q --no-data a >"$here/full-v1.stream"
btrfs filesystem defragment -czstd v/clone; sync
btrfs property set a ro true; btrfs subvolume snapshot -r v c >/dev/null
btrfs send -q --proto 2 --compressed-data -p b c >"$here/compressed-v2.stream"
