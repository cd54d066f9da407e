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

# need_systemd: the program, for a test that runs it in namespaces of its own. It becomes nobody's init by that, and where
# another package would have to go for it, the test is skipped.
need_systemd() {
  [ -x /lib/systemd/systemd ] && return 0
  say "installing the Debian package systemd, for its test"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove systemd >/dev/null ||
    say "systemd cannot be had here: its test will be skipped"
}

# need_cargo_tool BINARY CRATE VERSION: builds a cargo tool once.
need_cargo_tool() {
  command -v "$1" >/dev/null && return 0
  say "building $2 (once)"
  cargo install --quiet --locked "$2" --version "$3"
}

# check_advisories: whether an advisory concerns a dependency. The list is fetched from outside, within
# ADVISORIES_SECONDS_MAX. 0: none does. 1: one does, and it is shown. 2: it could not be found out, and it is shown why.
ADVISORIES_SECONDS_MAX=${ADVISORIES_SECONDS_MAX:-120}
check_advisories() {
  local said
  said=$(timeout "$ADVISORIES_SECONDS_MAX" cargo deny --locked check advisories 2>&1) && return 0
  printf '%s\n' "$said" >&2
  # Its verdict, and nothing else, is a finding: a time-out, a list that cannot be fetched and a tool that fails are none.
  if printf '%s\n' "$said" | grep -q '^advisories FAILED'; then return 1; fi
  return 2
}

# What a build needs: a C compiler and libclang, for PostgreSQL's own parser and for the cryptography.
BUILD_PACKAGES=(build-essential cmake clang libclang-dev pkg-config)

# What the benchmark runs beside the gateway.
BENCH_PACKAGES=(postgresql wireguard-go wireguard-tools iproute2 nginx-light pgbouncer wrk nghttp2-client iperf3 curl openssl
  procps python3 util-linux)

# need_profdata: what merges profiles, of the compiler's own version, in PROFDATA.
need_profdata() {
  PROFDATA=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/llvm-profdata
  [ -x "$PROFDATA" ] && return 0
  command -v rustup >/dev/null || die "a profile needs the llvm-tools of this rustc, which rustup has"
  rustup component add llvm-tools >/dev/null
}

# Oldest Go that builds the tests' servers, and the one that is fetched where there is none.
GO_MIN=1.26.1
GO_FETCHED=1.26.8

# need_go: puts a Go that is new enough first in PATH. Debian's is too old to build the tests' servers, but it can
# fetch a newer one, which is published as a module.
need_go() {
  local version root from arch
  # Without Go the pipe fails, and with it the caller, silently.
  version=$( (go env GOVERSION 2>/dev/null || true) | sed -n 's/^go\([0-9.]*\).*/\1/p')
  [ "$(printf '%s\n' "$GO_MIN" "${version:-0}" | sort -V | head -1)" = "$GO_MIN" ] && return 0
  root="$PWD/target/go-$GO_FETCHED"
  if [ ! -x "$root/bin/go" ]; then
    command -v go >/dev/null || need_packages golang-go
    say "fetching Go $GO_FETCHED (once)"
    case "$(uname -m)" in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) die "no Go for $(uname -m)" ;; esac
    from=$(cd / && go mod download -json "golang.org/toolchain@v0.0.1-go$GO_FETCHED.linux-$arch" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
    [ -d "$from" ] || die "Go $GO_FETCHED cannot be fetched"
    rm -rf "$root.part"
    mkdir -p "$(dirname "$root")"
    cp -r "$from" "$root.part"
    # Files of a module are neither writable nor executable.
    chmod -R u+w "$root.part"
    chmod +x "$root.part"/bin/* "$root.part"/pkg/tool/*/*
    mv "$root.part" "$root"
  fi
  export GOROOT="$root" PATH="$root/bin:$PATH"
}

