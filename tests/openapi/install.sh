#!/bin/sh
# Schemathesis in a folder of its own: $1. What is there already is left alone.
set -eu
[ -x "$1/bin/schemathesis" ] || {
  python3 -m venv "$1"
  "$1/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5
}
