use std::net::SocketAddr;

use proptest::prelude::*;

use super::super::super::packet::{ACK, FIN, Kind, SYN};
use super::super::super::tests::tcp;
use super::*;

fn ends(v6: bool, port: u16) -> Ends {
    let (source, destination) = if v6 {
        ("[fd99::1]:0", "[2001:db8::1]:443")
    } else {
        ("10.99.0.1:0", "192.0.2.1:443")
    };
    let mut source: SocketAddr = source.parse().unwrap();
    source.set_port(port);
    Ends {
        source,
        destination: destination.parse().unwrap(),
    }
}

fn segment(bytes: &[u8]) -> Segment {
    match packet::parse(bytes).unwrap().kind {
        Kind::Tcp(segment) => segment,
        other => panic!("{other:?}"),
    }
}

/// What is written for these packets, each write as one.
fn written(packets: &[(Ends, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut inbound = Inbound::default();
    for (ends, bytes) in packets {
        inbound.push(*ends, bytes.clone(), &segment(bytes));
    }
    let mut all = Vec::new();
    inbound.drain(|slices| all.push(slices.iter().flat_map(|slice| slice.to_vec()).collect()));
    assert!(inbound.groups.is_empty());
    all
}

/// The packets of a read: from port, sequence, flags, data.
fn read(write: &[u8]) -> Vec<(u16, u32, u8, Vec<u8>)> {
    let mut write = write.to_vec();
    let mut all = Vec::new();
    split(&mut write, |bytes| {
        let found = segment(bytes);
        let data = bytes.len() - found.length as usize;
        let flags = found.flags;
        let data = if flags & (SYN | FIN) == 0 {
            bytes[data..].to_vec()
        } else {
            Vec::new()
        };
        all.push((found.from, found.sequence, flags, data));
    })
    .unwrap();
    all
}

#[test]
fn segments_that_follow_each_other_go_in_as_one() {
    for v6 in [false, true] {
        let ends = ends(v6, 4000);
        let data = |number: u8, size: usize| vec![number; size];
        let at = |sequence, flags, data: &[u8]| {
            (ends, tcp(ends.source, ends.destination, flags, sequence, 9, data))
        };
        let packets = [
            at(u32::MAX - 50, ACK, &data(1, 100)),
            at(49, ACK, &data(2, 100)),
            at(149, ACK | PSH, &data(3, 40)),
            at(189, ACK, &data(4, 100)),
        ];
        let writes = written(&packets);
        assert_eq!(writes.len(), 2, "a pushed or short segment ends a run");
        let back: Vec<_> = writes.iter().flat_map(|write| read(write)).collect();
        let want: Vec<_> = [
            (u32::MAX - 50, ACK, data(1, 100)),
            (49, ACK, data(2, 100)),
            (149, ACK | PSH, data(3, 40)),
            (189, ACK, data(4, 100)),
        ]
        .into_iter()
        .map(|(sequence, flags, data)| (4000, sequence, flags, data))
        .collect();
        assert_eq!(back, want);
    }
}

#[test]
fn what_differs_is_not_merged() {
    let ends = ends(false, 4000);
    let first = tcp(ends.source, ends.destination, ACK, 100, 9, &[1; 100]);
    let follows = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = tcp(ends.source, ends.destination, ACK, 200, 9, &[2; 100]);
        change(&mut bytes);
        bytes
    };
    let cases: [(&str, Vec<u8>, usize); 7] = [
        ("the next", follows(&|_| {}), 1),
        (
            "a gap",
            tcp(ends.source, ends.destination, ACK, 201, 9, &[2; 100]),
            2,
        ),
        (
            "a FIN",
            tcp(ends.source, ends.destination, ACK | FIN, 200, 9, &[2; 100]),
            2,
        ),
        (
            "another acknowledgment",
            tcp(ends.source, ends.destination, ACK, 200, 10, &[2; 100]),
            2,
        ),
        (
            "a larger one",
            tcp(ends.source, ends.destination, ACK, 200, 9, &[2; 101]),
            2,
        ),
        ("no data", tcp(ends.source, ends.destination, ACK, 200, 9, &[]), 2),
        ("another hop limit", follows(&|bytes| bytes[8] = 9), 2),
    ];
    for (what, second, count) in cases {
        let segments = [
            segment(&first),
            Segment {
                flags: second[33],
                ..segment_unchecked(&second)
            },
        ];
        let mut inbound = Inbound::default();
        inbound.push(ends, first.clone(), &segments[0]);
        inbound.push(ends, second, &segments[1]);
        assert_eq!(inbound.groups.len(), count, "{what}");
    }
}

/// Without a look at the sums, which a bent header has wrong.
fn segment_unchecked(bytes: &[u8]) -> Segment {
    let word = |at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    Segment {
        from: 4000,
        to: 443,
        sequence: word(24),
        acknowledgment: word(28),
        flags: bytes[33],
        length: u32::try_from(bytes.len() - 40).unwrap() + u32::from(bytes[33] & FIN),
    }
}

#[test]
fn a_run_has_an_end() {
    let ends = ends(false, 4000);
    let packets: Vec<_> = (0..MERGED_MAX as u32 + 1)
        .map(|number| {
            (
                ends,
                tcp(ends.source, ends.destination, ACK, number * 10, 9, &[7; 10]),
            )
        })
        .collect();
    assert_eq!(written(&packets).len(), 2);
    let packets: Vec<_> = (0..9)
        .map(|number| {
            (
                ends,
                tcp(ends.source, ends.destination, ACK, number * 9000, 9, &[7; 9000]),
            )
        })
        .collect();
    let writes = written(&packets);
    assert!(
        writes
            .iter()
            .all(|write| write.len() <= PREFIX_BYTES + PACKET_BYTES_MAX)
    );
    assert_eq!(writes.iter().flat_map(|write| read(write)).count(), 9);
}

#[test]
fn a_read_that_makes_no_sense_is_dropped() {
    for bytes in [
        &[][..],
        &[0; 9],
        &[1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        &[1, 9, 0, 0, 1, 0, 20, 0, 16, 0, 0x45],
    ] {
        assert_eq!(split(&mut bytes.to_vec(), |_| panic!("a packet")), None);
    }
}

proptest! {
    /// Whatever comes in, and in whatever order, goes on as it came, flow by flow.
    #[test]
    fn nothing_is_lost_or_changed(steps in proptest::collection::vec((0..3_u16, any::<bool>(), 0..300_usize, prop_oneof![5 => Just(ACK), 1 => Just(ACK | PSH), 1 => Just(ACK | FIN)], 0..4_u32), 1..80)) {
        let mut next = [0_u32; 6];
        let mut packets = Vec::new();
        for (port, v6, size, flags, skip) in steps {
            let ends = ends(v6, port);
            let next = &mut next[usize::from(port) * 2 + usize::from(v6)];
            *next = next.wrapping_add(skip / 3);
            let data = vec![u8::try_from(size % 251).unwrap(); size];
            packets.push((ends, tcp(ends.source, ends.destination, flags, *next, 9, &data)));
            *next = next.wrapping_add(u32::try_from(size).unwrap());
        }
        let plain = |bytes: &[u8]| {
            let found = segment(bytes);
            // A PSH may move to the end of its run, never away.
            (found.from, found.sequence, found.flags & !PSH, bytes[bytes.len().min(40)..].to_vec())
        };
        for v6 in [false, true] {
            for port in 0..3 {
                let own = ends(v6, port);
                let want: Vec<_> = packets.iter().filter(|(ends, _)| *ends == own).map(|(_, bytes)| plain(bytes)).collect();
                let mut got = Vec::new();
                for mut write in written(&packets) {
                    let mine = destination(&write[PREFIX_BYTES..]) == Some(own.destination.ip());
                    let _ = split(&mut write, |bytes| {
                        if mine && segment(bytes).from == port {
                            got.push(plain(bytes));
                        }
                    });
                }
                prop_assert_eq!(got, want);
            }
        }
    }
}
