# Shared by the scripts: installing what is missing. Sourced, not run.
say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"
  else die "this needs root to install packages: run as root once, or install them yourself: $*"; fi
}

# need_packages PACKAGE...: installs the Debian packages that are missing.
need_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return 0
  say "installing Debian packages: ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# need_cargo_tool BINARY CRATE VERSION: builds a cargo tool once.
need_cargo_tool() {
  command -v "$1" >/dev/null && return 0
  say "building $2 (once)"
  cargo install --quiet --locked "$2" --version "$3"
}

# What a build needs: a C compiler and libclang, for PostgreSQL's own parser and for the cryptography.
BUILD_PACKAGES=(build-essential cmake clang libclang-dev pkg-config)
