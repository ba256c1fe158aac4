# What the scripts beside this one share; they source it with `set -euo pipefail` on.

step() { printf '\n=== %s: %s\n' "$(date +%T)" "$*"; }

# Print the shell lines under a comment of the README.
block() { sed -n "/^<!-- $1 -->\$/,/^\`\`\`\$/p" README.md | sed '1,2d;$d'; }

# Put an interpreter first on PATH, as the `python3` of the README's commands.
use_python() {
  local folder
  folder=$(mktemp -d "$scratch/python.XXXX")
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$1" > "$folder/python3"
  chmod +x "$folder/python3"
  PATH="$folder:$PATH"
  hash -r
}

# Make a fresh clone of what is committed and go into it.
fresh_clone() {
  local folder
  folder=$(mktemp -d "$scratch/clone.XXXX")
  git clone --quiet "$root" "$folder"
  cd "$folder"
}
