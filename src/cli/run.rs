//! `tailkeep run`.
//!
//! The process outside keeps the UDP socket and the cryptography; a copy of this program enters
//! the namespaces, hands the TUN descriptor out, waits for the handshake and becomes the command.

mod signals;
mod witness;

use std::fs::{self, DirBuilder, File};
use std::io::{BufRead as _, BufReader, IoSliceMut, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use self::signals::Signals;
use crate::client::namespace::{self, Plan};
use crate::client::store::{Enrolment, Store};
use crate::client::{environment, signed, tunnel::Tunnel};

/// Tailkeep itself failed, as `docker run` and `timeout` say it.
const FAILED: u8 = 125;
/// For the gateway to say what the policy assigns now, in seconds.
const REFRESH_SECONDS_MAX: u64 = 3;
/// For the inside to call back, in seconds.
const INSIDE_SECONDS_MAX: u64 = 10;

#[derive(clap::Args)]
pub struct Args {
    /// Where the process outside listens.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
    /// Says on standard input which signals came to the process group.
    #[arg(long, hide = true)]
    witness: bool,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<std::ffi::OsString>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.witness {
        signals::testify()?;
        return Ok(ExitCode::SUCCESS);
    }
    let done = match &args.inside {
        Some(folder) => inside(folder, &args.command),
        None => outside(&args.command),
    };
    done.or_else(|error| {
        eprintln!("tailkeep: {error:#}");
        Ok(ExitCode::from(FAILED))
    })
}

/// Where inside and outside meet. Removed once the tunnel is up, so that nothing is left of a run that is
/// killed later: what the inside mounted from it stays.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        let path = std::env::temp_dir().join(format!("tailkeep-{:016x}", u64::from_le_bytes(name)));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Folder {
    fn remove(&self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.remove();
    }
}

fn outside(command: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
    let store = Store::from_env()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_start(signals::leave_to_main_thread)
        .build()?;
    let mut enrolment = store.load()?;
    let lock = store.lock()?;
    if lock.is_some() {
        refresh(&store, &mut enrolment, &runtime);
        return serve(&store, (&enrolment, lock), &runtime, command);
    }
    // The enrolment's own key is in use; this run gets one for itself.
    let run = runtime.block_on(signed::begin_run(&enrolment))?;
    let done = serve(&store, (&run, None), &runtime, command);
    // Should the gateway not hear it, it forgets the key in a while.
    let _ = runtime.block_on(signed::end_run(&enrolment, &run));
    done
}

/// Takes what the gateway's policy says now. Without an answer, what was said last is good.
pub(super) fn refresh(store: &Store, enrolment: &mut Enrolment, runtime: &Runtime) {
    let asked = runtime.block_on(async {
        let asked = signed::manifest(enrolment);
        tokio::time::timeout(Duration::from_secs(REFRESH_SECONDS_MAX), asked).await
    });
    if let Ok(Ok(assigned)) = asked
        && assigned != enrolment.assigned
    {
        enrolment.assigned = assigned;
        // A store that cannot be written does not keep the command from running.
        let _ = store.save(enrolment);
    }
}

fn serve(
    store: &Store,
    (enrolment, lock): (&Enrolment, Option<File>),
    runtime: &Runtime,
    command: &[std::ffi::OsString],
) -> anyhow::Result<ExitCode> {
    let variables = environment::variables(store, enrolment)?;
    let folder = Folder::new()?;
    let listener = UnixListener::bind(folder.0.join("s"))?;
    let own = std::env::current_exe()?;
    let mut child = Command::new(&own)
        .args(["run", "--inside"])
        .arg(&folder.0)
        .arg("--")
        .args(command)
        .envs(variables)
        .spawn()
        .with_context(|| format!("cannot start {} again", own.display()))?;
    let served = (|| match accept(&listener, &mut child)? {
        Some(inside) => {
            let Some(tun) = receive(&inside, child.id(), enrolment)? else {
                // It says why on stderr, in one line, and ends.
                return Ok(child.wait()?);
            };
            // Its two files are used, one mounted and one connected: whatever ends us now leaves nothing lying.
            folder.remove();
            let mut tunnel = runtime.block_on(Tunnel::connect(enrolment))?;
            if let Some(lock) = &lock {
                tunnel.note_in(lock.try_clone()?);
            }
            runtime.block_on(drive(tunnel, tun, inside, &mut child))
        }
        None => Ok(child.wait()?),
    })();
    if served.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = served?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|s| 128 + s))
        .unwrap_or(i32::from(FAILED));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(FAILED)))
}

