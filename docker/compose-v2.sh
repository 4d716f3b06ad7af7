#!/usr/bin/env bash
# Puts Compose v2 into a folder for Docker's client, where this machine's own packages have none: the program is taken out
# of the package of a later Debian, and nothing is installed.
#
# usage: docker/compose-v2.sh FOLDER [SUITE]     then: DOCKER_CONFIG=FOLDER docker compose version
set -euo pipefail

folder=${1:?usage: docker/compose-v2.sh FOLDER [SUITE]}
suite=${2:-trixie}
plugin=$folder/cli-plugins/docker-compose
[ -x "$plugin" ] && exit 0
command -v apt-get >/dev/null || { echo "no apt-get here: see docs.docker.com/compose/install" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Lists and archives of its own: what the machine installs stays what it was.
mkdir -p "$work"/lists/partial "$work"/archives/partial "$work/sources"
cat >"$work/sources/later.sources" <<END
Types: deb
URIs: ${STAND_IN_MIRROR:-http://deb.debian.org/debian}
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
cat >"$work/apt.conf" <<END
Dir::State::Lists "$work/lists";
Dir::Cache "$work";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$work/sources";
APT::Sandbox::User "root";
END
export APT_CONFIG=$work/apt.conf
apt-get update -qq
(cd "$work" && apt-get download -qq docker-compose && dpkg -x docker-compose_*.deb "$work/package")
mkdir -p "$folder/cli-plugins"
install -m 755 "$(find "$work/package" -type f -name docker-compose -size +1M | head -n 1)" "$plugin"
