//! `tailkeep run` in a real terminal, beneath a shell with job control: what a person types, and what
//! others send, reaches the command once; a command that stops is a job that stopped.

use serde_json::Value;

use crate::world::{World, can_run, until};

const POLICY: &str =
    "endpoint \"https\" \"api\" { hosts = [\"api.test\"] }\nprofile \"dev\" { peers = [\"agent\"] }\n";

/// Says each signal that it gets, and how often it got that one. Ends by SIGTERM as it would anyway.
const COMMAND: &str = r#"
import fcntl, os, select, signal, struct, sys, termios
seen = {}
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
for name in ("INT", "QUIT", "HUP", "USR1", "USR2", "WINCH", "CONT"):
    signal.signal(getattr(signal, "SIG" + name), lambda *_: None)
tty = os.open("/dev/tty", os.O_RDWR)
def say(text): os.write(tty, ("<" + text + ">\n").encode())
say("up %d" % os.getppid())
while True:
    for number in os.read(reader, 64):
        name = signal.Signals(number).name[3:]
        seen[name] = seen.get(name, 0) + 1
        size = struct.unpack("HH", fcntl.ioctl(tty, termios.TIOCGWINSZ, b"0123"))
        say("%s %d" % (name, seen[name]) + (" %dx%d" % size if name == "WINCH" else ""))
"#;

/// Types into a terminal of its own, and waits for what must be shown there.
const PERSON: &str = r#"
import fcntl, os, pty, re, select, signal, struct, sys, termios, time
program, command = sys.argv[1:]
child, terminal = pty.fork()
if child == 0:
    os.environ["PS1"] = "ready$ "
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
shown = ""
def sees(pattern):
    """Waits for a pattern in what has not been looked at, and gives what was before and in it."""
    global shown
    until = time.monotonic() + 30
    while not (found := re.search(pattern, shown)):
        left = until - time.monotonic()
        if left <= 0: sys.exit("not shown: %s\nbut: %s" % (pattern, shown))
        if select.select([terminal], [], [], left)[0]: shown += os.read(terminal, 4096).decode(errors="replace")
    before, shown = shown[:found.start()], shown[found.end():]
    return before, found
def types(text): os.write(terminal, text.encode())
def stopped(pid): return open("/proc/%s/stat" % pid).read().rpartition(")")[2].split()[0] == "T"

sees(r"ready\$ ")
types("stty -echo; set +H\n"); sees(r"ready\$ ")
run = "'%s' run -- python3 '%s'" % (program, command)

# Each of ours and each of the terminal's comes once; USR1 shows that nothing else was on its way.
for begin, ends in ((run, ""), ("true | " + run, "")):
    types(begin + "\n")
    outside = int(sees(r"<up (\d+)>")[1][1])
    for time_ in range(1, 6):
        types("\x03")
        sees("<INT %d>" % time_)
        os.kill(outside, signal.SIGUSR1)
        before, _ = sees("<USR1 %d>" % time_)
        if "INT" in before: sys.exit("SIGINT came twice: " + before)
    # From elsewhere, with a terminal or without.
    for name in ("INT", "USR2", "HUP"):
        os.kill(outside, getattr(signal, "SIG" + name)); sees("<%s \d+>" % name)
    types("\x1c"); sees("<QUIT 1>")
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 51, 133, 0, 0)); sees("<WINCH 1 51x133>")
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0)); sees("<WINCH 2 24x80>")
    # A job like any other.
    types("\x1a"); sees("Stopped"); sees(r"ready\$ ")
    if not stopped(outside): sys.exit("the process outside goes on")
    types("jobs; echo and the shell is here\n"); sees("and the shell is here\r\n"); sees(r"ready\$ ")
    types("fg\n"); sees("<CONT 1>")
    types("\x03"); sees("<INT 7>")
    types("\x1a"); sees("Stopped"); sees(r"ready\$ ")
    # Only the process outside is told to go on.
    os.kill(outside, signal.SIGCONT); sees("<CONT 2>")
    types("kill -USR2 %1\n"); sees("<USR2 ")
    types("kill %1; wait %1; echo ended $?.\n"); sees(r"ended 143\.")
    types("\n"); sees(r"ready\$ ")
