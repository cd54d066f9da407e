# What the stories share: lines that are checked. Sourced, not run.

# built PACKAGE...: the program in BIN, with what it needs. One that TAILKEEP_BIN names is taken as it is, and nothing
# is installed for it: so the tests tell the stories.
built() {
  BIN=${TAILKEEP_BIN:-}
  [ -z "$BIN" ] || return 0
  need_packages "${BUILD_PACKAGES[@]}" "$@"
  say "building (the first time takes some minutes)"
  cargo build --locked --quiet 2>/dev/null || cargo build --locked
  BIN=$(pwd)/target/debug/tailkeep
}

# Whether a line was not true.
FAILED=0

# told NAME WANT GOT: one line of the story. It is true if GOT matches the pattern WANT.
told() {
  if [[ "$3" =~ $2 ]]; then printf '  \033[32m✓\033[0m %-52s %s\n' "$1" "$(head -c 90 <<<"${3//$'\n'/ }")"
  else printf '  \033[31m✗\033[0m %-52s\n    wanted: %s\n    got:    %s\n' "$1" "$2" "$3"; FAILED=1; fi
}

# secrets_in COMMAND...: `none in N lines` of what it says, where none of SECRETS is in it. A command that fails, or says
# nothing, has not shown that.
secrets_in() {
  local said secret
  said=$("$@" 2>&1 | tr -d '\0') || { printf 'it failed: %s\n' "$said"; return; }
  [ -n "$said" ] || { echo "it says nothing"; return; }
  for secret in "${SECRETS[@]}"; do
    [[ -n "$secret" && "$said" != *"$secret"* ]] || { echo "a secret is in it, or is empty"; return; }
  done
  echo "none in $(wc -l <<<"$said") lines"
}

# soon COMMAND...: until it succeeds, for at most 30 seconds; then whatever it last said is on stdout.
soon() {
  local said=
  for _ in $(seq 150); do said=$("$@" 2>&1) && break; sleep 0.2; done
  printf '%s\n' "$said"
}

# initdb refuses root; then the package's own user runs the server.
as_db() { if [ "$(id -u)" = 0 ]; then setpriv --reuid postgres --regid postgres --clear-groups "$@"; else "$@"; fi; }
