//! The WireGuard tunnel in user space: packets between a TUN descriptor and a UDP socket that
//! stays in the caller's network namespace.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::time::{Instant, interval, timeout_at};

use super::store::{Enrolment, note_handshake};

/// For the first handshake, in seconds.
pub const HANDSHAKE_SECONDS_MAX: u64 = 10;
/// Keeps NAT mappings open, in seconds.
const KEEPALIVE_SECONDS: u16 = 25;
/// How often WireGuard's timers are run, in milliseconds.
const TIMER_MILLISECONDS: u64 = 250;
/// Largest packet of either side, in bytes.
const PACKET_BYTES_MAX: usize = 65_535;
/// Room beside a packet that the cryptography may need, in bytes.
const OVERHEAD_BYTES: usize = 148;

/// Why the tunnel did not come up or broke.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("the enrolment holds a key that is not 32 bytes of base64; run `tailkeep join --force URL`")]
    Key,
    #[error("the WireGuard endpoint {0} does not resolve: {1}")]
    Endpoint(String, io::Error),
    #[error(
        "no WireGuard handshake with {0} in {HANDSHAKE_SECONDS_MAX} s: check that the gateway runs, \
         that UDP to it is open, and that it still lists this peer"
    )]
    NoHandshake(String),
    #[error("tunnel: {0}")]
    Io(#[from] io::Error),
}

/// One live session with the gateway.
pub struct Tunnel {
    session: Tunn,
    socket: UdpSocket,
    endpoint: String,
    out: Vec<u8>,
    /// Where it is noted when keys were agreed, and what was noted last.
    notes: Option<(File, u64)>,
}

fn key(text: &str) -> Result<[u8; 32], TunnelError> {
    let bytes = STANDARD.decode(text).map_err(|_| TunnelError::Key)?;
    bytes.try_into().map_err(|_| TunnelError::Key)
}

impl Tunnel {
    /// Resolves the endpoint and shakes hands, within [`HANDSHAKE_SECONDS_MAX`].
    pub async fn connect(enrolment: &Enrolment) -> Result<Self, TunnelError> {
        let endpoint = enrolment.assigned.wireguard_endpoint.clone();
        let secret = StaticSecret::from(key(&enrolment.private_key)?);
        let gateway = PublicKey::from(key(&enrolment.assigned.gateway_public_key)?);
        let address = tokio::net::lookup_host(&endpoint)
            .await
            .and_then(|mut found| found.next().ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(|e| TunnelError::Endpoint(endpoint.clone(), e))?;
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        let mut index = [0; 4];
        getrandom::fill(&mut index).map_err(|e| io::Error::other(e.to_string()))?;
        // The lower byte of an index counts boringtun's sessions.
        let index = u32::from_le_bytes(index) >> 8;
        let mut tunnel = Self {
            session: Tunn::new(secret, gateway, None, Some(KEEPALIVE_SECONDS), index, None),
            socket,
            endpoint,
            out: vec![0; PACKET_BYTES_MAX + OVERHEAD_BYTES],
            notes: None,
        };
        tunnel.handshake().await?;
        Ok(tunnel)
    }

    async fn handshake(&mut self) -> Result<(), TunnelError> {
        let until = Instant::now() + Duration::from_secs(HANDSHAKE_SECONDS_MAX);
        let mut datagram = vec![0; PACKET_BYTES_MAX];
        let mut timers = interval(Duration::from_millis(TIMER_MILLISECONDS));
        if let TunnResult::WriteToNetwork(packet) =
            self.session.format_handshake_initiation(&mut self.out, false)
        {
            send(&self.socket, packet).await;
        }
        while self.session.stats().0.is_none() {
            let step = async {
                tokio::select! {
                    got = self.socket.recv(&mut datagram) => Some(got),
                    _ = timers.tick() => None,
                }
            };
            match timeout_at(until, step).await {
                Err(_) => return Err(TunnelError::NoHandshake(self.endpoint.clone())),
                // A closed port answers at once; the gateway may be starting.
                Ok(Some(Err(_))) => tokio::time::sleep(Duration::from_millis(TIMER_MILLISECONDS)).await,
                Ok(Some(Ok(length))) => {
                    self.receive(datagram.get(..length).unwrap_or_default(), None)
                        .await;
                }
                Ok(None) => self.tick().await,
            }
            if Instant::now() >= until {
                return Err(TunnelError::NoHandshake(self.endpoint.clone()));
            }
        }
        Ok(())
    }

    /// Notes in a run's lock when keys are agreed, for `tailkeep status`.
    pub fn note_in(&mut self, lock: File) {
        self.notes = Some((lock, 0));
        self.note();
    }

    fn note(&mut self) {
        let (Some((lock, noted)), Some(age)) = (&mut self.notes, self.session.stats().0) else {
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_s = now.saturating_sub(age).as_secs();
        // The two clocks may differ in their last second.
        if at_s.abs_diff(*noted) > 1 && note_handshake(lock, at_s).is_ok() {
            *noted = at_s;
        }
    }

    /// Carries packets until the TUN device goes. `tun` must be non-blocking.
    pub async fn carry(mut self, tun: OwnedFd) -> Result<(), TunnelError> {
        // An `OwnedFd` is owned and stays open: what the deprecation warns of cannot happen here.
        #[allow(deprecated, reason = "the replacement is an unsafe function")]
        let tun = AsyncFd::new(tun)?;
        let mut packet = vec![0; PACKET_BYTES_MAX];
        let mut datagram = vec![0; PACKET_BYTES_MAX];
        let mut timers = interval(Duration::from_millis(TIMER_MILLISECONDS));
        loop {
            tokio::select! {
                ready = tun.readable() => {
                    let mut ready = ready?;
                    if let Ok(length) = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut packet)?)) {
                        let packet = packet.get(..length?).unwrap_or_default();
                        if let TunnResult::WriteToNetwork(sealed) = self.session.encapsulate(packet, &mut self.out) {
                            send(&self.socket, sealed).await;
                        }
                    }
                }
                got = self.socket.recv(&mut datagram) => if let Ok(length) = got {
                    self.receive(datagram.get(..length).unwrap_or_default(), Some(tun.get_ref())).await;
                },
                _ = timers.tick() => self.tick().await,
            }
        }
    }

    async fn tick(&mut self) {
        if let TunnResult::WriteToNetwork(packet) = self.session.update_timers(&mut self.out) {
            send(&self.socket, packet).await;
        }
        self.note();
    }

    async fn receive(&mut self, datagram: &[u8], tun: Option<&OwnedFd>) {
        let mut input = datagram;
        loop {
            match self.session.decapsulate(None, input, &mut self.out) {
                TunnResult::WriteToNetwork(packet) => send(&self.socket, packet).await,
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    if let Some(tun) = tun {
                        // A full queue drops, as a network does; TCP sends again.
                        let _ = rustix::io::write(tun, packet);
                    }
                    return;
                }
                TunnResult::Done | TunnResult::Err(_) => return,
            }
            // boringtun wants empty input until its queue is flushed.
            input = &[];
        }
    }
}

/// A lost datagram is the network's right; WireGuard and TCP send again.
async fn send(socket: &UdpSocket, packet: &[u8]) {
    let _ = socket.send(packet).await;
}
