//! One flow of wireguard-go through the listener, over each of its two TCPs: rate, and the gateway's
//! processor time for a megabyte. `cargo bench --bench stack`; needs root. Prints, asserts nothing.

#![allow(clippy::panic, reason = "a measurement that cannot be made says so")]

#[path = "../tests/wireguard/agent.rs"]
#[allow(dead_code, reason = "shared with a test that uses all of it")]
mod agent;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::{Agent, GATEWAY_KEY, able, must, peer, run};
use tailkeep::ingress::Flow;
use tailkeep::ingress::wireguard::{Config, Listener, PeerSet};
use tailkeep::policy::model::Stack;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

/// Seconds that each leg sends for.
const LEG_S: u64 = 4;
const ROUNDS: usize = 3;

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

async fn leg(stack: Stack, far: bool) -> [(f64, f64); 2] {
    let (_change, peers) = watch::channel(Arc::new(PeerSet { peers: vec![peer(1)] }));
    let config = Config {
        listen: SocketAddr::from(([0, 0, 0, 0], 0)),
        private_key: GATEWAY_KEY.into(),
        gateway_v4: None,
        gateway_v6: None,
        mtu: 1420,
        stack,
        connections_max: 8,
        dns: None,
    };
    let mut listener = Listener::bind(config, peers).await.expect("a listener");
    let port = listener.local_addr().port();
    let serving = tokio::spawn(async move {
        while let Some(flow) = listener.accept().await {
            tokio::spawn(serve(flow));
        }
    });
    let agent = Agent::start(1, port);
    if far {
        let id = &agent.space[3..];
        must(&format!(
            "tc qdisc add dev tkv{id} root netem delay 10ms loss 1% limit 10000 && \
             tc -n {} qdisc add dev tki{id} root netem delay 10ms loss 1% limit 10000",
            agent.space
        ));
    }
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
    let netem = run("ip link add n0 type dummy && tc qdisc add dev n0 root netem delay 1ms")
        .status
        .success();
    println!("MB/s, and MB a second of the gateway's processor; medians of {ROUNDS}");
    println!("{:<34}{:>8}{:>8}{:>8}{:>8}", "", "up", "cpu", "down", "cpu");
    for far in [false, true] {
        if far && !netem {
            println!("no netem on this machine: the long way was not measured");
            continue;
        }
        let mut all: [Vec<[(f64, f64); 2]>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (stack, results) in [Stack::Userspace, Stack::Kernel].into_iter().zip(&mut all) {
                results.push(runtime.block_on(leg(stack, far)));
            }
        }
        for (name, results) in ["user space", "kernel"].iter().zip(&all) {
            let way = if far { "20 ms, 1 % loss each way" } else { "near" };
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
