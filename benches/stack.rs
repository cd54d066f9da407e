//! One flow of wireguard-go through the listener, over each of its two TCPs: rate, and the gateway's
//! processor time for a megabyte. `cargo bench --bench stack`; needs root. Prints, asserts nothing.

#![allow(clippy::panic, reason = "a measurement that cannot be made says so")]

#[path = "../tests/wireguard/agent.rs"]
#[allow(dead_code, reason = "shared with a test that uses all of it")]
mod agent;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::{Agent, GATEWAY_KEY, able, must, peer};
use tailkeep::ingress::Flow;
use tailkeep::ingress::wireguard::{Config, FLOWS_MAX, Listener, PeerSet};
use tailkeep::policy::model::Stack;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// Seconds that each leg sends for.
const LEG_S: u64 = 4;
const ROUNDS: usize = 3;
/// The long way: what it takes in one direction, and of how many datagrams one is lost.
const LATE: Duration = Duration::from_millis(10);
const LOST: u64 = 100;

/// `u`: takes all; `d`: gives until the other side goes. One byte says which.
async fn serve(mut flow: Flow) {
    let Ok(way) = flow.stream.read_u8().await else {
        return;
    };
    let mut buffer = vec![7; 1 << 16];
    if way == b'u' {
        while let Ok(1..) = flow.stream.read(&mut buffer).await {}
    } else {
        while flow.stream.write_all(&buffer).await.is_ok() {}
    }
}

/// Prints the bytes that went through in the seconds.
const CLIENT: &str = "
import socket,time
s=socket.create_connection(('203.0.113.9',4711),timeout=20)
way='WAY'
s.sendall(way.encode())
end=time.time()+SECONDS
buffer=bytearray(1<<18); total=0
while time.time()<end:
    total+=s.send(buffer) if way=='u' else s.recv_into(buffer)
print(total)
";

fn processor() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    let usage = usage.expect("usage");
    let both = [usage.user_time(), usage.system_time()];
    both.iter()
        .map(|time| {
            Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0))
        })
        .sum()
}

/// A long way to the listener at `port`: every datagram is late, one in a hundred is lost.
async fn relay(port: u16) -> u16 {
    let near = Arc::new(UdpSocket::bind("0.0.0.0:0").await.expect("a socket"));
    let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a socket"));
    far.connect(("127.0.0.1", port)).await.expect("a listener");
    for socket in [&near, &far] {
        let socket = socket2::SockRef::from(&**socket);
        let _ = socket.set_recv_buffer_size(8 << 20);
    }
    let own = near.local_addr().expect("an address").port();
    let agent = Arc::new(Mutex::new(None));
    let (to_far, from_near) = (far.clone(), near.clone());
    let heard = agent.clone();
    late(
        from_near.clone(),
        move |from| *heard.lock().expect("a lock") = Some(from),
        move |datagram| to_far.try_send(datagram).map(|_| ()),
    );
    late(
        far,
        |_| {},
        move |datagram| match *agent.lock().expect("a lock") {
            Some(to) => near.try_send_to(datagram, to).map(|_| ()),
            None => Ok(()),
        },
    );
    own
}

/// Passes on what `from` gets, [`LATE`] later, but for one in [`LOST`].
fn late(
    from: Arc<UdpSocket>,
    heard: impl Fn(SocketAddr) + Send + 'static,
    send: impl Fn(&[u8]) -> std::io::Result<()> + Send + 'static,
) {
    let (queue, mut waiting) = tokio::sync::mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    tokio::spawn(async move {
        let mut buffer = vec![0; 2048];
        // The same losses in every leg: a linear congruential generator (Knuth's).
        let mut random: u64 = 1;
        while let Ok((length, peer)) = from.recv_from(&mut buffer).await {
            heard(peer);
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if !(random >> 33).is_multiple_of(LOST)
                && let Some(datagram) = buffer.get(..length)
            {
                let _ = queue.send((tokio::time::Instant::now() + LATE, datagram.to_vec()));
            }
        }
    });
    tokio::spawn(async move {
        while let Some((at, datagram)) = waiting.recv().await {
            tokio::time::sleep_until(at).await;
            let _ = send(&datagram);
        }
    });
}

async fn leg(number: u8, stack: Stack, far: bool) -> [(f64, f64); 2] {
    let (_change, peers) = watch::channel(Arc::new(PeerSet {
        peers: vec![peer(number)],
    }));
    let config = Config {
        listen: SocketAddr::from(([0, 0, 0, 0], 0)),
        private_key: GATEWAY_KEY.into(),
        gateway_v4: None,
        gateway_v6: None,
        mtu: 1420,
        stack,
        connections_max: 8,
        flows_max: FLOWS_MAX,
        dns: None,
    };
    let mut listener = Listener::bind(config, peers).await.expect("a listener");
    let port = listener.local_addr().port();
    let serving = tokio::spawn(async move {
        while let Some(flow) = listener.accept().await {
            tokio::spawn(serve(flow));
        }
    });
    // The relay's own work counts for both alike; its processor time is not the gateway's.
    let port = if far { relay(port).await } else { port };
    let agent = Agent::start(number, port);
    let mut both = [(0.0, 0.0); 2];
    for (way, place) in ["u", "d"].iter().zip(&mut both) {
        let (before, began) = (processor(), Instant::now());
        let program = CLIENT.replace("WAY", way).replace("SECONDS", &LEG_S.to_string());
        let said = agent.python(&program).await;
        let megabytes = said.trim().parse::<f64>().unwrap_or_else(|_| panic!("{said}")) / 1e6;
        let took = began.elapsed().as_secs_f64().min(LEG_S as f64);
        let spent = (processor() - before).as_secs_f64();
        *place = (megabytes / took, megabytes / spent);
    }
    serving.abort();
    both
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    if !able() {
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
    must("ip link set lo up");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    println!("MB/s, and MB a second of the gateway's processor; medians of {ROUNDS}");
    println!("{:<34}{:>8}{:>8}{:>8}{:>8}", "", "up", "cpu", "down", "cpu");
    // The gateway has key 7.
    let mut number = 10;
    for far in [false, true] {
        let mut all: [Vec<[(f64, f64); 2]>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (stack, results) in [Stack::Userspace, Stack::Kernel].into_iter().zip(&mut all) {
                results.push({
                    // Names of its own: those of the leg before are still being taken down.
                    number += 1;
                    runtime.block_on(leg(number, stack, far))
                });
            }
        }
        for (name, results) in ["user space", "kernel"].iter().zip(&all) {
            let way = if far { "20 ms, 1 % lost each way" } else { "near" };
            let column = |pick: fn(&[(f64, f64); 2]) -> f64| median(results.iter().map(pick).collect());
            println!(
                "{:<34}{:>8.0}{:>8.0}{:>8.0}{:>8.0}",
                format!("{name}, {way}"),
                column(|r| r[0].0),
                column(|r| r[0].1),
                column(|r| r[1].0),
                column(|r| r[1].1)
            );
        }
    }
}
