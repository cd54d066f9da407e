//! What happens as time goes by.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use tailkeep::ingress::wireguard::Drop;

use crate::Clock;
use crate::ends::{
    Agent, COOKIE, Gateway, Hand, INITIATION, KEEPALIVE_BYTES, RESPONSE, Wire, all_is_read, echo, syn, until,
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Handshake messages a second before the gateway asks for a cookie.
const UNDER_LOAD: usize = 200;
/// Tries to get a look in while the load lasts: the gateway counts anew every second.
const ROUNDS_MAX: usize = 10;

type Story = fn(Clock) -> Pin<Box<dyn Future<Output = ()>>>;

pub const ALL: [(&str, Story); 6] = [
    ("keys_are_renewed_after_two_minutes_of_use", |clock| {
        Box::pin(renewed(clock))
    }),
    ("a_session_is_no_good_after_three_minutes", |clock| {
        Box::pin(expired(clock))
    }),
    ("a_run_goes_on_after_its_machine_slept", |clock| {
        Box::pin(slept(clock))
    }),
    ("both_ends_keep_a_silent_tunnel_alive", |clock| {
        Box::pin(silent(clock))
    }),
    ("who_does_not_answer_is_asked_for_new_keys", |clock| {
        Box::pin(unanswered(clock))
    }),
    ("under_load_who_proves_its_address_gets_in", |clock| {
        Box::pin(load(clock))
    }),
];

fn seconds(age: Option<Duration>) -> u64 {
    age.map_or(u64::MAX, |age| age.as_secs())
}

async fn renewed(mut clock: Clock) {
    let gateway = Gateway::start().await;
    let wire = Wire::default();
    let mut agent = Agent::start(wire.to(gateway.address()).await).await;
    agent.is_answered().await;
    assert_eq!((wire.messages(INITIATION), wire.messages(RESPONSE)), (1, 1));
    // 110 s: the keys are good for a while.
    clock.forward(110);
    agent.is_answered().await;
    until("the session is seen to age", || {
        (110..120).contains(&seconds(gateway.session_age()))
    })
    .await;
    assert_eq!(wire.messages(INITIATION), 1);
    // 125 s, and the agent speaks: new keys, while the old ones still serve. As often as it takes.
    clock.forward(15);
    for round in 2..6 {
        agent
            .speaks_until("new keys", || wire.messages(RESPONSE) >= round)
            .await;
        agent.is_answered().await;
        until("the session is new", || seconds(gateway.session_age()) < 60).await;
        clock.forward(125);
    }
}

async fn expired(mut clock: Clock) {
    let gateway = Gateway::start().await;
    let mut hand = Hand::new(1, HERE, gateway.address()).await;
    hand.shakes_hands().await;
    let answer = {
        let sealed = hand.seal(&echo(8, 1));
        hand.asks(&sealed).await
    };
    assert!(hand.takes(&answer).unwrap().ends_with(&echo(0, 1)[24..]));
    until("the session is seen", || gateway.session_age().is_some()).await;
    // Sealed while the session was good, and kept.
    let (early, late) = (hand.seal(&echo(8, 2)), hand.seal(&echo(8, 3)));
    clock.forward(170);
    let answer = hand.asks(&early).await;
    assert!(hand.takes(&answer).unwrap().ends_with(&echo(0, 2)[24..]));
    clock.forward(15);
    until("the session ends", || gateway.session_age().is_none()).await;
    hand.send(&late).await;
    until("the late datagram is refused", || {
        gateway.dropped(Drop::Unauthenticated) == 1
    })
    .await;
    // What comes next is the answer to a new handshake, and nothing of the old session.
    hand.shakes_hands().await;
    let sealed = hand.seal(&echo(8, 4));
    let answer = hand.asks(&sealed).await;
    assert!(hand.takes(&answer).unwrap().ends_with(&echo(0, 4)[24..]));
}

async fn slept(mut clock: Clock) {
    let gateway = Gateway::start().await;
    let mut agent = Agent::start(gateway.address()).await;
    agent.is_answered().await;
    until("the session is seen", || gateway.session_age().is_some()).await;
    // Longer than any key is kept (three times 180 s), and a night.
    for asleep in [700, 8 * 3600] {
        clock.forward(asleep);
        until("no session is left", || gateway.session_age().is_none()).await;
        agent.is_answered().await;
        until("the session is new", || seconds(gateway.session_age()) < 60).await;
    }
}

async fn silent(mut clock: Clock) {
    let gateway = Gateway::start().await;
    let wire = Wire::default();
    let mut agent = Agent::start(wire.to(gateway.address()).await).await;
    agent.is_answered().await;
    let answered = Instant::now();
    all_is_read().await;
    clock.forward(2);
    until("the gateway looked at its timers", || {
        gateway.session_age() >= Some(Duration::from_secs(2))
    })
    .await;
    // The gateway's, 10 s after data that wanted no answer.
    let before = wire.gateways_keepalives();
    agent.says_something();
    until("the gateway has it", || gateway.dropped(Drop::Protocol) == 1).await;
    assert_eq!(wire.gateways_keepalives(), before);
    clock.forward(8);
    until("the gateway says that it is there", || {
        wire.gateways_keepalives() > before
    })
    .await;
    all_is_read().await;
    // An agent that was without an answer for 15 s shakes hands anew, and is right.
    let is_late = answered.elapsed() >= Duration::from_secs(15 - 2 - 8);
    let handshakes = wire.messages(INITIATION);
    assert!(handshakes == 1 || is_late, "{handshakes} handshakes");
    // The agent's own, every 25 s, so that a NAT keeps its mapping.
    let before = wire.agents_keepalives();
    clock.forward(26);
    until("the agent is heard of", || wire.agents_keepalives() > before).await;
    assert_eq!(wire.messages(INITIATION), handshakes);
}

/// The gateway's own handshake, 15 s after data that nobody answered: the peer may have lost its keys.
async fn unanswered(mut clock: Clock) {
    let gateway = Gateway::start().await;
    let mut hand = Hand::new(1, HERE, gateway.address()).await;
    hand.shakes_hands().await;
    // Its own word to that is said twice, since it is not acknowledged.
    let opening = hand.seal(&syn());
    hand.send(&opening).await;
    let said = [hand.hears().await, hand.hears().await].map(|said| {
        assert!(hand.takes(&said).is_some());
        said[4..8].to_vec()
    });
    assert_eq!(said[0], said[1], "the session's number");
    clock.forward(15);
    let initiation = hand.hears_until(|heard| heard[0] == INITIATION).await;
    let response = hand.takes(&initiation).unwrap();
    assert_eq!(response[0], RESPONSE);
    hand.send(&response).await;
    let confirmation = hand.hears_until(|heard| heard.len() == KEEPALIVE_BYTES).await;
    assert_eq!(hand.takes(&confirmation), None);
    // What goes on goes by the new keys, both ways.
    let question = hand.seal(&echo(8, 1));
    hand.send(&question).await;
    let wanted = echo(0, 1);
    loop {
        let heard = hand.hears().await;
        if hand.takes(&heard).unwrap().ends_with(&wanted[24..]) {
            assert_ne!(heard[4..8], said[0]);
            break;
        }
    }
    until("the session is new", || seconds(gateway.session_age()) < 10).await;
}

/// What comes of `probe` while the gateway wants proof of addresses: after a flood of handshakes of a
/// key that nobody knows, and before the gateway counted anew.
async fn under_load(gateway: &Gateway, mut probe: impl AsyncFnMut() -> Option<u8>) -> Option<u8> {
    for _ in 0..ROUNDS_MAX {
        let mut stranger = Hand::new(9, HERE, gateway.address()).await;
        for _ in 0..=UNDER_LOAD * 2 {
            let initiation = stranger.initiation();
            stranger.send(&initiation).await;
        }
        let found = probe().await;
        let mut another = Hand::new(9, HERE, gateway.address()).await;
        let initiation = another.initiation();
        another.send(&initiation).await;
        if another.hears_soon().await.is_some_and(|heard| heard[0] == COOKIE) {
            return found;
        }
    }
    panic!("the load did not last");
}

async fn load(mut clock: Clock) {
    let gateway = Gateway::start().await;
    let mut hand = Hand::new(1, HERE, gateway.address()).await;
    let elsewhere = Hand::new(1, Ipv4Addr::new(127, 0, 0, 2).into(), gateway.address()).await;
    let asked = under_load(&gateway, async || {
        let initiation = hand.initiation();
        hand.send(&initiation).await;
        let heard = hand.hears_soon().await?;
        if heard[0] == COOKIE {
            assert_eq!(hand.takes(&heard), None);
        }
        Some(heard[0])
    });
    assert_eq!(asked.await, Some(COOKIE), "asked for no proof");
    assert_ne!(hand.initiation()[132..], [0; 16], "no proof is sent");
    // It is a proof of one address: from another it is worth nothing.
    let from_elsewhere = under_load(&gateway, async || {
        elsewhere.send(&hand.initiation()).await;
        elsewhere.hears_soon().await.map(|heard| heard[0])
    });
    assert_eq!(from_elsewhere.await, Some(COOKIE));
    let proven = under_load(&gateway, async || {
        let initiation = hand.initiation();
        hand.send(&initiation).await;
        let heard = hand.hears_soon().await?;
        let confirmation = hand.takes(&heard)?;
        hand.send(&confirmation).await;
        Some(heard[0])
    });
    assert_eq!(proven.await, Some(RESPONSE));
    let sealed = hand.seal(&echo(8, 1));
    let answer = hand.asks(&sealed).await;
    assert!(hand.takes(&answer).unwrap().ends_with(&echo(0, 1)[24..]));
    // The proof is good for two minutes.
    clock.forward(300);
    let late = under_load(&gateway, async || {
        let initiation = hand.initiation();
        hand.send(&initiation).await;
        hand.hears_soon().await.map(|heard| heard[0])
    });
    assert_eq!(late.await, Some(COOKIE));
}
