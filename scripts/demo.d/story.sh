# What the stories share: lines that are checked. Sourced, not run.

# Whether a line was not true.
FAILED=0

# told NAME WANT GOT: one line of the story. It is true if GOT matches the pattern WANT.
told() {
  if [[ "$3" =~ $2 ]]; then printf '  \033[32m✓\033[0m %-52s %s\n' "$1" "$(head -c 90 <<<"${3//$'\n'/ }")"
  else printf '  \033[31m✗\033[0m %-52s\n    wanted: %s\n    got:    %s\n' "$1" "$2" "$3"; FAILED=1; fi
}

# soon COMMAND...: until it succeeds, for at most 30 seconds; then whatever it last said is on stdout.
soon() {
  local said=
  for _ in $(seq 150); do said=$("$@" 2>&1) && break; sleep 0.2; done
  printf '%s\n' "$said"
}

# initdb refuses root; then the package's own user runs the server.
as_db() { if [ "$(id -u)" = 0 ]; then setpriv --reuid postgres --regid postgres --clear-groups "$@"; else "$@"; fi; }
