#!/usr/bin/env bash
# Builds what compose.yaml runs: the images holdfast and holdfast-postgres. Without a registry it builds them on a
# stand-in base and with a holdfast that this machine compiles.
#
# usage: docker/build-images.sh
# BUILD_BASE, RUN_BASE   bases of one's own
# HOLDFAST_BINARY        a holdfast that is compiled already, for the Debian of RUN_BASE
# HOLDFAST_IMAGE, HOLDFAST_POSTGRES_IMAGE   names of the images
set -euo pipefail
cd "$(dirname "$0")/.."

image=${HOLDFAST_IMAGE:-holdfast}
postgres_image=${HOLDFAST_POSTGRES_IMAGE:-holdfast-postgres}
run_base=${RUN_BASE:-debian:bookworm-slim}
build_base=${BUILD_BASE:-rust:1-bookworm}
binary=${HOLDFAST_BINARY:-}
stand_in=holdfast-stand-in:$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")

docker info >/dev/null 2>&1 || {
  echo "Docker does not answer: apt-get install -y docker.io docker-compose, and start the daemon" >&2
  exit 1
}

is_there() { docker image inspect "$1" >/dev/null 2>&1 || timeout 60 docker pull -q "$1" >/dev/null 2>&1; }

if ! is_there "$run_base"; then
  echo "$run_base cannot be pulled; a stand-in takes its place"
  run_base=$stand_in
  docker image inspect "$run_base" >/dev/null 2>&1 || docker/stand-in.sh "$run_base"
fi
if [ -z "$binary" ] && ! is_there "$build_base"; then
  echo "$build_base cannot be pulled; holdfast is compiled here"
  make build
  binary=target/release/holdfast
fi

# What is compiled already comes in a context of its own, small and without the sources.
context=.
if [ -n "$binary" ]; then
  context=$(mktemp -d)
  trap 'rm -rf "$context"' EXIT
  mkdir -p "$context/prebuilt" "$context/docker"
  cp -r docker/postgres docker/Dockerfile "$context/docker"
  strip -o "$context/prebuilt/holdfast" "$binary"
  build_base=$run_base
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
docker build -q -f "$context/docker/Dockerfile" -t "$image" \
  --build-arg BUILD_BASE="$build_base" --build-arg RUN_BASE="$run_base" --build-arg VERSION="$version" \
  --build-arg BINARY="${binary:+prebuilt/holdfast}" "$context"
docker build -q -f "$context/docker/postgres/Dockerfile" -t "$postgres_image" \
  --build-arg RUN_BASE="$run_base" "$context"
