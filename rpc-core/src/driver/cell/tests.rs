//! What a reader finds when pulls, ends and failures cross.

use std::task::{Context, Poll, Waker};

use super::*;
use crate::driver::body::View;
use crate::session::Payload;
use crate::status::Code;

fn body(byte: u8) -> Body {
    Body::new(Payload::Borrowed(&[byte]))
}

/// The first bytes of what is in the mailbox, up to where the reader waits or the end.
fn read(cell: &Cell) -> (Vec<u8>, Option<Code>) {
    let (mut read, mut fetched) = (Vec::new(), Fetched::default());
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        let first = |view: View<'_>| match view {
            View::Short(bytes) | View::Answer(bytes) => bytes[0],
            View::Shared(bytes) => bytes[0],
            View::Split(parts) => parts.head[0],
        };
        match cell.poll_next(&mut cx, &mut fetched, first) {
            Poll::Ready(Next::Message(first, _)) => read.push(first),
            Poll::Ready(Next::End) => return (read, Some(Code::Ok)),
            Poll::Ready(Next::Failed(status)) => return (read, Some(status.code())),
            Poll::Pending => return (read, None),
        }
    }
}

fn one_pull_of_three() -> Cell {
    let cell = Cell::default();
    cell.put_message(body(1), 1);
    assert!(cell.put_pulling(7, 2, Around::new(&[], &[])));
    cell.put_message(body(3), 3);
    cell
}

#[test]
fn the_servers_status_comes_after_what_is_still_being_pulled() {
    let cell = one_pull_of_three();
    cell.put_status(Status::aborted("at the end"));
    assert_eq!(read(&cell), (vec![1], None));
    assert!(cell.wants_pulls());
    cell.pulled(7, Bytes::from_static(&[2]));
    assert_eq!(read(&cell), (vec![2, 3], Some(Code::Aborted)));
}

#[test]
fn a_failure_on_this_side_leaves_no_gap_in_the_messages() {
    let cell = one_pull_of_three();
    cell.put_end(End::Failed(Status::deadline_exceeded("too late")));
    assert!(!cell.wants_pulls());
    assert_eq!(read(&cell), (vec![1], Some(Code::DeadlineExceeded)));
}

#[test]
fn a_lost_connection_ends_a_call_whose_stream_had_ended_well() {
    let lost = Status::unavailable("gone");
    let cell = one_pull_of_three();
    cell.put_end(End::Ok(MetadataMap::new()));
    cell.lose_pulls(&lost);
    assert_eq!(read(&cell), (vec![1], Some(Code::Unavailable)));
    let whole = Cell::default();
    whole.put_message(body(1), 1);
    whole.put_end(End::Ok(MetadataMap::new()));
    whole.lose_pulls(&lost);
    assert_eq!(read(&whole), (vec![1], Some(Code::Ok)));
}

#[test]
fn what_comes_with_a_message_that_is_being_pulled_is_no_news_before_it() {
    let cell = Cell::default();
    assert!(cell.put_pulling(7, 1, Around::new(&[], &[])));
    cell.put_headers(MetadataMap::new());
    cell.put_end(End::Ok(MetadataMap::new()));
    assert!(!cell.has_news());
    cell.pulled(7, Bytes::from_static(&[1]));
    assert!(cell.has_news());
    let lost = Cell::default();
    assert!(lost.put_pulling(7, 1, Around::new(&[], &[])));
    lost.put_status(Status::internal("as the test asked"));
    assert!(lost.has_news(), "whoever wants one answer need not wait for it");
}
