//! Arbitrary bytes and mutated frames, to both roles in many states: an error at worst, never a
//! panic, and never more memory than the limits allow.

use proptest::prelude::*;

use super::*;
use crate::wire::{Header, flag};

const LIMITS: SessionConfig = SessionConfig {
    max_streams: 40,
    window_bytes: 64 * 1024,
    max_message_bytes: 50_000,
    max_buffered_bytes: 100_000,
    keepalive_interval: Duration::from_secs(10),
    keepalive_timeout: Duration::from_secs(10),
};

/// A frame that is nearly right.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![9 => 1u8..=0x0f, 1 => any::<u8>()];
    let flags = prop_oneof![4 => 0u8..16, 1 => any::<u8>()];
    let stream = prop_oneof![8 => 0u32..6, 1 => 35u32..45, 1 => any::<u32>()];
    let number =
        || prop_oneof![4 => Just(0u32), 4 => 0u32..40, 1 => 0u32..70_000, 1 => any::<u32>()];
    let body = prop_oneof![
        2 => Just(Vec::new()),
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(Just(b'a'), 0..4080),
    ];
    let code = prop_oneof![4 => 0u16..3, 1 => any::<u16>()];
    (kind, flags, code, stream, number(), number(), body, any::<bool>()).prop_map(
        |(kind, flags, code, stream, a, b, body, fits)| {
            // Often the lengths fit, so that the frame gets past the first checks.
            let carries = kind == Kind::Message as u8 || kind == Kind::Request as u8;
            let (a, b) = match fits {
                true if kind == Kind::Messages as u8 => (body.len() as u32 / 2, 0),
                true if carries => (0, body.len() as u32 + u32::from(flags & flag::MORE != 0) * 9),
                _ => (a, b),
            };
            let header = Header { kind, flags, code, stream, a, b };
            [&header.to_bytes(), &body[..]].concat()
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    Frame(Vec<u8>),
    Garbage(Vec<u8>),
    /// A frame the honest peer sent, with one byte changed or cut off.
    Mutated(usize, u8, bool),
    Honest,
    /// What the victim's own side does.
    Open(usize, bool),
    Answer(usize),
    Cancel,
    Room(usize),
    Time(u64),
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => frame().prop_map(Step::Frame),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Step::Garbage),
        3 => (any::<usize>(), any::<u8>(), any::<bool>())
            .prop_map(|(at, byte, cut)| Step::Mutated(at, byte, cut)),
        6 => Just(Step::Honest),
        3 => (0usize..9000, any::<bool>()).prop_map(|(len, end)| Step::Open(len, end)),
        2 => (0usize..9000).prop_map(Step::Answer),
        1 => Just(Step::Cancel),
        2 => (0usize..9000).prop_map(Step::Room),
        1 => (0u64..9000).prop_map(Step::Time),
        1 => Just(Step::Read),
    ]
}

fn check(end: &End) {
    let session = &end.session;
    // One frame or bulk message of overshoot, and the window for each stream.
    assert!(session.buffered_bytes() <= LIMITS.max_buffered_bytes);
    assert!(session.streams.len() <= 128);
    assert!(session.control.len() <= 20 + 128 * 4 + session.bulks_owed as usize);
    let listed = session.line.as_ref().map_or(0, |line| line.len());
    assert!(listed <= 128);
    assert!(session.open as usize <= session.streams.len());
    let held: u64 = session.streams.iter().map(|stream| stream.held()).sum();
    assert_eq!(held, session.buffered_bytes());
    let open = session.streams.iter().filter(|stream| stream.state != State::Idle).count();
    assert_eq!(open, session.open as usize);
    for stream in &session.streams {
        if let Some(partial) = &stream.partial {
            let (len, room) = (partial.bytes.len(), partial.bytes.capacity());
            // Memory that lies idle already is had for more than a word, and fits.
            let idle = if len > 64 * 1024 { 2 * partial.total } else { 0 };
            assert!(room <= (2 * len + 64 * 1024).max(idle), "{room} for {len}");
        }
    }
}

fn run(victim_role: Role, steps: Vec<Step>) {
    let mut pair = Pair::with(BULK, LIMITS, LIMITS);
    pair.client.owned = victim_role == Role::Client;
    pair.run();
    for step in steps {
        let id = {
            let end = if victim_role == Role::Client { &pair.client } else { &pair.server };
            let open = end.session.streams.iter().position(|stream| stream.state == State::Open);
            open.map(|slot| end.session.id(slot as u32))
        };
        let frame = match step {
            Step::Frame(frame) | Step::Garbage(frame) => Some(frame),
            Step::Mutated(at, byte, cut) => {
                let honest =
                    if victim_role == Role::Client { &mut pair.server } else { &mut pair.client };
                honest.sink.out.pop_front().map(|mut frame| {
                    let at = at % frame.len();
                    if cut {
                        frame.truncate(at);
                    } else {
                        frame[at] = byte;
                    }
                    frame
                })
            }
            Step::Honest => {
                let honest =
                    if victim_role == Role::Client { &mut pair.server } else { &mut pair.client };
                honest.transmit();
                honest.sink.out.pop_front()
            }
            Step::Open(len, end) => {
                let _ = pair.try_open(&Ask {
                    end,
                    timeout: Some(Duration::from_secs(1)),
                    ..unary(len)
                });
                None
            }
            Step::Answer(len) => {
                if let (Some(id), Role::Server) = (id, victim_role) {
                    match len % 3 {
                        0 => pair.respond(id, len),
                        1 => drop(pair.server_sends(id, len)),
                        _ => pair.finish(id, (len % 5) as u16),
                    }
                }
                None
            }
            Step::Cancel => {
                if let (Some(id), Role::Client) = (id, victim_role) {
                    pair.client.session.cancel(id, CANCELLED);
                }
                None
            }
            Step::Room(bytes) => {
                for end in [&mut pair.client, &mut pair.server] {
                    end.sink.room_bytes = bytes;
                    end.transmit();
                }
                None
            }
            Step::Time(ms) => {
                pair.now += Duration::from_millis(ms);
                for end in [&mut pair.client, &mut pair.server] {
                    while let Ok(Some(_)) = end.session.handle_timeout(pair.now) {}
                }
                None
            }
            Step::Read => {
                if let Some(id) = id {
                    let end = if victim_role == Role::Client {
                        &mut pair.client
                    } else {
                        &mut pair.server
                    };
                    end.session.consumed(id, u64::MAX);
                }
                None
            }
        };
        let victim = if victim_role == Role::Client { &mut pair.client } else { &mut pair.server };
        victim.reads = false;
        if let Some(frame) = frame {
            let released = frame.first() == Some(&(Kind::BulkDone as u8));
            // The link, not the session, knows which buffers are busy.
            if released && victim.sink.bulks.is_empty() {
                continue;
            }
            if released {
                let number = *victim.sink.bulks.keys().next().unwrap();
                let header = Header::new(Kind::BulkDone, 0).to_bytes();
                let frame = [&header[..], &number.to_le_bytes()].concat();
                if victim.receive(pair.now, &frame).is_err() {
                    return;
                }
            } else if let Err(error) = victim.receive(pair.now, &frame) {
                let SessionError::Protocol { error, .. } = error else { panic!("{error}") };
                assert!(error.offset <= frame.len(), "{error}: the frame has {}", frame.len());
                return;
            }
        }
        check(victim);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_server_survives_any_client(steps in prop::collection::vec(step(), 1..60)) {
        run(Role::Server, steps);
    }

    #[test]
    fn a_client_survives_any_server(steps in prop::collection::vec(step(), 1..60)) {
        run(Role::Client, steps);
    }
}
