#!/usr/bin/env bash
# Makes a base image without a registry: a minimal Debian from the package mirror, with the certificates that this
# machine trusts. It takes the place of debian:…-slim by the build argument RUN_BASE, for tests and closed networks.
#
# usage: docker/stand-in.sh IMAGE [SUITE]     SUITE: the one of this machine
# STAND_IN_MIRROR   another mirror
# STAND_IN_RUST=1   with the Rust of this machine: to take the place of rust:… by the build argument BUILD_BASE
set -euo pipefail

image=${1:?usage: docker/stand-in.sh IMAGE [SUITE]}
suite=${2:-$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")}

command -v debootstrap >/dev/null || PATH=$PATH:/usr/sbin
command -v debootstrap >/dev/null \
  || { echo "debootstrap is not installed: apt-get install -y debootstrap" >&2; exit 1; }
root=
[ "$(id -u)" = 0 ] || root=sudo

folder=$(mktemp -d)
trap '$root rm -rf "$folder"' EXIT
log=$folder/log
$root debootstrap --variant=minbase --include=ca-certificates "$suite" "$folder/root" \
  ${STAND_IN_MIRROR:+"$STAND_IN_MIRROR"} >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }

# Where a network inspects what leaves it, its own authority is in the machine's bundle and in no package.
bundle=/etc/ssl/certs/ca-certificates.crt
if [ -r "$bundle" ]; then
  $root cp "$bundle" "$folder/root$bundle"
fi
if [ "${STAND_IN_RUST:-}" = 1 ]; then
  toolchain=$(rustc --print sysroot)
  $root mkdir "$folder/root/usr/local/rust"
  $root cp -r "$toolchain/bin" "$toolchain/lib" "$folder/root/usr/local/rust"
  $root ln -s ../rust/bin/cargo ../rust/bin/rustc "$folder/root/usr/local/bin"
fi
$root rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/*
$root tar -C "$folder/root" -c . | docker import --change 'CMD ["bash"]' - "$image" >/dev/null
echo "$image is made: Debian $suite"
