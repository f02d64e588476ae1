#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# with_image.sh SERIES VARIANT COMMAND...: runs COMMAND with SM_GUEST_IMAGE set to the
# memory image of that guest, made first if it is not cached.
set -euo pipefail
folder=$("$(dirname "$0")/make_image.sh" "$1" "$2")
shift 2
SM_GUEST_IMAGE=$folder exec "$@"