# A program that gives the terminal to groups of its own. Each shell has a prompt that the other has not.
types("'%s' run -- bash --norc --noprofile -i\n" % program); sees(r"ready\$ ")
types("stty -echo; PS1='inn''er> '\n"); sees("inner> ")
# One process: a shell that is stopped while it starts another may wait for it for ever.
types("python3 -c \"print('star' + 'ted'); input()\"\n"); sees("started"); types("\x1a"); sees("Stopped"); sees("inner> ")
types("kill -KILL %1; disown -a; echo no ''job\n"); sees("no job"); sees("inner> ")
types("suspend\n"); sees("Stopped"); sees(r"ready\$ ")
types("fg\n"); sees("inner> ")
types("exit 7\n"); sees(r"ready\$ ")
types("echo left with $?.\n"); sees(r"left with 7\.")
types("exit\n")
os.waitpid(child, 0)
print("all of it")
"#;

#[test]
fn a_terminal_and_a_shell_have_the_command_as_without_us() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    for (name, text) in [("command.py", COMMAND), ("person.py", PERSON)] {
        std::fs::write(world.folder.path().join(name), text).unwrap();
    }
    let mut person = std::process::Command::new("timeout");
    let output = person
        .args([
            "150",
            "python3",
            "person.py",
            env!("CARGO_BIN_EXE_tailkeep"),
            "command.py",
        ])
        .env("TAILKEEP_HOME", world.folder.path().join("agent"))
        .current_dir(world.folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("all of it"), "{output:?}");
}

/// Says each signal that it gets, and how often it got that one.
const COUNTS: &str = r#"
import os, signal
seen = {}
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
for name in ("INT", "HUP", "USR1"):
    signal.signal(getattr(signal, "SIG" + name), lambda *_: None)
print("up", flush=True)
while True:
    for number in os.read(reader, 64):
        seen[number] = seen.get(number, 0) + 1
        print(signal.Signals(number).name, seen[number], flush=True)
"#;

/// As programs do that end all that they started, and ask twice if they have to.
#[test]
fn what_is_sent_to_the_whole_group_comes_once() {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::CommandExt as _;

    use nix::sys::signal::Signal::{self, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    use nix::sys::signal::{kill, killpg};

    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let mut child = world
        .agent("agent", &["python3", "-c", COUNTS])
        .process_group(0)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    assert_eq!(line(), "up");
    let (mut counts, mut all) = (std::collections::BTreeMap::new(), 0);
    let mut next = |signal: Signal| {
        let count = counts.entry(signal as i32).or_insert(0);
        *count += 1;
        format!("{signal} {count}")
    };
    for _ in 0..20 {
        // Until it has read the one before, a second of a kind is none; USR1 shows that it has.
        for (signal, to_group) in [
            (SIGINT, true),
            (SIGUSR1, false),
            (SIGINT, false),
            (SIGHUP, true),
            (SIGUSR1, false),
        ] {
            match to_group {
                true => killpg(group, signal).unwrap(),
                false => kill(group, signal).unwrap(),
            }
            assert_eq!(line(), next(signal), "of the {all}th");
            all += 1;
        }
    }
    killpg(group, SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn the_status_says_how_old_the_keys_of_a_run_are() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let status = || -> Value {
        let output = world
            .command("agent", &["status", "--format", "json"])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(
        (&status()["running"], &status()["handshake_age_s"]),
        (&Value::Bool(false), &Value::Null)
    );
    let mut child = world
        .agent("agent", &["cat"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    until("the handshake is shown", || status()["handshake_age_s"].is_u64());
    assert_eq!(status()["running"], true);
    let text = world.command("agent", &["status"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&text.stdout).contains("handshake "),
        "{text:?}"
    );
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(status()["handshake_age_s"], Value::Null);
}