# need_kubernetes: builds the API server of tests/kubernetes and kubectl, once for each version of their sources.
need_kubernetes() {
  local from="$PWD/tests/kubernetes/cluster" to="$PWD/target/kubernetes" sources
  sources=$(cat "$from"/go.mod "$from"/go.sum "$from"/*.go | sha256sum)
  [ -x "$to/cluster" ] && [ -x "$to/kubectl" ] && [ "$(cat "$to/sources" 2>/dev/null)" = "$sources" ] && return 0
  need_go
  say "building a Kubernetes API server and kubectl for the tests (once; minutes)"
  mkdir -p "$to"
  (
    cd "$from"
    export CGO_ENABLED=0 GOTOOLCHAIN=local
    go build -buildvcs=false -o "$to/cluster" .
    go build -buildvcs=false -o "$to/kubectl" k8s.io/kubernetes/cmd/kubectl
  )
  printf '%s\n' "$sources" >"$to/sources"
}

# need_resolver: builds what asks the API server's own resolver, for the tests of the facts, once for each version of its
# sources.
need_resolver() {
  local from="$PWD/tests/facts/resolver" to="$PWD/target/kubernetes" sources
  sources=$(cat "$from"/go.mod "$from"/go.sum "$from"/*.go | sha256sum)
  [ -x "$to/resolver" ] && [ "$(cat "$to/resolver.sources" 2>/dev/null)" = "$sources" ] && return 0
  need_go
  say "building the API server's resolver for the tests (once)"
  mkdir -p "$to"
  rm -f "$to/resolver"
  (cd "$from" && CGO_ENABLED=0 GOTOOLCHAIN=local go build -buildvcs=false -o "$to/resolver" .)
  printf '%s\n' "$sources" >"$to/resolver.sources"
}

# need_celspec: makes the conformance tests of the CEL specification readable for the tests of conditions, once for each
# version of them.
need_celspec() {
  local from="$PWD/tests/policy/celspec" to="$PWD/target/cel-spec" sources
  sources=$(cat "$from"/go.mod "$from"/go.sum "$from"/*.go | sha256sum)
  [ -s "$to.jsonl" ] && [ "$(cat "$to.sources" 2>/dev/null)" = "$sources" ] && return 0
  need_go
  say "fetching the conformance tests of the CEL specification (once)"
  (
    cd "$from"
    export CGO_ENABLED=0 GOTOOLCHAIN=local
    go mod download cel.dev/expr
    go run -buildvcs=false . "$(go list -m -f '{{.Dir}}' cel.dev/expr)/tests/simple/testdata" >"$to.part"
  )
  mv "$to.part" "$to.jsonl"
  printf '%s\n' "$sources" >"$to.sources"
}

# need_tailnet: builds the tests' control server, and tailscaled with its command line inside, once for each version
# of their sources.
need_tailnet() {
  local from="$PWD/tailscale/fixture" to="$PWD/target/tailnet" sources
  sources=$(cat "$from"/go.mod "$from"/go.sum "$from"/*.go | sha256sum)
  [ -x "$to/control" ] && [ -x "$to/tailscaled" ] && [ "$(cat "$to/sources" 2>/dev/null)" = "$sources" ] && return 0
  need_go
  say "building a control server and tailscaled for the tests (once; minutes)"
  mkdir -p "$to"
  (
    cd "$from"
    export CGO_ENABLED=0 GOTOOLCHAIN=local
    go build -buildvcs=false -trimpath -ldflags='-s -w' -o "$to/control" .
    go build -buildvcs=false -trimpath -ldflags='-s -w' -tags ts_include_cli -o "$to/tailscaled" tailscale.com/cmd/tailscaled
  )
  ln -sf tailscaled "$to/tailscale"
  printf '%s\n' "$sources" >"$to/sources"
}

# count_parts [-- --write]: what the hot parts cost in instructions, and their ratio to benches/counts.txt, or that file anew. Our own code as
# in the release; what it stands on as the tests have it, which is there already and as good to compare with itself.
count_parts() { CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo bench --locked --profile dev --quiet --bench parts "$@"; }

# The accessibility rules that the admin page is held to.
AXE=4.14.1

# need_axe: axe-core for the tests of the admin page, once.
need_axe() {
  local to="$PWD/target/axe"
  [ "$(cat "$to/version" 2>/dev/null)" = "$AXE" ] && return 0
  command -v npm >/dev/null || need_packages npm
  say "fetching axe-core $AXE (once)"
  mkdir -p "$to"
  (
    cd "$to"
    npm pack --silent "axe-core@$AXE" >/dev/null
    tar xzf "axe-core-$AXE.tgz" --strip-components=1 package/axe.min.js package/LICENSE
    rm "axe-core-$AXE.tgz"
  )
  printf '%s\n' "$AXE" >"$to/version"
}