/// The inside's connection, or `None` when it ended before it called.
fn accept(listener: &UnixListener, child: &mut Child) -> anyhow::Result<Option<UnixStream>> {
    let until = Instant::now() + Duration::from_secs(INSIDE_SECONDS_MAX);
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(Duration::from_secs(INSIDE_SECONDS_MAX)))?;
                return Ok(Some(stream));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        anyhow::ensure!(
            Instant::now() < until,
            "the namespace did not come up in {INSIDE_SECONDS_MAX} s"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Maps the ids, sends the plan, and takes the TUN descriptor; `None` where there came none.
fn receive(mut inside: &UnixStream, pid: u32, enrolment: &Enrolment) -> anyhow::Result<Option<OwnedFd>> {
    namespace::map_ids(pid).context("cannot map ids into the user namespace")?;
    let assigned = &enrolment.assigned;
    let plan = Plan {
        address_v4: assigned.address_v4,
        address_v6: assigned.address_v6,
        mtu: assigned.mtu,
        dns: assigned.dns.clone(),
    };
    let mut line = serde_json::to_vec(&plan)?;
    line.push(b'\n');
    inside.write_all(&line)?;
    let mut byte = [0];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        inside,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        rustix::net::RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let rustix::net::RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(tun) = descriptors.next()
        {
            rustix::io::ioctl_fionbio(&tun, true)?;
            return Ok(Some(tun));
        }
    }
    Ok(None)
}

/// Lets the command go, and carries its packets and signals until it ends.
async fn drive(
    tunnel: Tunnel,
    tun: OwnedFd,
    mut inside: UnixStream,
    child: &mut Child,
) -> anyhow::Result<ExitStatus> {
    let mut signals = Signals::take()?;
    inside.write_all(b"G")?;
    drop(inside);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    let mut carried = std::pin::pin!(tunnel.carry(tun));
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        signals::stop_with(pid)?;
        let forward = tokio::select! {
            signal = signals.next(pid) => signal?,
            broken = &mut carried => { broken?; None }
        };
        if let Some(forward) = forward {
            let _ = nix::sys::signal::kill(pid, forward);
        }
    }
}

fn inside(folder: &Path, command: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
    // Without the tunnel's process there must be no command.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    namespace::unshare()?;
    let mut outside = UnixStream::connect(folder.join("s"))?;
    let mut line = String::new();
    BufReader::new(&outside).read_line(&mut line)?;
    namespace::set_up(&serde_json::from_str(&line)?, folder, &outside)?;
    let mut go = [0];
    if outside.read_exact(&mut go).is_err() {
        return Ok(ExitCode::from(FAILED));
    }
    let (program, arguments) = command.split_first().context("no command")?;
    let error = Command::new(program).args(arguments).exec();
    eprintln!("tailkeep: {}: {error}", program.to_string_lossy());
    Ok(ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::store::Assigned;

    /// It lasts as long as an inside may take.
    #[test]
    fn an_inside_that_does_not_call_is_given_up_and_one_that_falls_silent_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let error = accept(&listener, &mut child).unwrap_err();
        assert!(error.to_string().contains("did not come up"), "{error}");
        let _calls = UnixStream::connect(&path).unwrap();
        let inside = accept(&listener, &mut child).unwrap().unwrap();
        let most = inside.read_timeout().unwrap();
        assert_eq!(most, Some(Duration::from_secs(INSIDE_SECONDS_MAX)));
        child.kill().unwrap();
        child.wait().unwrap();
        let ended = accept(&UnixListener::bind(folder.path().join("t")).unwrap(), &mut child);
        assert!(ended.unwrap().is_none(), "what has ended is not waited for");
    }

    /// The manifest is asked for at a gateway that takes the connection and never says a word.
    #[test]
    fn what_was_said_last_is_good_where_the_gateway_says_nothing() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let authority = crate::tls::Authority::open(folder.path()).unwrap();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let assigned = serde_json::json!({
            "name": "agent", "address_v4": "10.1.0.2", "address_v6": null, "wireguard_endpoint": "127.0.0.1:1",
            "gateway_public_key": "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", "dns": [], "mtu": 1420,
            "ca_pem": authority.ca_pem(), "placeholders": {}, "endpoints": ["https.api"],
        });
        let assigned: Assigned = serde_json::from_value(assigned).unwrap();
        let mut enrolment = Enrolment {
            private_key: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=".to_owned(),
            authority: silent.local_addr().unwrap().to_string(),
            assigned: assigned.clone(),
        };
        let (done, is_done) = std::sync::mpsc::channel();
        // The folder goes with the test, which may end before this thread does.
        let path = folder.path().to_owned();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            refresh(&Store::at(path), &mut enrolment, &runtime);
            let _ = done.send(enrolment.assigned);
        });
        // The exchange alone would take longer.
        let (stream, _) = silent.accept().unwrap();
        let most = Duration::from_secs((REFRESH_SECONDS_MAX + crate::client::enrol::ENROL_SECONDS_MAX) / 2);
        assert_eq!(is_done.recv_timeout(most), Ok(assigned), "it is waited for still");
        drop(stream);
    }
}
